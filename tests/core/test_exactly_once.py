"""Whatever the order of arrivals, cancels, failures and deaths: one answer for each request, in
the order of arrival where that was asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edged.core.events import (
    Answer,
    Arrived,
    BatchDone,
    BatchFailed,
    CancelAsked,
    ClientGone,
    Command,
    DeviceDown,
    DeviceUp,
    Discard,
    DrainAsked,
    Drained,
    Event,
    GroupCost,
    Part,
    Prepare,
    Prepared,
    PrepareFailed,
    Refuse,
    Request,
    Run,
    Woke,
)
from edged.core.scheduler import Scheduler
from edged.core.settings import SchedulerSettings
from edged.errors import Code
from tests.core.helpers import check

COSTS = tuple(GroupCost(group, (1, 4), (0.5, 1.0)) for group in ("x", "y"))


class Device:
    """What a worker holds, by its rules: it refuses commands that no worker could carry out."""

    def __init__(self) -> None:
        self.preparing: set[int] = set()
        self.unwanted: set[int] = set()  # of these: discarded
        self.inline: set[int] = set()  # which may still turn out to be unusable
        self.staged: dict[int, set[str]] = {}  # models that have not run
        self.running: dict[int, Run] = {}

    def obey(self, command: Command, models: dict[int, set[str]], inline: set[int]) -> None:
        if isinstance(command, Prepare):
            assert command.rid not in self.preparing
            assert command.rid not in self.staged
            if command.rid in inline:
                self.inline.add(command.rid)
                self.staged[command.rid] = set(models[command.rid])
            else:
                self.preparing.add(command.rid)
        elif isinstance(command, Run):
            assert command.members
            for member in command.members:
                assert set(member.models) <= self.staged[member.rid]
                assert not any(
                    set(member.models) & set(other.models)
                    for run in self.running.values()
                    for other in run.members
                    if other.rid == member.rid
                )
            self.running[command.batch] = command
        elif isinstance(command, Discard):
            assert not any(m.rid == command.rid for r in self.running.values() for m in r.members)
            if command.rid in self.preparing:
                assert command.rid not in self.unwanted
                self.unwanted.add(command.rid)
            else:
                del self.staged[command.rid]

    def prepare(self, rid: int, models: set[str]) -> None:
        """Its rows are staged, unless a Discard has crossed with the news."""
        self.preparing.remove(rid)
        if rid not in self.unwanted:
            self.staged[rid] = set(models)
        self.unwanted.discard(rid)

    def finish(self, batch: int) -> None:
        for member in self.end(batch).members:
            self.staged[member.rid] -= set(member.models)
            if not self.staged[member.rid]:
                del self.staged[member.rid]

    def end(self, batch: int) -> Run:
        """A batch ends, so all its members have been prepared or left out."""
        run = self.running.pop(batch)
        self.inline.difference_update(member.rid for member in run.members)
        return run


class Traffic(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        limits = SchedulerSettings(
            queue_rows=8, queue_bytes=20, staging_rows=6, staging_bytes=10, max_batch_rows=4
        )
        self.scheduler = Scheduler(limits)
        self.scheduler.keep_stories()
        self.device: Device | None = None
        self.now = 0.0
        self.models: dict[int, set[str]] = {}
        self.inline: set[int] = set()
        self.answers: Counter[int] = Counter()
        self.sequences: dict[tuple[int, str | None], list[int]] = {}  # without an answer
        self.sequence_of: dict[int, list[int]] = {}
        self.taken_back: set[int] = set()
        self.draining = self.drained = False

    def tell(self, event: Event) -> None:
        for command in self.scheduler.handle(event, self.now):
            if isinstance(command, Answer | Refuse):
                self.answers[command.rid] += 1
                sequence = self.sequence_of.get(command.rid, [command.rid])
                assert sequence[0] == command.rid or command.rid in self.taken_back
                sequence.remove(command.rid)
            elif isinstance(command, Drained):
                assert self.draining
                assert not self.drained
                assert self.answers == Counter(self.models.keys())
                self.drained = True
            else:
                assert self.device is not None, f"{command} to a device that is down"
                self.device.obey(command, self.models, self.inline)
        check(self.scheduler)
        if self.device is not None:
            held = len(self.device.preparing) + len(self.device.staged)
            assert held == 0 or self.scheduler.staged_rows > 0

    @rule(
        client=st.integers(1, 3),
        parts=st.sampled_from([("x",), ("y",), ("x", "y")]),
        rows=st.integers(1, 5),
        level=st.integers(0, 2),
        stream=st.sampled_from([None, None, "s"]),
        ordered=st.booleans(),
        inline=st.booleans(),
        payload_bytes=st.integers(0, 12),
        timeout_s=st.none() | st.floats(0, 3),
    )
    def arrive(self, timeout_s: float | None, parts: Any, rows: int, **fields: Any) -> None:
        rid = len(self.models) + 1
        deadline_s = None if timeout_s is None else self.now + timeout_s
        request = Request(
            rid,
            parts=tuple(Part(group, (f"{group}1", f"{group}2")) for group in parts),
            rows=rows,
            staging_rows=rows * len(parts),
            deadline_s=deadline_s,
            **fields,
        )
        self.models[rid] = {model for part in request.parts for model in part.models}
        if request.inline:
            self.inline.add(rid)
        if request.ordered:
            sequence = self.sequences.setdefault((request.client, request.stream), [])
            sequence.append(rid)
            self.sequence_of[rid] = sequence
        self.tell(Arrived(request))

    @rule(ordered=st.booleans(), seconds=st.floats(0.1, 2))
    def rush(self, ordered: bool, seconds: float) -> None:
        """More requests than lanes take, and time enough that the next batch is ordered ahead."""
        plain: dict[str, Any] = {"client": 1, "level": 0, "stream": None, "payload_bytes": 0}
        for _ in range(4):
            self.arrive(None, ("x",), 2, ordered=ordered, inline=True, **plain)
        self.time_passes(seconds)

    @rule(seconds=st.floats(0.1, 2))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Woke())

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        rid = data.draw(st.integers(1, len(self.models) + 1))
        self.taken_back.add(rid)
        self.tell(CancelAsked(rid))
        assert rid > len(self.models) or self.answers[rid] == 1

    @rule(client=st.integers(1, 3))
    def lose_client(self, client: int) -> None:
        self.tell(ClientGone(client))

    @initialize(lanes=st.integers(1, 2), depth=st.integers(1, 3))
    def device_is_up(self, lanes: int, depth: int) -> None:
        self.device_comes_up(lanes, depth)

    @precondition(lambda self: self.device is None)
    @rule(lanes=st.integers(1, 2), depth=st.integers(1, 3))
    def device_comes_up(self, lanes: int = 1, depth: int = 1) -> None:
        """One that has use for several batches at once has one lane."""
        self.device = Device()
        self.tell(DeviceUp(COSTS, lanes=lanes, depth=depth if lanes == 1 else 1))

    @precondition(lambda self: self.device is not None)
    @rule()
    def device_dies(self) -> None:
        self.device = None
        self.tell(DeviceDown("killed"))

    @precondition(lambda self: self.device and self.device.preparing)
    @rule(data=st.data(), good=st.booleans())
    def prepared(self, data: st.DataObject, good: bool) -> None:
        rid = data.draw(st.sampled_from(sorted(self.device.preparing)))
        if good:
            self.device.prepare(rid, self.models[rid])
            self.tell(Prepared(rid, 0.0))
        else:
            self.device.preparing.remove(rid)
            self.device.unwanted.discard(rid)
            self.tell(PrepareFailed(rid, Code.INVALID_ARG, "not an image"))

    @precondition(lambda self: self.device and self.device.inline)
    @rule(data=st.data(), good=st.booleans())
    def inline_one_prepared(self, data: st.DataObject, good: bool) -> None:
        rid = data.draw(st.sampled_from(sorted(self.device.inline)))
        self.device.inline.remove(rid)
        if not good:
            self.tell(PrepareFailed(rid, Code.INVALID_ARG, "not a tensor of this model"))

    @precondition(lambda self: self.device and self.device.running)
    @rule(data=st.data(), good=st.booleans())
    def batch_ends(self, data: st.DataObject, good: bool) -> None:
        batch = data.draw(st.sampled_from(sorted(self.device.running)))
        if good:
            self.device.finish(batch)
            self.now += 0.1  # a hand-over takes long enough to order ahead
            self.tell(BatchDone(batch, 0.01, 0.0))
        else:
            self.device.end(batch)
            self.tell(BatchFailed(batch, Code.INTERNAL, "boom"))

    @precondition(lambda self: len(self.models) > 10)  # or it would end most runs early
    @rule()
    def drain(self) -> None:
        self.draining = True
        self.tell(DrainAsked())

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        twice = [rid for rid, count in self.answers.items() if count != 1]
        assert not twice, self.stories(twice)

    def stories(self, rids: list[int]) -> str:
        """What became of these requests."""
        return "\n\n".join(f"request {rid}\n{self.scheduler.story(rid)}" for rid in rids)

    def teardown(self) -> None:
        """Let everything finish: then each request has its one answer and nothing is held."""
        if self.device is None:
            self.device_comes_up()
        while self.device.preparing or self.device.running:
            for rid in sorted(self.device.preparing):
                self.device.prepare(rid, self.models[rid])
                self.tell(Prepared(rid, 0.0))
            for batch in sorted(self.device.running):
                self.device.finish(batch)
                self.tell(BatchDone(batch, 0.01, 0.0))
        assert self.answers == Counter(self.models.keys()), self.stories(
            [rid for rid in self.models if self.answers[rid] != 1]
        )
        assert not self.device.staged
        assert self.scheduler.staged_rows == self.scheduler.waiting_requests == 0
        assert self.drained == self.draining


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=200, stateful_step_count=40)

"""Whatever is asked, loaded, lost and taken away: the account is right after every event, nothing
in use or pinned is evicted, each request and each ask has one answer, and nothing starves."""

from __future__ import annotations

import math
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
    BlockCost,
    BlockLoaded,
    BlockLoadFailed,
    BlockUnloaded,
    CancelAsked,
    Command,
    DeviceDown,
    DeviceUp,
    Discard,
    DrainAsked,
    Drained,
    Event,
    HeldBlock,
    Library,
    Load,
    LoadAsked,
    MemoryMeasured,
    Model,
    Overhead,
    Part,
    PinAsked,
    Prepare,
    Prepared,
    Refuse,
    Request,
    Run,
    Settled,
    Unload,
    UnloadAsked,
    Woke,
)
from edged.core.residency.blocks import Where
from edged.core.scheduler import Scheduler
from edged.core.settings import MemorySettings, SchedulerSettings
from edged.errors import Code
from tests.core.helpers import check

SIZES = {"trunk": 40, "other": 30, "a1": 10, "a2": 15, "b1": 20, "c1": 25, "d1": 60, "e1": 5}
PATHS = {
    "a": ("trunk", "a1", "a2"),
    "b": ("trunk", "b1"),
    "c": ("other", "c1"),
    "d": ("d1",),
    "e": ("trunk", "other", "e1"),
    "f": ("trunk", "other", "a1", "d1"),  # never fits the smaller budgets
}
# What of these blocks is in others as well, by names; 7 bytes are the least that a block may have.
PIECES = {
    "a1": {"t": 4, "u": 2},
    "b1": {"t": 4, "v": 3},
    "c1": {"t": 4, "u": 2, "v": 3, "w": 5},
    "d1": {"w": 5, "own": 9},
}
OVERHEAD = Overhead(fixed_bytes=20, staging_bytes=6, row_bytes=2)
BUDGETS = (120, 130, 150, 180, 400)
NAMES = st.sampled_from(sorted(PATHS))


def library(names: set[str]) -> Library:
    blocks = sorted({block for name in names for block in PATHS[name]})
    return Library(
        tuple(Model(name, PATHS[name]) for name in sorted(names)),
        tuple(BlockCost(block, SIZES[block], SIZES[block] / 100) for block in blocks),
    )


class Worker:
    """A device by its rules: it refuses commands that no device could carry out."""

    def __init__(self, resident: dict[str, int]) -> None:
        self.resident = resident
        self.pieces: dict[str, dict[str, int]] = {}  # of the blocks that were loaded
        self.loading: list[str] = []
        self.unloading: list[str] = []
        self.preparing: list[int] = []
        self.unwanted: set[int] = set()  # of these: discarded
        self.staged: dict[int, set[str]] = {}  # models that have not run
        self.running: dict[int, Run] = {}

    def obey(self, command: Command, models: dict[int, set[str]]) -> None:
        if isinstance(command, Load):
            assert command.block not in self.resident
            assert command.block not in self.loading
            self.loading.append(command.block)
        elif isinstance(command, Unload):
            assert command.block in self.resident
            held = self.preparing + list(self.staged)
            used = {block for rid in held for model in models[rid] for block in PATHS[model]}
            assert command.block not in used, "evicted while in use"
            del self.resident[command.block]
            self.unloading.append(command.block)
        elif isinstance(command, Prepare):
            self.preparing.append(command.rid)
        elif isinstance(command, Run):
            for member in command.members:
                assert set(member.models) <= self.staged[member.rid]
                for model in member.models:
                    assert set(PATHS[model]) <= self.resident.keys(), "run without its blocks"
            self.running[command.batch] = command
        elif isinstance(command, Discard):
            if command.rid in self.preparing:
                self.unwanted.add(command.rid)
            else:
                del self.staged[command.rid]

    @property
    def held_bytes(self) -> int:
        """Of all blocks that are there, pieces of one name once."""
        pieces = {block: self.pieces.get(block, {}) for block in self.resident}
        own = sum(size - sum(pieces[block].values()) for block, size in self.resident.items())
        return own + sum({name: n for of in pieces.values() for name, n in of.items()}.values())

    def finish(self, batch: int) -> None:
        for member in self.running.pop(batch).members:
            self.staged[member.rid] -= set(member.models)
            if not self.staged[member.rid]:
                del self.staged[member.rid]


class Loading(RuleBasedStateMachine):
    policy = "partial"

    def __init__(self) -> None:
        super().__init__()
        limits = SchedulerSettings(queue_rows=12, staging_rows=6, max_batch_rows=4)
        self.scheduler = Scheduler(limits, MemorySettings(policy=self.policy, max_wait_s=2.0))
        self.memory = self.scheduler._memory
        self.worker: Worker | None = None
        self.now = 0.0
        self.models: dict[int, set[str]] = {}
        self.answers: Counter[int] = Counter()
        self.settled: Counter[int] = Counter()
        self.asks = 0
        self.library: set[str] = set()
        self.drained = False

    def tell(self, event: Event) -> None:
        for command in self.scheduler.handle(event, self.now):
            if isinstance(command, Answer | Refuse):
                self.answers[command.rid] += 1
            elif isinstance(command, Settled):
                self.settled[command.ask] += 1
            elif isinstance(command, Drained):
                self.drained = True
            else:
                assert self.worker is not None, f"{command} to a device that is down"
                if isinstance(command, Unload):
                    assert command.block not in self.kept(), "evicted while pinned"
                self.worker.obey(command, self.models)

    def kept(self) -> set[str]:
        """Blocks of the pinned models that are on the device or fit there beside one another."""
        memory = self.memory
        kept = memory.wanted.kept_blocks(memory.ledger.most_capacity_bytes)
        complete = {
            block
            for model in memory.wanted.pinned & memory.wanted.served
            for block in PATHS[model]
            if not memory.residency.models[model].missing
        }
        return {block.id for block in kept} | complete

    # --- what happens ---------------------------------------------------------------------------

    @initialize(names=st.sets(NAMES, min_size=1), budget=st.sampled_from(BUDGETS))
    def begin(self, names: set[str], budget: int) -> None:
        self.library = names
        self.tell(library(names))
        self.tell(MemoryMeasured(budget))

    @rule(
        models=st.lists(NAMES, min_size=1, max_size=2, unique=True),
        client=st.integers(1, 3),
        level=st.integers(0, 2),
        rows=st.integers(1, 4),
        timeout_s=st.none() | st.floats(0, 5),
    )
    def arrive(self, models: list[str], rows: int, timeout_s: float | None, **fields: Any) -> None:
        rid = len(self.models) + 1
        groups: dict[str, list[str]] = {}
        for model in models:
            groups.setdefault(PATHS[model][0], []).append(model)
        parts = tuple(Part(group, tuple(names)) for group, names in groups.items())
        deadline_s = None if timeout_s is None else self.now + timeout_s
        self.models[rid] = set(models)
        request = Request(
            rid, parts=parts, rows=rows, staging_rows=rows, deadline_s=deadline_s, **fields
        )
        self.tell(Arrived(request))

    @rule(seconds=st.floats(0.1, 3))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Woke())

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.tell(CancelAsked(data.draw(st.integers(1, len(self.models) + 1))))

    @rule(budget=st.sampled_from(BUDGETS), used=st.sampled_from((0, 60, 100, 140)))
    def memory_changes(self, budget: int, used: int) -> None:
        self.tell(MemoryMeasured(budget, used))
        assert self.memory.ledger.total_bytes >= used

    @rule(names=st.sets(NAMES, min_size=1))
    def library_changes(self, names: set[str]) -> None:
        self.library = names
        self.tell(library(names))

    @rule(model=NAMES, kind=st.sampled_from((LoadAsked, UnloadAsked, PinAsked)), pin=st.booleans())
    def ask(self, model: str, kind: Any, pin: bool) -> None:
        self.asks += 1
        more = (pin,) if kind is PinAsked else ()
        self.tell(kind(self.asks, model, *more))

    @precondition(lambda self: self.worker is None)
    @rule(names=st.sets(NAMES))
    def device_comes_up(self, names: set[str]) -> None:
        resident = {block: SIZES[block] for name in sorted(names) for block in PATHS[name]}
        self.worker = Worker(resident)
        held = tuple(HeldBlock(block, size) for block, size in resident.items())
        self.tell(DeviceUp(lanes=2, resident=held, overhead=OVERHEAD))

    @precondition(lambda self: self.worker is not None)
    @rule()
    def device_dies(self) -> None:
        self.worker = None
        self.tell(DeviceDown("killed"))
        assert self.memory.ledger.blocks_bytes == 0

    @precondition(lambda self: self.worker and self.worker.loading)
    @rule(more=st.integers(-3, 3), fails=st.booleans())
    def loader_reports(self, more: int, fails: bool) -> None:
        assert self.worker is not None
        block = self.worker.loading.pop(0)
        if fails:
            held_bytes = self.memory.ledger.blocks_bytes
            reserved_bytes = self.memory.ledger.blocks[block] - sum(PIECES.get(block, {}).values())
            self.tell(BlockLoadFailed(block, Code.INTERNAL, f"{block}: a flipped bit"))
            assert self.memory.ledger.blocks_bytes <= held_bytes - reserved_bytes + sum(
                SIZES[b] + 3 for b in self.worker.loading
            )
        else:
            size = self.worker.resident[block] = SIZES[block] + more
            pieces = self.worker.pieces[block] = PIECES.get(block, {})
            self.tell(BlockLoaded(block, size, 0.1, pieces))

    @precondition(lambda self: self.worker and self.worker.unloading)
    @rule()
    def block_is_unloaded(self) -> None:
        assert self.worker is not None
        self.tell(BlockUnloaded(self.worker.unloading.pop(0)))

    @precondition(lambda self: self.worker and self.worker.preparing)
    @rule()
    def prepared(self) -> None:
        assert self.worker is not None
        rid = self.worker.preparing.pop(0)
        if rid not in self.worker.unwanted:  # else a Discard has crossed with the news
            self.worker.staged[rid] = set(self.models[rid])
        self.tell(Prepared(rid, 0.0))

    @precondition(lambda self: self.worker and self.worker.running)
    @rule(good=st.booleans())
    def batch_ends(self, good: bool) -> None:
        assert self.worker is not None
        batch = min(self.worker.running)
        if good:
            self.worker.finish(batch)
            self.tell(BatchDone(batch, 0.01, 0.0))
        else:
            del self.worker.running[batch]
            self.tell(BatchFailed(batch, Code.INTERNAL, "boom"))

    # --- what always holds ----------------------------------------------------------------------

    @invariant()
    def counts_are_right(self) -> None:
        check(self.scheduler)
        check_memory(self.scheduler)

    @invariant()
    def the_account_is_that_of_the_device(self) -> None:
        ledger = self.memory.ledger
        account = ledger.account()
        parts = (account.fixed, account.staging, account.workspace, account.unexplained)
        assert account.total == sum(parts) + ledger.blocks_bytes
        if self.worker is not None:
            assert self.worker.held_bytes <= ledger.blocks_bytes
            if not self.worker.loading and not self.worker.unloading:
                assert self.worker.held_bytes == ledger.blocks_bytes
            on_it = self.worker.resident.keys() | set(self.worker.loading + self.worker.unloading)
            assert ledger.blocks.keys() == on_it

    @invariant()
    def the_budget_holds_or_is_being_restored(self) -> None:
        """Above the budget everything goes that may: what is not leaving is in use by nobody's
        choice but a pin, or on its way in since before."""
        ledger, residency = self.memory.ledger, self.memory.residency
        if self.worker is None or ledger.room_bytes + residency.going_bytes >= 0:
            return
        stays = {b.id for b in residency.blocks if b.where is Where.RESIDENT}
        assert stays <= self.kept()

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        assert all(count == 1 for count in self.answers.values())
        assert all(count == 1 for count in self.settled.values())

    # --- the end --------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Let everything finish: whatever can be served is, the rest is refused, nothing hangs."""
        if self.worker is None:
            self.device_comes_up(set())
        assert self.worker is not None
        for _ in range(500):
            worker = self.worker
            at_work = worker.preparing or worker.running  # on requests that were given up, too
            settled = self.settled.total() == self.asks
            if settled and not at_work and not self.scheduler.open_requests:
                break
            if worker.unloading:
                self.block_is_unloaded()
            elif worker.loading:
                self.loader_reports(0, False)
            elif worker.preparing:
                self.prepared()
            elif worker.running:
                self.batch_ends(True)
            else:
                at = self.scheduler.wakeup_at()
                assert at < math.inf, "requests wait and nothing will ever happen"
                self.now = max(self.now, at)
                self.tell(Woke())
            check_memory(self.scheduler)
        assert self.answers == Counter(self.models.keys())
        assert self.settled == Counter(range(1, self.asks + 1))
        assert not self.worker.staged
        self.tell(DrainAsked())
        assert self.drained


class LeastRecentlyUsed(Loading):
    policy = "lru"


class Greedy(Loading):
    policy = "greedy"


def check_memory(scheduler: Scheduler) -> None:
    """Every count of the memory's equals what it counts."""
    memory, jobs = scheduler._memory, list(scheduler._jobs.by_rid.values())
    residency, waiting = memory.residency, scheduler._jobs.waiting
    parked = 0
    for need in residency.needs:
        path = residency.path(need)
        mine = [job for job in jobs if job.need is need]
        queued = {job.request.rid for job in mine if job.state.name == "WAITING"}
        assert need.missing == sum(block.where is not Where.RESIDENT for block in path)
        assert need.open == len(mine)
        is_calibrated = need is scheduler._calibration._running
        assert need.in_use == len(mine) - len(queued) + is_calibrated
        assert need.arrived_s.keys() == queued
        assert len(need.deadlines_s) == len(queued) == sum(need.levels.values())
        assert need.deadlines_s == sorted(need.deadlines_s)
        if need.missing:
            parked += need.rows
        for block in path:
            assert need in block.needs
    assert waiting.parked_rows == parked
    for block in residency.blocks:
        assert (block in residency.going) == (block.where in (Where.LEAVING, Where.UNLOADING))
        held = memory.ledger.blocks.get(block.id)
        assert (held is not None) == (block.where is not Where.ABSENT)
        assert held is None or held == block.bytes
    if not memory.tight:
        assert not any(residency.models[name].missing for name in memory.wanted.served)


limits = settings(max_examples=100, stateful_step_count=40)
TestPartial = Loading.TestCase
TestPartial.settings = limits
TestLeastRecentlyUsed = LeastRecentlyUsed.TestCase
TestLeastRecentlyUsed.settings = limits
TestGreedy = Greedy.TestCase
TestGreedy.settings = limits


def leaving(state: Loading) -> set[str]:
    return {block.id for block in state.memory.residency.going}


def test_what_is_pinned_again_on_its_way_out_stays_and_others_leave_in_its_place() -> None:
    """These properties found it once, in thousands of examples."""
    state = LeastRecentlyUsed()
    state.begin({"d"}, 400)
    state.ask("d", PinAsked, True)
    state.library_changes({"a", "f"})
    state.arrive(["f"], 1, None, client=1, level=0)
    state.device_comes_up({"f"})
    state.ask("a", LoadAsked, False)
    state.memory_changes(120, 0)
    assert leaving(state) == {"a1", "d1"}
    state.library_changes({"d"})
    assert leaving(state) == {"a1", "trunk", "other"}
    state.the_budget_holds_or_is_being_restored()


def test_a_pinned_model_that_does_not_fit_is_not_in_the_way_of_one_that_does() -> None:
    """`b` shares its trunk with what is on the device and does not fit beside `c`: the trunk has
    to leave for `c` all the same, or `c` would be waited for without end."""
    state = Loading()
    state.begin({"c"}, 120)
    state.ask("c", PinAsked, True)
    state.library_changes({"a", "b", "c"})
    state.ask("b", PinAsked, True)
    state.device_comes_up({"a"})
    state.teardown()
    assert not state.memory.residency.models["c"].missing

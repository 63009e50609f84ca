"""One device: when it is told of its next batch, and how many rows and lanes that batch gets.

A device that is told of its next batch when the last one has ended stands still in between. So a
batch may be ordered ahead, as late as possible, because what comes later cannot join it: before a
lane should be free, by the time of the hand-over and a margin for errors, but never by more than a
part of a batch. The device takes up batches in the order of their Run.

Some devices copy the rows of the next batch while they run one: they have use for `depth` batches
at once. A full one, which nothing could join, goes at once; a smaller one waits as it would anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from math import ceil, inf, isfinite

from msgspec import Struct
from msgspec.structs import replace

from edged.core.batches.policies import BatchPolicy, GroupView, Rate, Rule
from edged.core.costs import CostModel, interpolate
from edged.core.events import (
    BatchDone,
    BatchFailed,
    Command,
    DeviceDown,
    DeviceUp,
    Member,
    Request,
    Run,
)
from edged.core.requests.job import State
from edged.core.requests.jobs import Jobs
from edged.core.requests.staged import StagedGroup, StagedPart
from edged.core.residency.memory import DeviceMemory
from edged.core.settings import SchedulerSettings
from edged.errors import Code

SMOOTHING = 0.1  # weight of the newest batch in what is learnt of hand-overs and errors
ERRORS_AHEAD = 2.0  # a batch may end sooner or later than expected by this many usual errors
TIMER_S = 1e-3  # a driver's timer may be this late
LEAST_HANDOVER_S = 0.1e-3  # a shorter hand-over is not worth a timer
# Never order more than this part of a batch ahead: a batch that is ordered early has fewer rows.
MOST_AHEAD = 0.25


class RunningBatch(Struct, frozen=True):
    """A batch that was ordered. One that was ordered ahead begins when a lane should be free."""

    run: Run
    parts: tuple[StagedPart, ...]
    started_s: float
    expected_s: float  # time that it should take; infinity where nothing is known
    ahead: bool  # whether it was ordered before a lane was free
    is_held_up: bool = False  # whether a run of the calibration may have gone before it


class DeviceLanes:
    """Owns the batches that were ordered and have not ended, and how long hand-overs take."""

    def __init__(self, lanes: int, depth: int = 1) -> None:
        self.number = lanes
        self.depth = depth  # batches that are of use at once
        self.most_batches = max(2 * lanes, depth)  # that are ordered and have not ended
        self.by_number: dict[int, RunningBatch] = {}  # lanes take them up in this order
        self.batches = self.by_number.values()
        self.rows = 0  # rows of all of them
        self.handover_s = 0.0  # time from an order to the report of its end, less the work
        self.spare_s = 0.0  # margin: a batch may end this much sooner or later than expected
        self._error_s = 0.0  # usual difference of expected and real times
        self.has_free_lane = True
        self.has_free_flight = True  # whether one more batch is of use, though it may wait
        # When a lane should be free. Minus infinity: one is; infinity: nothing is known.
        self.free_s = -inf
        self.order_at = inf  # when to order the next batch ahead; infinity: not before one ends
        self.is_calibrating = False  # whether a run of the calibration has not ended

    def order(
        self, run: Run, parts: list[StagedPart], expected_s: float | None, now: float
    ) -> None:
        """A batch is ordered."""
        self.by_number[run.batch] = RunningBatch(
            run,
            tuple(parts),
            started_s=max(now, self.free_s),
            expected_s=inf if expected_s is None else expected_s,
            ahead=not self.has_free_lane,
            is_held_up=self.is_calibrating,
        )
        self.rows += run.rows
        self._look_ahead()

    def end(self, number: int, busy_s: float | None, now: float) -> RunningBatch:
        """A batch has ended after `busy_s` of work, or failed (None); the next one begins."""
        waits = len(self.by_number) > self.number
        ended = self.by_number.pop(number)
        self.rows -= ended.run.rows
        if waits:
            batch = next(islice(self.batches, self.number - 1, None))
            self.by_number[batch.run.batch] = replace(batch, started_s=now)
        if busy_s is not None and not ended.is_held_up:
            self._learn(ended, busy_s, now - ended.started_s)
        self._look_ahead()
        return ended

    def _look_ahead(self) -> None:
        """See when a lane should be free, and when the next batch is to be ordered."""
        lanes, batches = self.number, self.batches
        self.has_free_lane = len(batches) < lanes
        self.has_free_flight = len(batches) < self.depth
        self.free_s, self.order_at = -inf, inf
        if self.has_free_lane:
            return
        self.free_s = sorted([b.started_s + b.expected_s for b in batches])[-lanes]
        if len(batches) < self.most_batches and self.handover_s >= LEAST_HANDOVER_S:
            shortest_s = min([b.expected_s for b in batches])
            lead_s = self.handover_s + self.spare_s + TIMER_S
            self.order_at = self.free_s - min(lead_s, MOST_AHEAD * shortest_s)

    def _learn(self, ended: RunningBatch, busy_s: float, took_s: float) -> None:
        if not ended.ahead:
            self.handover_s += SMOOTHING * (max(0.0, took_s - busy_s) - self.handover_s)
        if isfinite(ended.expected_s) and (self.number == 1 or not ended.run.wide):
            error_s = abs(took_s - ended.expected_s)
            self._error_s += SMOOTHING * (error_s - self._error_s)
            self.spare_s = ERRORS_AHEAD * self._error_s


class Device:
    """Owns what runs on one device, what it costs, and what the policy remembers."""

    def __init__(
        self,
        number: int,
        settings: SchedulerSettings,
        policy: BatchPolicy,
        jobs: Jobs,
        memory: DeviceMemory,
    ) -> None:
        self.number = number
        self.is_up = False
        self.lanes = DeviceLanes(1)
        self.costs = CostModel()
        self.order_at = inf  # when to order the next batch, if it is ready and all lanes run
        self.next_beat_s = inf  # when to ask a policy again that follows a rate and waits
        self.follows_rate = policy.rate is not None
        self._settings = settings
        self._policy = policy
        self._jobs = jobs
        self._memory = memory
        self._rules: dict[str, Rule] = {}  # that of each group
        self._rate: Rate | None = None  # None: nothing has arrived, or the policy follows none
        self._preparers: int | None = None  # requests that are prepared side by side, if known
        self._row_head_s = 0.0  # time of a row beyond what was measured for its batch, smoothed
        self._last_batch = 0

    def up(self, event: DeviceUp) -> None:
        """The worker is up and has no requests."""
        self._check_number(event.device)
        lanes = min(event.lanes, self._settings.lanes or event.lanes)
        self.is_up = True
        self.lanes = DeviceLanes(lanes, event.depth)
        self.costs = CostModel(event.costs, lanes=lanes, sizes=event.sizes)
        self._preparers = event.preparers

    def down(self, event: DeviceDown) -> set[int]:
        """The worker is gone, and with it everything that it ran: the requests in batches that had
        begun. Batches that were ordered ahead had not."""
        self._check_number(event.device)
        begun = islice(self.lanes.batches, max(self.lanes.number, self.lanes.depth))
        rids = {part.job.request.rid for batch in begun for part in batch.parts}
        self.is_up = False
        self.lanes = DeviceLanes(self.lanes.number, self.lanes.depth)
        self.order_at = self.next_beat_s = inf
        return rids

    def _check_number(self, device: int) -> None:
        if device != self.number:
            raise ValueError(f"there is no device {device}: this is a bug of the driver")

    # --- what policies that follow a rate are told -----------------------------------------------

    def arrived(self, request: Request, now: float) -> None:
        """Count an accepted request. Only called where the policy follows the rate of arrivals."""
        if self._rate is None and self._policy.rate is not None:
            self._rate = self._policy.rate(now)
        if self._rate is not None:
            self._rate.add(request.rows * len(request.parts), now)

    def _others_rows_s(self) -> float:
        """Rows a second that the slowest of the other stages carries, as far as is measured."""
        prepare_s, preparers = self._jobs.row_prepare_s, self._preparers
        prepared = preparers / prepare_s if prepare_s and preparers else inf
        return min(prepared, 1.0 / self._row_head_s if self._row_head_s else inf)

    def _learn_heads(self, event: BatchDone, run: Run) -> None:
        """See what a batch took beyond the time that was measured for its size."""
        cost = self.costs.measured.get(run.group)
        if cost is not None:
            known_s = interpolate(cost.rows, cost.time_s, self.costs.padded_rows(run.rows))
            newest_s = max(0.0, event.prepare_s + event.infer_s - known_s) / run.rows
            self._row_head_s += SMOOTHING * (newest_s - self._row_head_s)

    # --- when, and how many rows -----------------------------------------------------------------

    def start_batches(self, now: float, out: list[Command]) -> None:
        """Order batches while a lane is free, or should be by the time that they are there."""
        self.next_beat_s = self.order_at = inf
        lanes = self.lanes
        while (is_due := lanes.has_free_lane or lanes.order_at <= now) or lanes.has_free_flight:
            if not self._start_one(now, out, only_full=not is_due):
                if is_due:
                    return  # nothing is staged, or the policy waits for more
                break
        if lanes.order_at < inf and self._jobs.staged.by_urgency():
            self.order_at = lanes.order_at

    def _start_one(self, now: float, out: list[Command], *, only_full: bool) -> bool:
        """Order the most urgent batch; False if there is none, or not yet enough rows for it."""
        is_ahead = not self.lanes.has_free_lane
        for name, group in self._jobs.staged.by_urgency():
            if not is_ahead and self.lanes.batches and self._is_taken(name):
                continue
            limit_rows = self._limit_rows(name)
            if only_full and group.rows < limit_rows:
                return False
            if is_ahead and self.lanes.depth > 1 and self._must_fly_alone(group):
                return False
            rows = self._policy_rows(name, group, limit_rows, now)
            if not rows and not is_ahead and not self._more_may_come():
                rows = min(group.rows, limit_rows)
            if rows:
                if self.costs.sizes:
                    rows = self.costs.unpadded_rows(name, rows)
                parts = self._take(name, group, rows, now, out)
                if parts:
                    self._run(name, parts, now, out)
                return True
        return False

    def _policy_rows(self, name: str, group: StagedGroup, limit_rows: int, now: float) -> int:
        """How many rows the policy would run now; 0 waits."""
        rule = self._rules.get(name)
        if rule is None:
            rule = self._rules[name] = self._policy.rule()
        cost = self.costs.measured.get(name)
        if self._rate is None:
            return rule(GroupView(group.rows, limit_rows, cost=cost))
        rate_rows_s, waited_s = self._rate.rows_per_s(now), now - group.oldest_s()
        others_rows_s = self._others_rows_s()
        rows = rule(GroupView(group.rows, limit_rows, rate_rows_s, cost, waited_s, others_rows_s))
        if not rows:
            self.next_beat_s = self._rate.next_beat_s(now)
        return rows

    def _limit_rows(self, group: str) -> int:
        """The largest batch that memory allows and that is of use."""
        most_rows = self._memory.ledger.batch_rows
        if not self._settings.useful_batches:
            return most_rows
        return self.costs.useful_rows(group, most_rows, self.lanes.handover_s)

    def _more_may_come(self) -> bool:
        """Whether it can be of use to wait for more staged rows than there are."""
        jobs = self._jobs
        if jobs.is_draining or self._memory.residency.going:
            return False
        if jobs.preparing:
            return True
        if jobs.waiting.rows > jobs.waiting.parked_rows:
            head = jobs.waiting.peek(jobs.staging.is_fair)
            return head is not None and jobs.fits(head.request)
        return jobs.staging.rows < jobs.staging.capacity_rows

    def _take(
        self, name: str, group: StagedGroup, rows: int, now: float, out: list[Command]
    ) -> list[StagedPart]:
        """The parts of a group that go first, `rows` rows at most. What could not be answered in
        time any more is refused, and others take its place."""
        parts: list[StagedPart] = []
        taken = group.take(rows)
        takes_s = self.costs.batch_s(name, sum([part.rows for part in taken])) or 0.0
        # No more spare time than the batch takes: where nothing can be met, nothing is learnt.
        free_s = self.lanes.free_s  # infinity: of what runs nothing is known, and nothing refused
        begins_s = now if free_s == inf else max(now, free_s)
        done_s = begins_s + takes_s + min(self.lanes.spare_s, takes_s)
        while taken:
            late_rows = 0
            for part in taken:
                deadline_s = part.job.request.deadline_s
                if deadline_s is None or done_s <= deadline_s:
                    parts.append(part)
                else:
                    late_rows += part.rows
                    text = "the time-out cannot be met any more"
                    self._jobs.refuse(part.job, Code.DEADLINE_EXCEEDED, text, now, out)
            taken = group.take_beside(parts, late_rows) if late_rows else []
        return parts

    def _run(self, group: str, parts: list[StagedPart], now: float, out: list[Command]) -> None:
        """Order a batch of these parts."""
        rows = sum([part.rows for part in parts])
        takes_s = self.costs.batch_s(group, rows)
        self._last_batch += 1
        members = tuple([Member(part.job.request.rid, part.part.models) for part in parts])
        lanes = self.lanes
        wide = lanes.number == 1 or (not lanes.batches and self._pays_wide(group, parts))
        run = Run(self._last_batch, group, members, rows, wide, self.number)
        for part in parts:
            part.job.running_parts += 1
            if part.job.state is State.STAGED:
                self._jobs.move(part.job, State.RUNNING, now)
        lanes.order(run, parts, takes_s, now)
        out.append(run)

    def _must_fly_alone(self, group: StagedGroup) -> bool:
        """Whether this batch or one in flight is of a suspect: were the device to die again, nobody
        could tell which of two it died of."""
        running = [part.job for batch in self.lanes.batches for part in batch.parts]
        return any(job.solo for job in (group.head().job, *running))

    def _is_taken(self, group: str) -> bool:
        """Whether a batch has the whole device, and the next should better have it as well."""
        return any(
            batch.run.wide and self._pays_wide(group, batch.parts) for batch in self.lanes.batches
        )

    def _pays_wide(self, group: str, parts: Sequence[StagedPart]) -> bool:
        """Whether batches run sooner one after the other on all lanes than side by side.

        They do while the number of batches that are still to run is below the speed-up of all lanes
        over one. A batch that is alone does in any case: a warm-up on a busy machine may have
        measured too small a speed-up.
        """
        jobs = self._jobs
        own = {id(part.job): part.job.request.staging_rows for part in parts}
        others = jobs.staging.rows + jobs.waiting.rows - jobs.waiting.parked_rows
        others -= sum(own.values())
        batches = 1 + ceil(others / self._limit_rows(group))
        return batches == 1 or batches < self.costs.speed_up(group)

    def done(self, event: BatchDone, now: float, out: list[Command]) -> None:
        """A batch has run."""
        busy_s = event.prepare_s + event.infer_s + event.output_s
        batch = self.lanes.end(event.batch, busy_s, now)
        run, parts = batch.run, batch.parts
        # Use wall time, which includes the hand-over. A driver may report start and end at the
        # same instant, so never use less than the device's own time.
        took_s = max(busy_s, now - batch.started_s)
        is_unusable = all([part.job.unusable for part in parts])
        if took_s and not is_unusable and not batch.is_held_up:
            self.costs.observe(run.group, run.rows, took_s, wide=run.wide)
            if self.follows_rate:
                self._learn_heads(event, run)
        for part in parts:
            self._jobs.part_done(part.job, event, run.rows, now, out)

    def failed(self, event: BatchFailed, now: float, out: list[Command]) -> None:
        """A batch has not run. Its members run again one by one; one that was alone is refused."""
        parts = self.lanes.end(event.batch, None, now).parts
        for part in reversed(parts):
            self._jobs.part_failed(part, event, now, out, alone=len(parts) == 1)

    def validate(self) -> None:
        """Check what runs against the jobs. Raises AssertionError."""
        batches = self.lanes.batches
        assert len(batches) <= self.lanes.most_batches, "more batches than are of use"
        assert self.lanes.rows == sum(batch.run.rows for batch in batches), "rows that run"
        running = [part.job for batch in batches for part in batch.parts]
        for job in self._jobs.by_rid.values():
            count = sum(other is job for other in running)
            assert job.running_parts == count, f"batches of request {job.request.rid}"

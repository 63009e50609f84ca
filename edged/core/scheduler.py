"""The scheduler: what to prepare, what to run together, whom to answer.

`handle(event, now)` returns commands; `wakeup_at()` says when to call with `Woke` if nothing else
happens. The same object runs under the daemon's clock and under the simulator's. It knows ids,
rows and times, never payloads, and it is told the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, inf
from typing import Any

from edged.core.batches.running import Running
from edged.core.batches.sizes import BatchSizes
from edged.core.calibration import Calibration
from edged.core.costs import CostModel
from edged.core.events import (
    Answer,
    Arrived,
    BatchDone,
    BatchFailed,
    Calibrated,
    CancelAsked,
    ClientGone,
    Command,
    DeviceDown,
    DeviceUp,
    Discard,
    DrainAsked,
    Drained,
    Event,
    Library,
    Member,
    PayloadRoom,
    Prepare,
    Prepared,
    PrepareFailed,
    Refuse,
    Request,
    Run,
    Woke,
)
from edged.core.parking import TO_ASKS, TO_MEMORY, Supply
from edged.core.requests.admission import Forecast
from edged.core.requests.answer_order import AnswerOrder
from edged.core.requests.deadlines import Deadlines
from edged.core.requests.job import Job, Stage
from edged.core.requests.staged import ReadyGroup, ReadyPart, ReadyQueues
from edged.core.requests.staging_shares import Staging
from edged.core.requests.waiting import WaitingQueue
from edged.core.residency.memory import Verdict
from edged.core.residency.report import MemoryState, report
from edged.core.settings import Memory, Settings
from edged.errors import Code

AGAIN_S = 1.0  # where nothing says how long something will be wanting
RESTART_S = 1.0  # after which a daemon that shuts down to start again may be there


class Scheduler:
    """Owns every accepted request until its answer. Not thread-safe; one driver calls it."""

    def __init__(self, settings: Settings, memory_settings: Memory | None = None) -> None:
        self.settings = settings
        self._sizes = BatchSizes(settings)
        self._jobs: dict[int, Job] = {}
        self._waiting = WaitingQueue(
            settings.queue_rows,
            settings.queue_bytes,
            settings.levels,
            when_full=settings.when_full,
            streams=settings.streams,
        )
        self._ready = ReadyQueues(settings.levels)
        self._order = AnswerOrder()
        self._running = Running(1)
        self._deadlines = Deadlines(self._is_settled)
        self._costs = CostModel()
        supply = Supply(memory_settings or Memory(), settings.max_batch_rows, self._waiting)
        self._supply = supply
        self._memory = supply.memory
        self._calibration = Calibration(supply.memory)
        self._forecast = Forecast(settings, self._waiting, supply.memory)
        self._staging = Staging(settings)
        self._preparing = 0  # requests that the device has not said Prepared of
        self._open = 0  # requests that are owed an answer
        self._last_batch = 0
        self._order_at = inf  # of the next batch, if all lanes run and it is ready
        self._device_up = False
        self._lanes = 1
        self._draining = False
        self._drained = False

    # --- the two calls ------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event and return what to do, in order. `now` never goes backwards."""
        commands: list[Command] = []
        _HANDLERS[type(event)](self, event, now, commands)
        self._expire(now, commands)
        if self._device_up:
            self._keep_busy(now, commands)
            if self._memory.tight:
                commands += self._supply.decide(self._costs, self._backlog_s() or 0.0, now)
                self._keep_busy(now, commands)  # what was to leave may be needed again
        if self._supply.is_asked:
            commands += self._supply.settle(now)  # the last request of a model may have ended
        if self._device_up and not self._draining:
            commands += self._calibration.next(now, idle=not self._jobs)
        commands = self._order.pass_on(commands, now)
        if self._draining and not self._open and not self._drained:
            self._drained = True
            commands.append(Drained())
        return commands

    def wakeup_at(self) -> float:
        """When to call again with `Woke`, at the latest; infinity: when something happens."""
        deadline_s = self._deadlines.next_s()
        ours_s = min(deadline_s, self._sizes.next_beat_s, self._memory.wakeup_s, self._order_at)
        return min(ours_s, self._calibration.wakeup_s)

    # --- what the driver may look at ------------------------------------------------------------

    @property
    def waiting_rows(self) -> int:
        return self._waiting.rows

    @property
    def waiting_requests(self) -> int:
        return sum(1 for _ in self._waiting)

    @property
    def staged_rows(self) -> int:
        return self._staging.rows

    @property
    def open_requests(self) -> int:
        return self._open + self._order.held

    def memory(self) -> MemoryState:
        """What is on the device, and who holds how much of its budget."""
        return report(self._memory)

    def failing_models(self) -> dict[str, str]:
        """Models that could not be loaded when it was tried last, and why."""
        return self._memory.failing()

    @property
    def running_batches(self) -> int:
        return len(self._running)

    def expected_s(self, batch: int) -> float | None:
        """That a batch takes which was ordered and has not ended, where anything is known."""
        return self._running.expected_s(batch)

    @property
    def settled_until_s(self) -> float:
        """Up to then the device is busy with batches that it has, whatever arrives."""
        return self._running.settled_until_s

    # --- requests -------------------------------------------------------------------------------

    def _on_arrived(self, event: Arrived, now: float, commands: list[Command]) -> None:
        request = event.request
        if request.rid in self._jobs:
            raise ValueError(f"request {request.rid} arrived twice: this is a bug of the driver")
        if request.ordered:
            self._order.enter(request)
        if self._draining:
            text = "the daemon is shutting down"
            commands.append(Refuse(request.rid, Code.UNAVAILABLE, text, RESTART_S))
            return
        if (verdict := self._forecast.too_large(request)) is not None:
            commands.append(Refuse(request.rid, *verdict))
            return
        need = self._memory.enter(request, now)
        if isinstance(need, Verdict):
            commands.append(Refuse(request.rid, *need))
            return
        late_s = self._forecast.late_by(
            request,
            need,
            self._costs,
            staging=self._staging,
            running=self._running,
            now=now,
        )
        if late_s > 0.0:
            self._memory.leave(need)
            text = "the time-out cannot be met with what is waiting ahead"
            commands.append(Refuse(request.rid, Code.DEADLINE_EXCEEDED, text, late_s))
            return
        job = Job(request, now, need, open_parts=len(request.parts))
        if self._may_start_at_once(job):
            self._accept(job, now)
            self._prepare(job, now, commands)
            return
        admission = self._waiting.push(job)
        for older in admission.superseded:
            self._forget(
                older, Code.CANCELLED, "superseded by a newer frame of its stream", commands
            )
        for victim in admission.pushed_out:
            text = "the queue is full and this client holds most of it; slow down"
            self._forget(victim, Code.UNAVAILABLE, text, commands, self._backlog_s() or AGAIN_S)
        if not admission.admitted:
            self._memory.leave(need)
            waiting = f"{self._waiting.rows} rows and {self._waiting.bytes} bytes wait"
            text = f"the queue is full ({waiting}); try again later"
            commands.append(
                Refuse(request.rid, Code.UNAVAILABLE, text, self._backlog_s() or AGAIN_S)
            )
            return
        self._accept(job, now)

    def _accept(self, job: Job, now: float) -> None:
        request = job.request
        self._jobs[request.rid] = job
        self._open += 1
        self._sizes.arrived(request, now)
        if request.deadline_s is not None:
            self._deadlines.add(request.deadline_s, request.rid)

    def _on_payload_room(self, event: PayloadRoom, now: float, commands: list[Command]) -> None:
        self._waiting.capacity_bytes = min(self.settings.queue_bytes, event.bytes)
        self._staging.bound_bytes(min(self.settings.staging_bytes, event.bytes))

    def _on_cancel_asked(self, event: CancelAsked, now: float, commands: list[Command]) -> None:
        job = self._jobs.get(event.rid)
        text = "cancelled by the client"
        self._order.excuse(event.rid)
        if job is not None and not job.answered:
            self._refuse(job, Code.CANCELLED, text, now, commands)
        elif self._order.holds(event.rid):
            commands.append(Refuse(event.rid, Code.CANCELLED, text))

    def _on_client_gone(self, event: ClientGone, now: float, commands: list[Command]) -> None:
        for job in [j for j in self._jobs.values() if j.request.client == event.client]:
            if not job.answered:
                self._refuse(job, Code.CANCELLED, "the client is gone", now, commands)

    def _on_prepared(self, event: Prepared, now: float, commands: list[Command]) -> None:
        job = self._jobs[event.rid]
        self._preparing -= 1
        job.prepare_s = event.prepare_s
        self._stage(job, now)
        if job.answered:  # and discarded: the two have crossed
            self._release(job, now, commands, discard=False)

    def _stage(self, job: Job, now: float) -> None:
        """The job's rows are in staging memory, or will be before the device does anything else."""
        job.stage = Stage.STAGED
        if not job.answered:
            for part in job.request.parts:
                self._ready.put(job, part, now)

    def _on_prepare_failed(self, event: PrepareFailed, now: float, commands: list[Command]) -> None:
        job = self._jobs.get(event.rid)
        if job is None or job.stage is Stage.STAGED:  # a light one, which counted as staged
            if job is not None and not job.answered:
                self._refuse(job, event.code, event.message, now, commands, _again_s(event.code))
            return
        self._preparing -= 1
        self._release(job, now, commands, discard=False)
        if not job.answered:
            self._open -= 1
            again_s = _again_s(event.code)
            commands.append(Refuse(event.rid, event.code, event.message, again_s))

    # --- batches --------------------------------------------------------------------------------

    def _on_batch_done(self, event: BatchDone, now: float, commands: list[Command]) -> None:
        busy_s = event.prepare_s + event.infer_s + event.output_s
        batch = self._running.end(event.batch, busy_s, now)
        run = batch.run
        if event.infer_s:  # else all members were left out
            # With what the daemon takes around it; a driver may hand over a batch's beginning and
            # its end at one time.
            took_s = max(busy_s, now - batch.started_s)
            self._costs.observe(run.group, run.rows, took_s, wide=run.wide)
        for ready in batch.parts:
            job = ready.job
            job.running_parts -= 1
            job.open_parts -= 1
            job.prepare_s += event.prepare_s
            job.infer_s += event.infer_s
            job.output_s += event.output_s
            job.batch_rows = max(job.batch_rows, batch.run.rows)
            if job.answered:
                if not job.running_parts:
                    self._release(job, now, commands, discard=job.open_parts > 0)
            elif not job.open_parts:
                self._release(job, now, commands, discard=False)
                self._open -= 1
                commands.append(self._answer(job, now))

    def _on_batch_failed(self, event: BatchFailed, now: float, commands: list[Command]) -> None:
        """Run the members again one by one, so that only the culprit is refused."""
        batch = self._running.end(event.batch, None, now)
        alone = len(batch.parts) == 1
        for ready in reversed(batch.parts):
            job = ready.job
            job.running_parts -= 1
            if job.answered:
                if not job.running_parts:
                    self._release(job, now, commands, discard=True)
            elif alone:
                self._refuse(job, event.code, event.message, now, commands, _again_s(event.code))
            else:
                job.solo = True
                self._ready.put_back(ready)

    def _answer(self, job: Job, now: float) -> Answer:
        busy_s = job.prepare_s + job.infer_s + job.output_s
        return Answer(
            job.request.rid,
            queue_s=max(0.0, now - job.arrived_s - busy_s),
            prepare_s=job.prepare_s,
            infer_s=job.infer_s,
            output_s=job.output_s,
            batch_rows=job.batch_rows,
        )

    # --- the device -----------------------------------------------------------------------------

    def _on_device_up(self, event: DeviceUp, now: float, commands: list[Command]) -> None:
        self._device_up = True
        self._lanes = min(event.lanes, self.settings.lanes or event.lanes)
        self._running = Running(self._lanes)
        self._costs = CostModel(event.costs, lanes=self._lanes)
        self._costs.learn(self._calibration.groups)
        self._calibration.on_device()
        self._on_supply(event, now, commands)

    def _on_library(self, event: Library, now: float, commands: list[Command]) -> None:
        self._on_supply(event, now, commands)
        self._calibration.on_library(event)
        self._costs.learn(self._calibration.groups)

    def _on_calibrated(self, event: Calibrated, now: float, commands: list[Command]) -> None:
        self._costs.know(event.costs)
        self._calibration.on_calibrated(event)
        self._on_supply(event, now, commands)

    def _on_device_down(self, event: DeviceDown, now: float, commands: list[Command]) -> None:
        """What the device held waits again; a request that it died with twice is refused."""
        self._device_up = False
        self._calibration.on_device()
        self._running = Running(self._lanes)
        self._order_at = self._sizes.next_beat_s = inf
        self._ready.clear()
        self._staging.clear()
        self._preparing = 0
        for job in reversed([j for j in self._jobs.values() if j.stage is not Stage.WAITING]):
            if job.answered:
                self._drop(job)
                continue
            if event.suspects is None:
                is_suspect = job.stage is Stage.PREPARING or job.running_parts > 0
            else:
                is_suspect = job.request.rid in event.suspects
            if is_suspect:
                job.attempts += 1
                job.solo = True
            job.restart()
            self._waiting.put_back(job)
            if job.attempts >= self.settings.max_attempts:
                text = f"the device worker ended {job.attempts} times with it: {event.reason}"
                self._refuse(job, Code.INTERNAL, text, now, commands)
        self._on_supply(event, now, commands)

    def _on_supply(self, event: Any, now: float, commands: list[Command]) -> None:
        for refusal in self._supply.handle(event, now, self._jobs.values(), commands):
            job = self._jobs[refusal.rid]
            self._refuse(job, refusal.code, refusal.message, now, commands, refusal.retry_after_s)

    def _on_drain_asked(self, event: DrainAsked, now: float, commands: list[Command]) -> None:
        self._draining = True
        commands += self._supply.drain()

    def _on_woke(self, event: Woke, now: float, commands: list[Command]) -> None:
        pass  # every event is followed by a look at the deadlines

    # --- after every event ------------------------------------------------------------------------

    def _expire(self, now: float, commands: list[Command]) -> None:
        while (rid := self._deadlines.pop(now)) is not None:
            text = "the request's time-out has passed"
            self._refuse(self._jobs[rid], Code.DEADLINE_EXCEEDED, text, now, commands)

    def _keep_busy(self, now: float, commands: list[Command]) -> None:
        while True:
            self._fill_staging(now, commands)
            staged_rows = self._staging.rows
            self._start_batches(now, commands)
            if self._staging.rows == staged_rows:
                return  # else some were refused, too late to run, and others can be prepared

    def _fill_staging(self, now: float, commands: list[Command]) -> None:
        if self._staging.is_full:
            return
        may_go = self._staging.is_fair
        while (job := self._waiting.peek(may_go)) is not None and self._fits(job.request):
            self._waiting.take(job)
            self._prepare(job, now, commands)

    def _prepare(self, job: Job, now: float, commands: list[Command]) -> None:
        request = job.request
        self._staging.enter(request, now)
        job.stage = Stage.PREPARING
        if job.need is not None:
            self._memory.start(job.need, now)
        commands.append(Prepare(request.rid))
        if request.light:
            self._stage(job, now)
        else:
            self._preparing += 1

    def _may_start_at_once(self, job: Job) -> bool:
        """Whether an arrival would be the next to be prepared anyway: it need not queue."""
        if not self._device_up or self._waiting.rows or not self._waiting.has_room(job.request):
            return False
        if job.need is not None and job.need.missing:
            return False
        if not self._staging.rows:
            return True  # nothing is there that it would have to fit beside
        return self._fits(job.request) and self._staging.is_fair(job.request)

    def _fits(self, request: Request) -> bool:
        """Whether it can be prepared beside what is."""
        if self._sizes.exclusive and self._staging.rows:
            return False
        return self._staging.has_room(request)

    def _start_batches(self, now: float, commands: list[Command]) -> None:
        self._sizes.next_beat_s = inf
        self._order_at = inf
        while self._running.order_at <= now:
            if not self._start_one(now, commands):
                return  # nothing is ready, or the policy waits for more
        if self._running.order_at < inf and self._ready.by_urgency():
            self._order_at = self._running.order_at

    def _start_one(self, now: float, commands: list[Command]) -> bool:
        """Order the most urgent batch; False if there is none."""
        ahead = not self._running.has_free_lane
        for name, group in self._ready.by_urgency():
            if not ahead and self._is_taken(name):
                continue
            limit = self._limit(name)
            rows = self._sizes.rows(name, group, self._costs, now, limit=limit)
            if not rows and not ahead and not self._more_may_come():
                rows = min(group.rows, limit)
            if rows:
                parts = self._take(name, group, rows, now, commands)
                if parts:
                    self._run(name, parts, now, commands)
                return True
        return False

    def _more_may_come(self) -> bool:
        """Whether it can be of use to wait for more staged rows than there are."""
        if self._draining or self._memory.residency.going:
            return False
        if self._preparing:
            return True
        if self._waiting.rows > self._waiting.parked_rows:
            head = self._waiting.peek(self._staging.is_fair)
            return head is not None and self._fits(head.request)
        return not self._staging.is_full

    def _limit(self, group: str) -> int:
        most_rows, around_s = self._memory.ledger.batch_rows, self._running.handover_s
        return self._sizes.limit_rows(group, self._costs, most_rows, around_s)

    def _take(
        self, name: str, group: ReadyGroup, rows: int, now: float, commands: list[Command]
    ) -> list[ReadyPart]:
        """What goes first of a group, up to so many rows. What could not be answered in time any
        more is refused, and others take its place."""
        parts: list[ReadyPart] = []
        taken = group.take(rows)
        takes_s = self._costs.batch_s(name, sum([ready.rows for ready in taken]))
        done_s = max(now, self._running.free_s) + (takes_s or 0.0) + self._running.spare_s
        while taken:
            late_rows = 0
            for ready in taken:
                deadline_s = ready.job.request.deadline_s
                if deadline_s is None or done_s <= deadline_s:
                    parts.append(ready)
                else:
                    late_rows += ready.rows
                    text = "the time-out cannot be met any more"
                    self._refuse(ready.job, Code.DEADLINE_EXCEEDED, text, now, commands)
            taken = group.take_beside(parts, late_rows) if late_rows else []
        return parts

    def _run(self, group: str, parts: list[ReadyPart], now: float, commands: list[Command]) -> None:
        rows = sum([ready.rows for ready in parts])
        takes_s = self._costs.batch_s(group, rows)
        self._last_batch += 1
        members = tuple([Member(r.job.request.rid, r.part.models) for r in parts])
        wide = self._lanes == 1 or (not self._running and self._pays_wide(group, parts))
        run = Run(self._last_batch, group, members, rows, wide)
        for ready in parts:
            ready.job.running_parts += 1
        self._running.order(run, parts, takes_s, now)
        commands.append(run)

    def _is_taken(self, group: str) -> bool:
        """Whether a batch has the whole device, and the next would better have it as well."""
        for batch in self._running.batches:
            if batch.run.wide and self._pays_wide(group, batch.parts):
                return True
        return False

    def _pays_wide(self, group: str, parts: Sequence[ReadyPart]) -> bool:
        """Whether batches run sooner one after the other on all lanes than side by side.

        They do while there are fewer of them than all lanes are faster than one. One that is alone
        does in any case: a warm-up on a busy machine may have measured too little.
        """
        jobs = {id(ready.job): ready.job for ready in parts}.values()
        others = self._staging.rows + self._waiting.rows - self._waiting.parked_rows
        others -= sum(job.request.staging_rows for job in jobs)
        batches = 1 + ceil(others / self._limit(group))
        return batches == 1 or batches < self._costs.speed_up(group)

    # --- endings ------------------------------------------------------------------------------

    def _refuse(
        self,
        job: Job,
        code: Code,
        message: str,
        now: float,
        commands: list[Command],
        retry_after_s: float | None = None,
    ) -> None:
        """Answer with an error, wherever the request is, and let go of what it holds."""
        if job.stage is Stage.WAITING:
            self._waiting.remove(job)
            self._forget(job, code, message, commands, retry_after_s)
            return
        job.answered = True
        self._open -= 1
        commands.append(Refuse(job.request.rid, code, message, retry_after_s))
        if job.stage is Stage.PREPARING:
            commands.append(Discard(job.request.rid))  # its rows are free when that is answered
        elif job.stage is Stage.STAGED:
            self._ready.remove(job)
            if not job.running_parts:
                self._release(job, now, commands, discard=True)

    def _forget(
        self,
        job: Job,
        code: Code,
        message: str,
        commands: list[Command],
        retry_after_s: float | None = None,
    ) -> None:
        """Refuse a request that waited and has left the queue."""
        self._drop(job)
        self._open -= 1
        commands.append(Refuse(job.request.rid, code, message, retry_after_s))

    def _release(self, job: Job, now: float, commands: list[Command], *, discard: bool) -> None:
        """The device's part of a request is over; `discard` tells the device so."""
        self._drop(job)
        if job.need is not None:
            job.need.in_use -= 1
        self._staging.leave(job.request, now)
        if discard:
            commands.append(Discard(job.request.rid))

    def _drop(self, job: Job) -> None:
        del self._jobs[job.request.rid]
        self._memory.leave(job.need)

    def _is_settled(self, rid: int) -> bool:
        job = self._jobs.get(rid)
        return job is None or job.answered

    def _backlog_s(self) -> float | None:
        return self._forecast.backlog_s(self._costs, self._staging.rows)


def _again_s(code: Code) -> float | None:
    """When to try again what the device could not do."""
    return AGAIN_S if code is Code.UNAVAILABLE else None


_HANDLERS: dict[type, Callable[[Scheduler, Any, float, list[Command]], None]] = {
    **dict.fromkeys((*TO_MEMORY, *TO_ASKS), Scheduler._on_supply),
    Library: Scheduler._on_library,
    Calibrated: Scheduler._on_calibrated,
    Arrived: Scheduler._on_arrived,
    Prepared: Scheduler._on_prepared,
    PrepareFailed: Scheduler._on_prepare_failed,
    BatchDone: Scheduler._on_batch_done,
    BatchFailed: Scheduler._on_batch_failed,
    CancelAsked: Scheduler._on_cancel_asked,
    ClientGone: Scheduler._on_client_gone,
    DeviceUp: Scheduler._on_device_up,
    DeviceDown: Scheduler._on_device_down,
    DrainAsked: Scheduler._on_drain_asked,
    PayloadRoom: Scheduler._on_payload_room,
    Woke: Scheduler._on_woke,
}

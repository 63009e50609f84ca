"""The scheduler: what to prepare, what to run together, whom to answer.

`handle(event, now)` returns commands; `wakeup_at()` says when to call with `Woke` if nothing else
happens. The same object runs under the daemon's clock and under the simulator's. It knows ids,
rows and times, never payloads, and it is told the time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from edged.core.arrivals import ArrivalRate
from edged.core.asks import Asks
from edged.core.batching import Rule, View, policy
from edged.core.cost import CostModel
from edged.core.demand import Need
from edged.core.events import (
    Answer,
    Arrived,
    BatchDone,
    BatchFailed,
    BlockLoaded,
    BlockLoadFailed,
    BlockUnloaded,
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
    LoadAsked,
    Member,
    MemoryMeasured,
    PinAsked,
    Prepare,
    Prepared,
    PrepareFailed,
    Refuse,
    Request,
    Run,
    Settled,
    UnloadAsked,
    Woke,
)
from edged.core.job import Job, Stage
from edged.core.memory import DeviceMemory, Verdict
from edged.core.order import AnswerOrder
from edged.core.ready import ReadyGroup, ReadyPart, ReadyQueues
from edged.core.settings import Memory, Settings
from edged.core.waiting import WaitingQueue
from edged.errors import Code

RESTART_S = 1.0  # after which a daemon that shuts down to start again may be there


@dataclass(frozen=True, slots=True)
class _Batch:
    run: Run
    parts: tuple[ReadyPart, ...]
    started_s: float


class Scheduler:
    """Owns every accepted request until its answer. Not thread-safe; one driver calls it."""

    def __init__(self, settings: Settings, memory_settings: Memory | None = None) -> None:
        self.settings = settings
        self._policy = policy(settings.policy, settings.smooth)
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
        self._running: dict[int, _Batch] = {}
        self._deadlines: list[tuple[float, int]] = []  # heap; answered requests stay till due
        self._costs = CostModel()
        self._memory = DeviceMemory(memory_settings or Memory(), settings.max_batch_rows)
        self._asks = Asks(self._memory)
        self._rules: dict[str, Rule] = {}
        self._rates: dict[str, ArrivalRate] = {}
        self._next_beat_s: float | None = None  # while a policy that follows the rate waits
        self._staged_rows = 0
        self._open = 0  # requests that are owed an answer
        self._last_batch = 0
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
                self._decide(now, commands)
        commands = self._order.pass_on(commands, now)
        if self._draining and not self._open and not self._drained:
            self._drained = True
            commands.append(Drained())
        return commands

    def wakeup_at(self) -> float | None:
        """When to call again with `Woke`, at the latest."""
        while self._deadlines and self._is_settled(self._deadlines[0][1]):
            heapq.heappop(self._deadlines)
        deadline_s = self._deadlines[0][0] if self._deadlines else None
        others = (self._next_beat_s, self._memory.wakeup_s)
        times = [at for at in (deadline_s, *others) if at is not None]
        return min(times, default=None)

    # --- what the driver may look at ------------------------------------------------------------

    @property
    def waiting_rows(self) -> int:
        return self._waiting.rows

    @property
    def waiting_requests(self) -> int:
        return sum(1 for _ in self._waiting)

    @property
    def staged_rows(self) -> int:
        return self._staged_rows

    @property
    def open_requests(self) -> int:
        return self._open + self._order.held

    @property
    def running_batches(self) -> int:
        return len(self._running)

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
        if (reason := self._too_large(request)) is not None:
            commands.append(Refuse(request.rid, Code.RESOURCE_EXHAUSTED, reason))
            return
        need = self._memory.enter(request, now)
        if isinstance(need, Verdict):
            commands.append(Refuse(request.rid, *need))
            return
        late_s = self._late_by(request, need, now)
        if late_s > 0.0:
            self._memory.leave(need)
            text = "the time-out cannot be met with what is waiting ahead"
            commands.append(Refuse(request.rid, Code.DEADLINE_EXCEEDED, text, late_s))
            return
        job = Job(request, now, need, open_parts=len(request.parts))
        admission = self._waiting.push(job)
        for older in admission.superseded:
            self._forget(
                older, Code.CANCELLED, "superseded by a newer frame of its stream", commands
            )
        for victim in admission.pushed_out:
            text = "the queue is full and this client holds most of it; slow down"
            self._forget(victim, Code.UNAVAILABLE, text, commands, self._backlog_s())
        if not admission.admitted:
            self._memory.leave(need)
            waiting = f"{self._waiting.rows} rows and {self._waiting.bytes} bytes wait"
            text = f"the queue is full ({waiting}); try again later"
            commands.append(
                Refuse(request.rid, Code.UNAVAILABLE, text, retry_after_s=self._backlog_s())
            )
            return
        self._jobs[request.rid] = job
        self._open += 1
        if self._policy.follows_rate:
            for part in request.parts:
                self._rate(part.group, now).add(request.rows, now)
        if request.deadline_s is not None:
            heapq.heappush(self._deadlines, (request.deadline_s, request.rid))

    def _on_cancel_asked(self, event: CancelAsked, now: float, commands: list[Command]) -> None:
        job = self._jobs.get(event.rid)
        text = "cancelled by the client"
        self._order.excuse(event.rid)
        if job is not None and not job.answered:
            self._refuse(job, Code.CANCELLED, text, commands)
        elif self._order.holds(event.rid):
            commands.append(Refuse(event.rid, Code.CANCELLED, text))

    def _on_client_gone(self, event: ClientGone, now: float, commands: list[Command]) -> None:
        for job in [j for j in self._jobs.values() if j.request.client == event.client]:
            if not job.answered:
                self._refuse(job, Code.CANCELLED, "the client is gone", commands)

    def _on_prepared(self, event: Prepared, now: float, commands: list[Command]) -> None:
        job = self._jobs[event.rid]
        job.prepare_s = event.prepare_s
        self._stage(job, now)
        if job.answered:
            self._release(job, commands, discard=True)

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
                self._refuse(job, event.code, event.message, commands)
            return
        self._release(job, commands, discard=False)
        if not job.answered:
            self._open -= 1
            commands.append(Refuse(event.rid, event.code, event.message))

    # --- batches --------------------------------------------------------------------------------

    def _on_batch_done(self, event: BatchDone, now: float, commands: list[Command]) -> None:
        batch = self._running.pop(event.batch)
        run = batch.run
        if event.infer_s:  # else all members were left out
            # With what the daemon takes around it; a driver may hand over a batch's beginning and
            # its end at one time.
            took_s = max(event.infer_s + event.output_s, now - batch.started_s)
            self._costs.observe(run.group, run.rows, took_s, wide=run.wide)
        for ready in batch.parts:
            job = ready.job
            job.running_parts -= 1
            job.open_parts -= 1
            job.infer_s += event.infer_s
            job.output_s += event.output_s
            job.batch_rows = max(job.batch_rows, batch.run.rows)
            if job.answered:
                if not job.running_parts:
                    self._release(job, commands, discard=job.open_parts > 0)
            elif not job.open_parts:
                self._release(job, commands, discard=False)
                self._open -= 1
                commands.append(self._answer(job, now))

    def _on_batch_failed(self, event: BatchFailed, now: float, commands: list[Command]) -> None:
        """Run the members again one by one, so that only the culprit is refused."""
        batch = self._running.pop(event.batch)
        alone = len(batch.parts) == 1
        for ready in reversed(batch.parts):
            job = ready.job
            job.running_parts -= 1
            if job.answered:
                if not job.running_parts:
                    self._release(job, commands, discard=True)
            elif alone:
                self._refuse(job, event.code, event.message, commands)
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
        self._memory.on_device_up(event)
        self._lanes = min(event.lanes, self.settings.lanes or event.lanes)
        self._costs = CostModel(event.costs, lanes=self._lanes)
        self._follow(now, commands)

    def _on_device_down(self, event: DeviceDown, now: float, commands: list[Command]) -> None:
        """What the device held waits again; a request that it died with twice is refused."""
        self._device_up = False
        self._memory.on_device_down()
        self._running.clear()
        self._ready.clear()
        self._staged_rows = 0
        for job in reversed([j for j in self._jobs.values() if j.stage is not Stage.WAITING]):
            if job.answered:
                self._drop(job)
                continue
            if job.stage is Stage.PREPARING or job.running_parts:
                job.attempts += 1
                job.solo = True
            job.restart()
            self._waiting.put_back(job)
            if job.attempts >= self.settings.max_attempts:
                text = f"the device worker ended {job.attempts} times with it: {event.reason}"
                self._refuse(job, Code.INTERNAL, text, commands)
        self._follow(now, commands)

    def _on_memory(self, event: Any, now: float, commands: list[Command]) -> None:
        _TO_MEMORY[type(event)](self._memory, event, now)
        self._follow(now, commands)

    def _on_ask(self, event: Any, now: float, commands: list[Command]) -> None:
        commands += _TO_ASKS[type(event)](self._asks, event)
        if self._draining:
            commands += self._asks.give_up(Code.UNAVAILABLE, "the daemon is shutting down")
        self._follow(now, commands)

    def _on_drain_asked(self, event: DrainAsked, now: float, commands: list[Command]) -> None:
        self._draining = True
        commands += self._asks.give_up(Code.UNAVAILABLE, "the daemon is shutting down")

    def _on_woke(self, event: Woke, now: float, commands: list[Command]) -> None:
        pass  # every event is followed by a look at the deadlines

    # --- what is on the device --------------------------------------------------------------------

    def _follow(self, now: float, commands: list[Command]) -> None:
        """Requests wait for, or run with, what is on the device now, or can never be."""
        was_tight = self._memory.tight
        self._memory.refresh()
        if self._memory.tight and not was_tight:
            self._give_needs()
        self._move_shelves()
        for need, verdict in self._memory.doomed(now):
            for rid in list(need.arrived_s):
                self._refuse(self._jobs[rid], verdict.code, verdict.message, commands)
        most_rows = self._memory.ledger.batch_rows
        if most_rows < self.settings.max_batch_rows:
            for job in [j for j in self._waiting if j.request.rows > most_rows]:
                text = f"memory has become short: at most {most_rows} rows fit in one request"
                self._refuse(job, Code.RESOURCE_EXHAUSTED, text, commands)
        commands += self._asks.settle(now)

    def _give_needs(self) -> None:
        """From here on it counts what each request needs; before, everything was there for good."""
        for job in self._jobs.values():
            if job.need is None:
                need = self._memory.need(job.request)
                need.open += 1
                if job.stage is Stage.WAITING:
                    self._waiting.shelve(job, need)
                else:
                    job.need = need
                    need.in_use += 1

    def _move_shelves(self) -> None:
        moved, self._memory.residency.moved = self._memory.residency.moved, []
        for need in moved:
            if need.missing:
                self._waiting.park(need)
            else:
                self._waiting.unpark(need)

    def _decide(self, now: float, commands: list[Command]) -> None:
        commands += self._memory.decide(self._costs, self._backlog_s() or 0.0, now)
        self._move_shelves()
        commands += self._asks.settle(now)

    # --- after every event ------------------------------------------------------------------------

    def _expire(self, now: float, commands: list[Command]) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, rid = heapq.heappop(self._deadlines)
            if not self._is_settled(rid):
                text = "the request's time-out has passed"
                self._refuse(self._jobs[rid], Code.DEADLINE_EXCEEDED, text, commands)

    def _keep_busy(self, now: float, commands: list[Command]) -> None:
        while True:
            self._fill_staging(now, commands)
            staged_rows = self._staged_rows
            self._start_batches(now, commands)
            if self._staged_rows == staged_rows:
                return  # else some were refused, too late to run, and others can be prepared

    def _fill_staging(self, now: float, commands: list[Command]) -> None:
        while (job := self._waiting.peek()) is not None:
            if self._staged_rows + job.request.staging_rows > self.settings.staging_rows:
                return
            if self._policy.exclusive and self._staged_rows:
                return
            self._waiting.pop()
            self._staged_rows += job.request.staging_rows
            job.stage = Stage.PREPARING
            if job.need is not None:
                self._memory.start(job.need, now)
            commands.append(Prepare(job.request.rid))
            if job.request.light:
                self._stage(job, now)

    def _start_batches(self, now: float, commands: list[Command]) -> None:
        self._next_beat_s = None
        while len(self._running) < self._lanes:
            for name, group in self._ready.by_urgency():
                if self._is_taken(name):
                    continue
                rows = self._rows_now(name, group, now)
                if rows:
                    self._run(name, group.take(rows), now, commands)
                    break
                if self._policy.follows_rate:
                    self._next_beat_s = self._rate(name, now).next_beat_s(now)
            else:
                return

    def _limit_rows(self, group: str) -> int:
        limit = self._memory.ledger.batch_rows
        return self._costs.useful_rows(group, limit) if self.settings.useful_batches else limit

    def _rows_now(self, name: str, group: ReadyGroup, now: float) -> int:
        limit = self._limit_rows(name)
        hurries = self._draining or self._memory.residency.going
        if hurries or self._staged_rows >= self.settings.staging_rows:
            return min(group.rows, limit)  # nothing more can come that would be worth a wait
        rate = self._rate(name, now).rows_per_s(now) if self._policy.follows_rate else 0.0
        rule = self._rules.get(name)
        if rule is None:
            rule = self._rules[name] = self._policy.rule()
        waited_s = now - group.oldest_s()
        return rule(View(group.rows, limit, rate, self._costs.measured(name), waited_s))

    def _rate(self, group: str, now: float) -> ArrivalRate:
        rate = self._rates.get(group)
        if rate is None:
            assumed = self.settings.smooth
            rate = ArrivalRate(window_s=assumed.window_s, beat_s=assumed.beat_s, since=now)
            self._rates[group] = rate
        return rate

    def _run(self, group: str, taken: list[ReadyPart], now: float, commands: list[Command]) -> None:
        """Order a batch of what was taken, less what could not be answered in time any more."""
        done_s = now + (self._costs.batch_s(group, sum(ready.rows for ready in taken)) or 0.0)
        parts = []
        for ready in taken:
            deadline_s = ready.job.request.deadline_s
            if deadline_s is None or done_s <= deadline_s:
                parts.append(ready)
            else:
                text = "the time-out cannot be met any more"
                self._refuse(ready.job, Code.DEADLINE_EXCEEDED, text, commands)
        if not parts:
            return
        self._last_batch += 1
        members = tuple(Member(r.job.request.rid, r.part.models) for r in parts)
        wide = self._lanes == 1 or (not self._running and self._pays_wide(group, parts))
        run = Run(self._last_batch, group, members, sum(r.rows for r in parts), wide)
        for ready in parts:
            ready.job.running_parts += 1
        self._running[run.batch] = _Batch(run, tuple(parts), now)
        commands.append(run)

    def _is_taken(self, group: str) -> bool:
        """Whether a batch has the whole device, and the next would better have it as well."""
        running = [batch for batch in self._running.values() if batch.run.wide]
        return any(self._pays_wide(group, batch.parts) for batch in running)

    def _pays_wide(self, group: str, parts: Sequence[ReadyPart]) -> bool:
        """Whether batches run sooner one after the other on all lanes than side by side.

        They do while there are fewer of them than all lanes are faster than one.
        """
        jobs = {id(ready.job): ready.job for ready in parts}.values()
        others = self._staged_rows + self._waiting.rows - self._waiting.parked_rows
        others -= sum(job.request.staging_rows for job in jobs)
        batches = 1 + ceil(others / self._limit_rows(group))
        return batches < self._costs.speed_up(group)

    # --- endings ------------------------------------------------------------------------------

    def _refuse(self, job: Job, code: Code, message: str, commands: list[Command]) -> None:
        """Answer with an error, wherever the request is, and let go of what it holds."""
        if job.stage is Stage.WAITING:
            self._waiting.remove(job)
            self._forget(job, code, message, commands)
            return
        job.answered = True
        self._open -= 1
        commands.append(Refuse(job.request.rid, code, message))
        if job.stage is Stage.STAGED:
            self._ready.remove(job)
            if not job.running_parts:
                self._release(job, commands, discard=True)

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

    def _release(self, job: Job, commands: list[Command], *, discard: bool) -> None:
        """The device's part of a request is over; `discard` tells the device so."""
        self._drop(job)
        if job.need is not None:
            job.need.in_use -= 1
        self._staged_rows -= job.request.staging_rows
        if discard:
            commands.append(Discard(job.request.rid))

    def _drop(self, job: Job) -> None:
        del self._jobs[job.request.rid]
        self._memory.leave(job.need)

    def _too_large(self, request: Request) -> str | None:
        limits = self.settings
        most = min(self._memory.ledger.batch_rows, limits.queue_rows)
        if request.rows > most:
            return f"{request.rows} rows in one request, at most {most} are allowed"
        if request.staging_rows > limits.staging_rows:
            return (
                f"the request needs {request.staging_rows} prepared rows, "
                f"at most {limits.staging_rows} are allowed: ask in several requests"
            )
        return None

    def _is_settled(self, rid: int) -> bool:
        job = self._jobs.get(rid)
        return job is None or job.answered

    def _late_by(self, request: Request, need: Need | None, now: float) -> float:
        """Seconds by which the request would miss its deadline, as far as is known; 0.0 if none."""
        if request.deadline_s is None:
            return 0.0
        ahead = self._waiting.rows_ahead_of(request) + self._staged_rows
        ready_s = (self._costs.pace_s() or 0.0) * ahead
        if need is not None and need.missing:
            ready_s = max(ready_s, self._memory.load_s(need))
        run_s = sum(self._costs.batch_s(p.group, request.rows) or 0.0 for p in request.parts)
        return max(0.0, now + ready_s + run_s - request.deadline_s)

    def _backlog_s(self) -> float | None:
        """About when the rows that wait now will have run."""
        pace_s = self._costs.pace_s()
        rows = self._waiting.rows - self._waiting.parked_rows + self._staged_rows
        return None if pace_s is None else pace_s * rows


_TO_MEMORY: dict[type, Callable[[DeviceMemory, Any, float], None]] = {
    Library: DeviceMemory.on_library,
    BlockLoaded: DeviceMemory.on_loaded,
    BlockLoadFailed: DeviceMemory.on_failed,
    BlockUnloaded: DeviceMemory.on_unloaded,
    MemoryMeasured: DeviceMemory.on_measured,
}
_TO_ASKS: dict[type, Callable[[Asks, Any], list[Settled]]] = {
    LoadAsked: Asks.load,
    UnloadAsked: Asks.unload,
    PinAsked: Asks.pin,
}
_HANDLERS: dict[type, Callable[[Scheduler, Any, float, list[Command]], None]] = {
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
    Woke: Scheduler._on_woke,
    **dict.fromkeys(_TO_MEMORY, Scheduler._on_memory),
    **dict.fromkeys(_TO_ASKS, Scheduler._on_ask),
}

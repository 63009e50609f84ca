"""Admission: whether an arrival can be run at all, and in time, and where it goes.

An arrival is refused, or goes to the device at once where nothing is ahead of it, or waits in the
queue. Puts together what the queue, the memory and the measured costs say, and remembers nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from edged.core.batches.device import Device, RunningBatch
from edged.core.costs import CostModel
from edged.core.events import Command, PayloadRoom, Refuse, Request
from edged.core.requests.job import Job
from edged.core.requests.jobs import AGAIN_S, Jobs
from edged.core.residency.memory import DeviceMemory, Verdict, too_many_rows_now
from edged.core.residency.needs import Need
from edged.core.settings import SchedulerSettings
from edged.errors import Code

RESTART_S = 1.0  # retry-after while shutting down: a daemon that starts again may be there then


class Admission:
    """Asked at arrivals, and for how long to stay away."""

    def __init__(
        self, settings: SchedulerSettings, jobs: Jobs, device: Device, memory: DeviceMemory
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._device = device
        self._memory = memory

    def arrive(self, request: Request, now: float, out: list[Command]) -> None:
        """Refuse the request, prepare it, or put it into the queue."""
        if request.rid in self._jobs.by_rid:
            raise ValueError(f"request {request.rid} arrived twice: this is a bug of the driver")
        if self._jobs.is_draining:
            text = "the daemon is shutting down"
            out.append(Refuse(request.rid, Code.UNAVAILABLE, text, RESTART_S))
            return
        need: Need | Verdict | None = self._too_large(request)
        if need is None and self._memory.has_library:
            need = self._memory.enter(request, now)
        if isinstance(need, Verdict):
            out.append(Refuse(request.rid, *need))
            return
        if request.deadline_s is not None:
            late_s = self._late_by(request, request.deadline_s, need, now)
            if late_s > 0.0:
                self._memory.leave(need)
                text = "the time-out cannot be met with what is waiting ahead"
                out.append(Refuse(request.rid, Code.DEADLINE_EXCEEDED, text, late_s))
                return
        job = Job(request, now, need, open_parts=len(request.parts))
        starts_at_once = self._may_start_at_once(job)
        if not starts_at_once and not self._enters_queue(job, now, out):
            self._memory.leave(need)
            return
        self._jobs.accept(job)
        if self._device.follows_rate:
            self._device.arrived(request, now)
        if starts_at_once:
            self._jobs.prepare(job, now, out)

    def fit_payloads(self, event: PayloadRoom) -> None:
        """There is room for this many bytes of payloads from now on."""
        limits, jobs = self._settings, self._jobs
        jobs.waiting.capacity_bytes = min(limits.queue_bytes, event.bytes)
        jobs.staging.bound_bytes(min(limits.staging_bytes, event.bytes))

    def backlog_s(self) -> float | None:
        """About when the rows that wait now will have run; None before anything has run."""
        pace_s, waiting = self._device.costs.pace_s, self._jobs.waiting
        rows = waiting.rows - waiting.parked_rows + self._jobs.staging.rows
        return None if pace_s is None else pace_s * rows

    def _enters_queue(self, job: Job, now: float, out: list[Command]) -> bool:
        """Let a request wait, if there is, or can fairly be made, room for it; else refuse it."""
        jobs, request = self._jobs, job.request
        admission = jobs.waiting.push(job)
        for older in admission.superseded:
            text = "superseded by a newer frame of its stream"
            jobs.refuse(older, Code.CANCELLED, text, now, out, is_queued=False)
        for victim in admission.pushed_out:
            text = (
                "the queue is full and a more urgent request took the place of this one"
                if victim.request.level > request.level
                else "the queue is full and this client holds most of it; slow down"
            )
            again_s = self.backlog_s() or AGAIN_S
            jobs.refuse(victim, Code.UNAVAILABLE, text, now, out, again_s, is_queued=False)
        if not admission.admitted:
            waiting = f"{jobs.waiting.rows} rows and {jobs.waiting.bytes} bytes wait"
            text = f"the queue is full ({waiting}); try again later"
            out.append(Refuse(request.rid, Code.UNAVAILABLE, text, self.backlog_s() or AGAIN_S))
        return admission.admitted

    def _may_start_at_once(self, job: Job) -> bool:
        """Whether an arrival would be the next to be prepared anyway: it need not queue."""
        waiting, staging, request = self._jobs.waiting, self._jobs.staging, job.request
        if not self._device.is_up or waiting.rows or (job.need is not None and job.need.missing):
            return False
        if not staging.rows:
            return True  # nothing is there that it would have to fit beside
        return self._jobs.fits(request) and staging.is_fair(request)

    def _too_large(self, request: Request) -> Verdict | None:
        """Why the request does not fit the limits, or not the memory that there is now."""
        limits, ledger = self._settings, self._memory.ledger
        most = min(ledger.most_batch_rows, limits.queue_rows)
        if request.rows > most:
            text = f"{request.rows} rows in one request, at most {most} are allowed"
            return Verdict(Code.RESOURCE_EXHAUSTED, text)
        if request.staging_rows > limits.staging_rows:
            text = (
                f"the request needs {request.staging_rows} prepared rows, "
                f"at most {limits.staging_rows} are allowed: ask in several requests"
            )
            return Verdict(Code.RESOURCE_EXHAUSTED, text)
        if request.rows > ledger.batch_rows:
            return too_many_rows_now(ledger.batch_rows)
        return None

    def _late_by(self, request: Request, deadline_s: float, need: Need | None, now: float) -> float:
        """Seconds by which the request would miss its deadline, as far as is known; 0.0 if none."""
        jobs, costs, running = self._jobs, self._device.costs, self._device.lanes
        pace_s = costs.pace_s or 0.0
        run_s = math.fsum(
            [costs.batch_s(part.group, request.rows) or 0.0 for part in request.parts]
        )
        is_missing = need is not None and need.missing
        everything = jobs.waiting.rows + jobs.staging.rows
        if not is_missing and now + pace_s * everything + run_s <= deadline_s:
            return 0.0  # even behind all others: these few sums are enough for most requests
        ahead = jobs.waiting.rows_ahead_of(request)
        if jobs.staging.rows:
            ordered_rows = min(jobs.staging.rows, running.rows)
            ahead += ordered_rows + jobs.staging.rows_ahead_of(request, ordered_rows)
        ready_s = pace_s * (ahead - _rows_done(running.batches, costs, now))
        if need is not None and need.missing:
            ready_s = max(ready_s, self._memory.residency.missing_s(need))
        return max(0.0, now + ready_s + run_s - deadline_s)


def _rows_done(running: Iterable[RunningBatch], costs: CostModel, now: float) -> float:
    """Rows of the batches that run, as far as they should have come by now."""
    done = 0.0
    for batch in running:
        took_s = costs.batch_s(batch.run.group, batch.run.rows)
        if took_s:
            done += batch.run.rows * min(1.0, max(0.0, now - batch.started_s) / took_s)
    return done

"""The accepted requests: their way from state to state to an answer, also when the device is lost.

Owns the jobs with the queue, the staged parts and the deadlines; knows no batches. What a
request holds on the device is taken and given back by `move`, by its state alone.
"""

from __future__ import annotations

from edged.core.events import (
    Answer,
    BatchDone,
    BatchFailed,
    Command,
    DeviceDown,
    Discard,
    Prepare,
    Prepared,
    PrepareFailed,
    Refuse,
    Request,
)
from edged.core.requests.deadlines import Deadlines
from edged.core.requests.fairness import StagingShares
from edged.core.requests.job import EFFECTS, ON_DEVICE, Job, State
from edged.core.requests.staged import StagedPart, StagedParts
from edged.core.requests.waiting import WaitingQueue
from edged.core.residency.memory import DeviceMemory
from edged.core.settings import SchedulerSettings
from edged.errors import Code

SMOOTHING = 0.1  # weight of the newest request in the time that preparing a row takes
AGAIN_S = 1.0  # retry-after where nothing says how long something will be missing

# Names of a module are read faster than members of an enumeration.
_STAGED, _LEAVING, _GONE = State.STAGED, State.LEAVING, State.GONE


class Jobs:
    """Owns every accepted request until nothing is held for it any more."""

    def __init__(
        self, settings: SchedulerSettings, memory: DeviceMemory, *, exclusive: bool
    ) -> None:
        """`exclusive`: one request on the device at a time, preparation included."""
        self.waiting = WaitingQueue(settings)
        self.staged = StagedParts(settings.levels)
        self.staging = StagingShares(settings)
        self.deadlines = Deadlines(lambda rid: not self.is_open(rid))
        self.count = [0] * len(State)  # number of jobs in each state
        self.row_prepare_s: float | None = None  # smoothed; None: nothing was prepared yet
        self.stories: dict[int, list[str]] | None = None  # None: they are not kept
        self.by_rid: dict[int, Job] = {}
        self.is_draining = False  # whether the daemon shuts down: nothing more is accepted
        self._memory = memory
        self._exclusive = exclusive
        self._max_attempts = settings.max_attempts

    @property
    def open(self) -> int:
        """Number of requests that are owed an answer."""
        return sum(self.count[: State.DISCARDED])

    @property
    def preparing(self) -> int:
        """Number of requests that the device has been told to prepare and has not reported."""
        return self.count[State.PREPARING] + self.count[State.DISCARDED]

    # --- states ---------------------------------------------------------------------------------

    def accept(self, job: Job) -> None:
        """From now on the request is owed an answer. It waits, or is about to be prepared."""
        request = job.request
        self.by_rid[request.rid] = job
        self.count[job.state] += 1
        if request.deadline_s is not None:
            self.deadlines.add(request.deadline_s, request.rid)
        if self.stories is not None:
            self._tell(job, "accepted", job.arrived_s)

    def move(self, job: Job, state: State, now: float) -> None:
        """Change the state of a job, and with it what it holds: rows of staging memory and the use
        of its blocks while it is on the device, its need until it is gone."""
        before = job.state
        effect = EFFECTS[before][state]
        if effect == "forbidden":
            raise ValueError(
                f"request {job.request.rid} cannot go from {before.name} to {state.name}: "
                "this is a bug"
            )
        job.state = state
        self.count[before] -= 1
        self.count[state] += 1
        if effect == "enters":
            self.staging.enter(job.request, now)
            if job.need is not None:
                self._memory.start(job.need, now)
        elif effect == "leaves":
            self.staging.leave(job.request, now)
            if job.need is not None:
                job.need.in_use -= 1
        if state is _GONE:
            self.count[state] -= 1
            del self.by_rid[job.request.rid]
            if job.need is not None:
                self._memory.leave(job.need)
        if self.stories is not None:
            self._tell(job, state.name, now)

    def _tell(self, job: Job, what: str, now: float) -> None:
        assert self.stories is not None
        self.stories.setdefault(job.request.rid, []).append(f"{now:.6f} s: {what}")

    def is_open(self, rid: int) -> bool:
        """Whether this request is owed an answer."""
        job = self.by_rid.get(rid)
        return job is not None and job.is_open

    # --- from the queue to staging memory -------------------------------------------------------

    def prepare_waiting(self, now: float, out: list[Command]) -> None:
        """Prepare those whose turn it is while they fit into staging memory."""
        if self.staging.rows >= self.staging.capacity_rows:
            return
        is_fair = self.staging.is_fair
        while (job := self.waiting.peek(is_fair)) is not None and self.fits(job.request):
            self.waiting.take(job)
            self.prepare(job, now, out)

    def prepare(self, job: Job, now: float, out: list[Command]) -> None:
        """Send a request that waits to the device."""
        out.append(Prepare(job.request.rid))
        if job.request.inline:
            self._stage(job, now)
        else:
            self.move(job, State.PREPARING, now)

    def fits(self, request: Request) -> bool:
        """Whether it can be prepared beside what is on the device."""
        if self._exclusive and self.staging.rows:
            return False
        return self.staging.has_room(request)

    def _stage(self, job: Job, now: float) -> None:
        """Its rows are in staging memory, or will be before its batch runs."""
        self.move(job, _STAGED, now)
        for part in job.request.parts:
            self.staged.put(job, part, now)

    def prepared(self, event: Prepared, now: float) -> None:
        """The rows of a request are in staging memory."""
        job = self.by_rid[event.rid]
        job.prepare_s = event.prepare_s
        newest_s = event.prepare_s / job.request.staging_rows
        known_s = newest_s if self.row_prepare_s is None else self.row_prepare_s
        self.row_prepare_s = known_s + SMOOTHING * (newest_s - known_s)
        if job.state is State.DISCARDED:  # the Discard and this report have crossed
            self.move(job, State.GONE, now)
        else:
            self._stage(job, now)

    def prepare_failed(self, event: PrepareFailed, now: float, out: list[Command]) -> None:
        """A request cannot be prepared. An inline one may be in a batch already, or refused."""
        job = self.by_rid.get(event.rid)
        if job is None:
            return
        retry_after_s = retry_after(event.code)
        if job.state is State.DISCARDED:
            self.move(job, State.GONE, now)
        elif job.state is State.PREPARING:
            self.move(job, State.GONE, now)
            out.append(Refuse(event.rid, event.code, event.message, retry_after_s))
        else:
            job.unusable = True
            if job.is_open:
                self.refuse(job, event.code, event.message, now, out, retry_after_s)

    # --- endings ----------------------------------------------------------------------------------

    def part_done(
        self, job: Job, event: BatchDone, rows: int, now: float, out: list[Command]
    ) -> None:
        """A batch of `rows` rows has run one part. With the last part the request is answered."""
        job.running_parts -= 1
        job.open_parts -= 1
        job.prepare_s += event.prepare_s
        job.infer_s += event.infer_s
        job.output_s += event.output_s
        job.batch_rows = max(job.batch_rows, rows)
        if job.state is _LEAVING:
            self._let_go(job, now, out)
        elif not job.open_parts:
            self.move(job, _GONE, now)
            prepare_s, infer_s, output_s = job.prepare_s, job.infer_s, job.output_s
            queue_s = max(0.0, now - job.arrived_s - (prepare_s + infer_s + output_s))
            rid, batch_rows = job.request.rid, job.batch_rows
            out.append(Answer(rid, queue_s, prepare_s, infer_s, output_s, batch_rows))
        elif not job.running_parts:
            self.move(job, State.STAGED, now)

    def part_failed(
        self, part: StagedPart, event: BatchFailed, now: float, out: list[Command], *, alone: bool
    ) -> None:
        """A batch has not run. A part that was alone in it is to blame; others are run again one
        by one, so that only the culprit is refused."""
        job = part.job
        job.running_parts -= 1
        if job.state is State.LEAVING:
            self._let_go(job, now, out)
        elif alone:
            again_s = retry_after(event.code)
            self.refuse(job, event.code, event.message, now, out, again_s)
        else:
            job.solo = True
            self.staged.put_back(part)
            if not job.running_parts:
                self.move(job, State.STAGED, now)

    def _let_go(self, job: Job, now: float, out: list[Command]) -> None:
        """A batch with a refused request has ended; with the last one its rows are free."""
        if not job.running_parts:
            self.move(job, State.GONE, now)
            if job.open_parts:
                out.append(Discard(job.request.rid))

    def refuse(
        self,
        job: Job,
        code: Code,
        message: str,
        now: float,
        out: list[Command],
        retry_after_s: float | None = None,
        *,
        is_queued: bool = True,
    ) -> None:
        """Answer with an error, wherever the request is, and let go of what it holds.

        `is_queued`: False for one that waited and has left the queue already.
        """
        out.append(Refuse(job.request.rid, code, message, retry_after_s))
        if job.state is State.WAITING:
            if is_queued:
                self.waiting.remove(job)
            self.move(job, State.GONE, now)
        elif job.state is State.PREPARING:
            self.move(job, State.DISCARDED, now)  # the device reports when its rows are free
            out.append(Discard(job.request.rid))
        else:
            self.staged.remove(job)
            if job.running_parts:
                self.move(job, State.LEAVING, now)
            else:
                self.move(job, State.GONE, now)
                out.append(Discard(job.request.rid))

    def drop_client(self, client: int, now: float, out: list[Command]) -> None:
        """Nobody is left to answer."""
        for job in [j for j in self.by_rid.values() if j.request.client == client and j.is_open]:
            self.refuse(job, Code.CANCELLED, "the client is gone", now, out)

    def expire(self, now: float, out: list[Command]) -> None:
        """Refuse those whose deadline has passed."""
        while (rid := self.deadlines.pop(now)) is not None:
            text = "the request's time-out has passed"
            self.refuse(self.by_rid[rid], Code.DEADLINE_EXCEEDED, text, now, out)

    def take_back(self, event: DeviceDown, begun: set[int], now: float, out: list[Command]) -> None:
        """Requests on a lost device wait again. One that is suspected of the loss, and was
        `max_attempts` times, is refused; one that was refused before is dropped.

        Where the driver knows no suspects, they are what was being prepared, and what was in
        batches that had `begun`."""
        self.staged.clear()
        for job in reversed([j for j in self.by_rid.values() if ON_DEVICE[j.state]]):
            if not job.is_open:
                self.move(job, State.GONE, now)
                continue
            if event.suspects is None:
                is_suspect = job.state is State.PREPARING or job.request.rid in begun
            else:
                is_suspect = job.request.rid in event.suspects
            if is_suspect:
                job.attempts += 1
                job.solo = True
            self.move(job, State.WAITING, now)
            job.restart()
            self.waiting.put_back(job)
            if job.attempts >= self._max_attempts:
                text = f"the device worker ended {job.attempts} times with it: {event.reason}"
                self.refuse(job, Code.INTERNAL, text, now, out)
        self.staging.clear()

    def validate(self) -> None:
        """Check that every count equals what it counts. Raises AssertionError."""
        jobs = self.by_rid.values()
        for state in State:
            assert self.count[state] == sum(job.state is state for job in jobs), state.name
        on_device = [job for job in jobs if ON_DEVICE[job.state]]
        self.waiting.validate([job for job in jobs if job.state is State.WAITING])
        self.staging.validate([job.request for job in on_device])
        self.staged.validate()
        for job in jobs:
            assert 0 <= job.running_parts <= job.open_parts, f"parts of request {job.request.rid}"
            is_running = job.state in (State.RUNNING, State.LEAVING)
            assert (job.running_parts > 0) is is_running, f"state of request {job.request.rid}"


def retry_after(code: Code) -> float | None:
    """When to try again what the device could not do."""
    return AGAIN_S if code is Code.UNAVAILABLE else None

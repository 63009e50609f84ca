"""The scheduler: what to prepare, what to run together, whom to answer.

`Scheduler.handle` is the order of everything: six rules that follow each event.
`handle(event, now)` returns commands; `wakeup_at()` says when to call with `Woke` if nothing else
happens. The same object runs under the daemon's clock and under the simulator's. It knows numbers
of requests, rows and times, never payloads, and it is told the time.
"""

from __future__ import annotations

from math import inf

from edged.core.batches.device import Device
from edged.core.batches.policies import SERVING, BatchPolicy
from edged.core.events import (
    Arrived,
    BatchDone,
    BatchFailed,
    Calibrated,
    CancelAsked,
    ClientGone,
    Command,
    DeviceDown,
    DeviceUp,
    DrainAsked,
    Drained,
    Event,
    Library,
    PaceChanged,
    PayloadRoom,
    Prepared,
    PrepareFailed,
    Refuse,
    Woke,
)
from edged.core.idle_calibration import IdleCalibration
from edged.core.parking import Parking
from edged.core.requests.admission import Admission
from edged.core.requests.answer_order import AnswerOrder
from edged.core.requests.jobs import Jobs
from edged.core.residency.blocks import Where, together_bytes
from edged.core.residency.ledger import Account
from edged.core.residency.memory import DeviceMemory
from edged.core.residency.report import MemoryState, report
from edged.core.settings import MemorySettings, SchedulerSettings
from edged.errors import Code, InvalidArgument


class Scheduler:
    """Owns every accepted request until its answer. Not thread-safe; one driver calls it."""

    def __init__(
        self,
        settings: SchedulerSettings,
        memory_settings: MemorySettings | None = None,
        policy: BatchPolicy | None = None,
    ) -> None:
        """`policy` is the one that `edged.policies.find` finds for the settings; where it is not
        given, the settings must name one of SERVING. Raises InvalidArgument."""
        policy = policy or SERVING.get(settings.policy)
        if policy is None:
            raise InvalidArgument(f"batching policy {settings.policy!r} was not handed over")
        self.settings = settings
        self._memory = memory = DeviceMemory(
            memory_settings or MemorySettings(), settings.max_batch_rows
        )
        self._jobs = jobs = Jobs(settings, memory, exclusive=policy.exclusive)
        self._device = Device(0, settings, policy, jobs, memory)
        self._admission = Admission(settings, jobs, self._device, memory)
        self._parking = Parking(memory, jobs)
        self._calibration = IdleCalibration(memory, self._device)
        self._answers = AnswerOrder()
        self._is_drained = False  # whether the driver was told so

    # --- the two calls ------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event and return what to do, in order. `now` never goes backwards."""
        out: list[Command] = []
        self._take_in(event, now, out)  # rule 1
        if self._jobs.deadlines.earliest_s <= now:  # rule 2: refuse what is too late
            self._jobs.expire(now, out)
        if self._device.is_up:
            self._keep_busy(now, out)  # rules 3 and 4: prepare what fits, and run what is staged
            if self._memory.tight:  # rule 5: load and evict, then look again
                backlog_s = self._admission.backlog_s() or 0.0
                self._parking.decide(self._device.costs, backlog_s, now, out)
                self._keep_busy(now, out)  # what was to leave may be needed again
        if self._parking.asks.open:
            self._parking.settle(now, out)  # the last request of a model may have ended
        if self._calibration.open and self._device.is_up and not self._jobs.is_draining:
            out += self._calibration.next(now, idle=not self._jobs.by_rid)
        if self._answers.places:  # rule 6: answers of ordered streams wait their turn
            out = self._answers.pass_on(out, now)
        if self._jobs.is_draining and not self._is_drained and not self._jobs.open:
            self._is_drained = True
            out.append(Drained())
        return out

    def wakeup_at(self) -> float:
        """When to call again with `Woke`, at the latest; infinity: when something happens."""
        device = self._device
        deadline_s = self._jobs.deadlines.next_s()
        loads_s, calibration_s = self._memory.loads.wakeup_s, self._calibration.wakeup_s
        return min(deadline_s, device.next_beat_s, device.order_at, loads_s, calibration_s)

    # --- what the driver may look at ------------------------------------------------------------

    @property
    def waiting_requests(self) -> int:
        """Number of requests that the device has not been told of."""
        return sum(1 for _ in self._jobs.waiting)

    @property
    def staged_rows(self) -> int:
        """Rows that are prepared, staged or running."""
        return self._jobs.staging.rows

    @property
    def open_requests(self) -> int:
        """Number of requests that are owed an answer."""
        return self._jobs.open + self._answers.held

    def account(self) -> Account:
        """Who holds how many bytes of the device's budget."""
        return self._memory.ledger.account()

    def memory(self) -> MemoryState:
        """What is on the device, and how far the start has come with loading."""
        return report(self._memory)

    @property
    def resident_bytes(self) -> int:
        """What the blocks on the device hold together; what they share counts once."""
        blocks = self._memory.residency.blocks
        return together_bytes([b for b in blocks if b.where not in (Where.ABSENT, Where.LOADING)])

    def failing_models(self) -> dict[str, str]:
        """Models that could not be loaded when it was tried last, and why."""
        return self._memory.failing()

    def expected_s(self, batch: int) -> float | None:
        """Time that a batch takes which was ordered and has not ended; None: nothing is known."""
        expected_s = self._device.lanes.by_number[batch].expected_s
        return expected_s if expected_s < inf else None

    @property
    def settled_until_s(self) -> float:
        """Until then the device is busy with batches that it has, even if more arrives. It is minus
        infinity while a lane is free."""
        return min(self._device.lanes.order_at, self._device.lanes.free_s)

    # --- the rules ------------------------------------------------------------------------------

    def _take_in(self, event: Event, now: float, out: list[Command]) -> None:
        """Rule 1: learn what has happened, and answer those whom it concerns."""
        match event:
            case Arrived():
                self._admission.arrive(event.request, now, out)
                if event.request.ordered:
                    self._answers.enter(event.request)
            case Prepared():
                self._jobs.prepared(event, now)
            case BatchDone():
                self._device.done(event, now, out)
            case Woke():
                pass  # the rules below look at the time
            case PrepareFailed():
                self._jobs.prepare_failed(event, now, out)
            case BatchFailed():
                self._device.failed(event, now, out)
            case CancelAsked():
                self._cancel(event.rid, now, out)
            case ClientGone():
                self._jobs.drop_client(event.client, now, out)
            case PayloadRoom():
                self._admission.fit_payloads(event)
            case DeviceUp() | DeviceDown():
                self._up_or_down(event, now, out)
            case PaceChanged():
                self._device.costs.change_pace(event.pace)
            case DrainAsked():
                self._drain(now, out)
            case Library() | Calibrated():
                self._calibration.handle(event)
                self._parking.handle(event, now, out)
            case _:
                self._parking.handle(event, now, out)

    def _up_or_down(self, event: DeviceUp | DeviceDown, now: float, out: list[Command]) -> None:
        if isinstance(event, DeviceUp):
            self._device.up(event)
        else:
            self._jobs.take_back(event, self._device.down(event), now, out)
        self._calibration.handle(event)
        self._parking.handle(event, now, out)

    def _cancel(self, rid: int, now: float, out: list[Command]) -> None:
        job = self._jobs.by_rid.get(rid)
        text = "cancelled by the client"
        self._answers.excuse(rid)
        if job is not None and job.is_open:
            self._jobs.refuse(job, Code.CANCELLED, text, now, out)
        elif self._answers.holds(rid):
            out.append(Refuse(rid, Code.CANCELLED, text))

    def _drain(self, now: float, out: list[Command]) -> None:
        """Finish what was accepted, and accept nothing more."""
        self._jobs.is_draining = True
        self._calibration.stop()
        self._parking.settle(now, out)

    def _keep_busy(self, now: float, out: list[Command]) -> None:
        jobs = self._jobs
        while True:
            if jobs.waiting.rows:
                jobs.prepare_waiting(now, out)
            staged_rows = jobs.staging.rows
            self._device.start_batches(now, out)
            if jobs.staging.rows == staged_rows:
                return  # else some were refused, too late to run, and others can be prepared

    def keep_stories(self) -> None:
        """From now on remember what becomes of each request. It costs memory without bound."""
        self._jobs.stories = {}

    def story(self, rid: int) -> str:
        """What became of a request, one line for each change; nothing where none was kept."""
        return "\n".join((self._jobs.stories or {}).get(rid, ()))

    def validate(self) -> None:
        """Check that every count equals what it counts. Raises AssertionError."""
        self._jobs.validate()
        self._device.validate()
        self._answers.validate(self._jobs.is_open)

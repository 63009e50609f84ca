"""The worker's process: when it is started, given up and started again, and the channel to it.

What requests do meanwhile is the scheduler's business. Knows no clients.
"""

from __future__ import annotations

import logging
import math
import select
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import msgspec

from edged import wire
from edged.config import Config
from edged.core.events import BlockLoaded, BlockLoadFailed
from edged.daemon import worker_port
from edged.daemon.front import Front
from edged.daemon.readiness import Readiness
from edged.daemon.restarts import Restarts
from edged.daemon.worker_port import Untrusted
from edged.device.process import WorkerProcess
from edged.device.settings import Settings as WorkerSettings
from edged.errors import Code, Unavailable, from_code
from edged.link import messages as link
from edged.link.channel import Garbled
from edged.systemd import Notifier, Watchdog

log = logging.getLogger("edged")

START_MARGIN_S = 10.0  # the service manager waits this much longer for a start than the daemon
STOP_S = 5.0  # the time that a worker has to end by itself
# The time that a worker has to be gone when it was killed. A device driver may hold it; until it is
# gone it has its memory on the device, and nobody else may find the device in order.
GONE_S = 30.0
_LOOK_S = 0.1  # pause between two looks whether it is gone


class WorkerChannel:
    """The process that there is, among the descriptors of a poll loop, and what is sent to it."""

    def __init__(self, poller: select.poll) -> None:
        self._poller = poller
        self.process: WorkerProcess | None = None
        self._watched: set[int] = set()  # descriptors that the poller knows
        self._is_due = False  # what is left for the worker is to be sent now
        self._is_blocked = False  # it has to wait until the channel has room

    def open(self, process: WorkerProcess) -> None:
        self.process = process
        self.watch(process.receiver.descriptor, select.POLLIN)
        self.watch(process.death_fd, select.POLLIN)

    def close(self) -> WorkerProcess | None:
        """Kill the process, if there is one. It may take a while until it has ended."""
        process = self.process
        if process is None:
            return None
        for descriptor in (
            process.receiver.descriptor,
            process.sender.descriptor,
            process.death_fd,
        ):
            self.watch(descriptor, 0)
        process.let_go()
        self.process = None
        self._is_due = self._is_blocked = False
        return process

    def to_worker(self, frames: Sequence[wire.Buffer], *, soon: bool = True) -> None:
        assert self.process is not None
        self.process.sender.put(frames)
        self._is_due = self._is_due or soon

    def flush(self, *, writable: bool = False) -> None:
        """Send what is due, and all before it; watch for when the rest can follow."""
        if not self._is_due or (self._is_blocked and not writable):
            return
        assert self.process is not None
        sender = self.process.sender
        try:
            sender.flush()
        except Unavailable as error:
            # It has just ended: its death is reported next, and everything runs again.
            log.debug("nothing is sent to the worker: %s", error)
        self._is_due = sender.waits
        if self._is_due != self._is_blocked:
            self._is_blocked = self._is_due
            self.watch(sender.descriptor, select.POLLOUT if self._is_due else 0)

    def watch(self, descriptor: int, events: int) -> None:
        """Be told of these events from now on; of none, if there are none."""
        if events:
            self._poller.register(descriptor, events)
            self._watched.add(descriptor)
        elif descriptor in self._watched:
            self._poller.unregister(descriptor)
            self._watched.remove(descriptor)


@dataclass(eq=False)
class Supervisor:
    """Decides when a worker is started, given up or restarted, and feeds the watchdog."""

    config: Config
    settings: WorkerSettings
    front: Front
    channel: WorkerChannel
    notifier: Notifier
    on_first_ready: Callable[[], None]

    def __post_init__(self) -> None:
        hang_timeout_s = self.config.device.hang_timeout_s
        self._watchdog = Watchdog(self.notifier.watchdog_s, hang_timeout_s)
        self._restarts = Restarts()
        self._start_at = math.inf  # the time of the next start
        self._last: WorkerProcess | None = None  # that was killed, until it is gone
        self._gone_by = math.inf
        self._failure: link.WorkerFailed | None = None  # the last words of the current worker
        self._was_ready = False
        self._device_name = ""
        self._built: tuple[object, ...] = ()  # how far the building of engines was
        self._said = ""  # the last status that the service manager was told
        self._logged: tuple[object, ...] | None = None  # what the log told last, of this worker

    @property
    def wakeup_at(self) -> float:
        """When to call `on_time`, if nothing else happens."""
        return min(self._start_at, self._watchdog.ask_at)

    def start(self, now: float) -> None:
        if self._is_going(now):
            self._start_at = now + _LOOK_S
            return
        self._start_at = math.inf
        self.front.outstanding.begin(now)
        self._failure = None
        budget_bytes = self.front.worker_budget_bytes()
        models = self.front.worker_models()
        settings = msgspec.structs.replace(
            self.settings,
            budget_bytes=budget_bytes,
            models=tuple(models),
            manifests=models,
        )
        try:
            process = WorkerProcess(settings)
        except OSError as error:  # no memory, descriptors or processes are left: perhaps later
            reason = f"no device worker can be started: {error.strerror}"
            if not self._was_ready:
                raise Unavailable(reason) from error
            log.error("%s", reason)
            self._start_at = self._restarts.on_ended(now)
            return
        self.channel.open(process)
        self._extend_start()

    def _extend_start(self) -> None:
        """Ask the service manager for time, a little more than the worker has: what is wrong with a
        start is to be said by the daemon before it is ended.
        """
        if not self._was_ready:
            within_s = self.config.device.start_timeout_s + START_MARGIN_S
            self.notifier.starting(within_s=within_s)

    def _is_going(self, now: float) -> bool:
        """Whether to wait until the last worker, which was killed, has ended."""
        last = self._last
        if last is None or not last.alive():
            self._last = None
            return False
        if now < self._gone_by:
            return True
        log.error(
            "worker process %d has not ended in %d s though it was killed, so a driver may hold it "
            "and the device's memory; another one is started beside it",
            last.pid,
            GONE_S,
        )
        self._last = None
        return False

    def stop(self) -> None:
        """Let the worker finish what it runs, for a moment."""
        process = self.channel.process
        if process is not None:
            self.channel.to_worker([link.encode(link.Stop())])
            self.channel.flush()
            process.wait(STOP_S)

    def on_ready(self, ready: Collection[int], now: float) -> None:
        """Take what the worker reports, and send it what is left; start another one in a moment if
        it has ended. `ready`: descriptors, as polled.
        """
        process = self.channel.process
        if process is not None and process.receiver.descriptor in ready:
            self._read(process, now)
            process = self.channel.process  # it may have been given up
        if process is not None and process.sender.descriptor in ready:
            self.channel.flush(writable=True)
        if process is not None and process.death_fd in ready:
            while self._read(process, now):
                pass  # its last words
            if process is self.channel.process:
                self._on_ended(process.exit_reason(), now)

    def on_time(self, now: float) -> None:
        if self._start_at <= now:
            self.start(now)
        if self._watchdog.ask_at <= now:
            outstanding = self.front.outstanding
            progress_at = outstanding.progress_at(now)
            if self._watchdog.due(now, busy=outstanding.is_any, progress_at=progress_at):
                self.notifier.alive()

    def sweep(self, now: float, *, is_serving: bool) -> None:
        """Each second: give up a worker that does not get ready, or makes no progress."""
        reason = self.front.outstanding.verdict(now)
        if reason is not None and self.channel.process is not None:
            self._give_up(reason, now, batch=self.front.outstanding.late_batch(now))
        if is_serving and self.front.device_is_up:
            self._on_progress()

    # --- reports --------------------------------------------------------------------------------

    def _read(self, process: WorkerProcess, now: float) -> bool:
        """Take what has come; False if that is nothing. A worker that talks nonsense has to go."""
        try:
            return self._take_reports(process, now)
        except Untrusted as error:
            self._give_up(str(error), now, batch=error.batch)
        except Garbled as error:
            self._give_up(str(error), now)
        return False

    def _take_reports(self, process: WorkerProcess, now: float) -> bool:
        receiver, heard = process.receiver, False
        while (frames := receiver.receive()) is not None:
            heard = True
            report = worker_port.read(frames[0])
            self.front.on_worker(report, frames[1:], now)
            if isinstance(report, link.Ready):
                self._device_name = report.device
                self._restarts.on_ready(now)
                self._logged = None
                self._extend_start()
                self._on_progress()
            elif isinstance(report, BlockLoaded | BlockLoadFailed):
                self._extend_start()
                self._on_progress()
            elif isinstance(report, link.Building):
                self._on_building(report)
            elif isinstance(report, link.WorkerFailed):
                self._failure = report
            self.channel.flush()
            if not receiver.has_read_ahead:
                break  # the poller tells of the rest
        if receiver.ended:  # a closed socket would be readable for ever
            self.channel.watch(receiver.descriptor, 0)
        return heard

    def _on_building(self, report: link.Building) -> None:
        """An engine that gets on extends the start; one that stands still does not."""
        stage = report.waiting, report.phase, report.share
        if stage != self._built:
            self._built = stage
            self._extend_start()
        self._on_progress()

    def _on_progress(self) -> None:
        """Say how far the loading has come, and when the first models can be answered.

        Raises EdgedError where no model can be served before any was.
        """
        readiness = self.front.service.readiness
        if readiness.failure is not None and not self._was_ready:
            raise from_code(*readiness.failure)
        if readiness.is_ready and not self._was_ready:
            self._was_ready = True
            self.on_first_ready()
            self.notifier.ready()
        if not (self._was_ready or readiness.loading or readiness.building):
            # No wanted model can be served at present. The daemon stays up, since memory may be
            # free later, so the service manager must not end it when the time for its start ends.
            self._extend_start()
        stage = (
            readiness.is_ready and not readiness.progress,
            readiness.note,
            readiness.loading,
            readiness.building.partition(",")[0],
        )
        if stage != self._logged:
            self._logged = stage
            self._log(readiness)
        self._say_what_is_served(readiness)

    def _log(self, readiness: Readiness) -> None:
        if readiness.progress:
            log.info("%s", readiness.progress)
            return
        if readiness.is_ready:
            served = self.front.service.served_models
            log.info("ready: %d models on %s", served, self._device_name)
        if readiness.note:
            log.warning("%s", readiness.note)

    def _say_what_is_served(self, readiness: Readiness) -> None:
        service = self.front.service
        parts = [readiness.note, readiness.progress]
        if readiness.is_ready:
            parts.append(f"serving {service.served_models} models on {self._device_name}")
        if service.unserved_models:
            parts.append(f"{service.unserved_models} cannot be served (edged models)")
        self._say("; ".join(filter(None, parts)))

    def _say(self, status: str) -> None:
        if status != self._said:
            self._said = status
            self.notifier.status(status)

    # --- the end of a worker --------------------------------------------------------------------

    def _give_up(self, reason: str, now: float, *, batch: int | None = None) -> None:
        assert self.channel.process is not None
        self.channel.process.kill()
        self._on_ended(reason, now, batch=batch)

    def _on_ended(self, reason: str, now: float, *, batch: int | None = None) -> None:
        """Start another one, unless none was ever ready: then say why and end the daemon."""
        self._last, self._gone_by = self.channel.close(), now + GONE_S
        code = Code.INTERNAL
        if self._failure is not None:
            code, reason = self._failure.code, self._failure.message
        if not self._was_ready:
            raise from_code(code, reason)
        log.error("%s", reason)
        self._say(f"recovering: {reason}")
        self.front.on_worker_lost(reason, now, batch=batch)
        self._start_at = self._restarts.on_ended(now)

"""The daemon's one thread: it waits for something to happen, and lets the others know.

`listen` has the sockets, `supervisor` the worker's process, `front` all that is decided.
"""

from __future__ import annotations

import gc
import logging
import math
import select
import signal
import time

from edged.config import Config
from edged.daemon.endpoint import gather_ms
from edged.daemon.front import Front
from edged.daemon.listen import LINGER_S, Listener
from edged.daemon.models.administration import Shelf
from edged.daemon.models.versions import Versions
from edged.daemon.scraping import Scraping
from edged.daemon.signals import Signals
from edged.daemon.supervisor import STOP_S, Supervisor, WorkerChannel
from edged.device.settings import Settings as WorkerSettings
from edged.observe.awake import Awake
from edged.observe.blocks import BlockCounters
from edged.observe.recording import Recorder
from edged.profiles.form import DeviceProfile
from edged.systemd import Notifier
from edged.telemetry.watch import BoardWatch

log = logging.getLogger("edged")

SWEEP_S = 1.0


class Loop:
    """One run of the daemon, from `run` to its exit status. Used once."""

    def __init__(
        self,
        config: Config,
        versions: Versions,
        shelf: Shelf,
        worker_settings: WorkerSettings,
        *,
        notifier: Notifier,
        recorder: Recorder | None = None,
        profile: DeviceProfile | None = None,
    ) -> None:
        self._config = config
        self._notifier = notifier
        self._poller = select.poll()
        self._signals = Signals()
        self._end_signals: list[int] = []  # those that have told the daemon to end
        self._drain_by = math.inf
        now = self._sweep_at = time.monotonic()
        self._awake = _awake(config.device.idle_latency_us)
        self._board = BoardWatch()
        self._listener = Listener(config, self._poller)
        self._channel = WorkerChannel(self._poller)
        # The front's outlet.
        self.to_client, self.to_admin = self._listener.to_client, self._listener.to_admin
        self.to_worker = self._channel.to_worker
        self._front = Front(
            config,
            versions,
            shelf,
            self,
            regions=self._listener.regions,
            started_at=now,
            observers=[each for each in (recorder, self._awake) if each is not None],
            blocks=None if config.metrics.bind is None else BlockCounters(versions.models),
            profile=profile,
        )
        self._scraping = self._make_scraping()
        self._supervisor = Supervisor(
            config, worker_settings, self._front, self._channel, notifier, self._on_first_ready
        )

    def _make_scraping(self) -> Scraping | None:
        address, mode = self._config.metrics.parsed_bind, self._config.server.socket_permissions
        if address is None:
            return None
        return Scraping(address, mode, self._poller, self._front.metrics)

    def run(self) -> int:
        """Serve until drained (status 0), told twice to end (128 + signal), or unable to start."""
        self._signals.listen()
        try:
            self._poller.register(self._signals.descriptor, select.POLLIN)
            self._listener.open()
            self._board.start()
            if self._scraping is not None:
                self._scraping.open(time.monotonic())
            self._supervisor.start(time.monotonic())
            while not self._front.drained:
                self._turn()
                if len(self._end_signals) > 1:
                    log.warning("told to end twice: %d requests dropped", self._front.open_requests)
                    return 128 + self._end_signals[-1]
                if time.monotonic() > self._drain_by and not self._front.drained:
                    log.error("not drained in time: %d dropped", self._front.open_requests)
                    return 1
            log.info("drained; every accepted request was answered")
            return 0
        finally:
            self._shut_down()

    def _shut_down(self) -> None:
        at_once = len(self._end_signals) > 1
        self._listener.close(at_once=at_once)
        if not at_once:
            self._supervisor.stop()
        last = self._channel.close()
        if last is not None and not last.wait(STOP_S):
            log.error("worker process %d has not ended, though it was killed", last.pid)
        if self._awake is not None:
            self._awake.close()
        if self._scraping is not None:
            self._scraping.close()
        self._listener.release()
        self._board.close()
        self._signals.close()

    # --- one turn -----------------------------------------------------------------------------

    def _turn(self) -> None:
        """Wait for something to happen, and let the others know of it."""
        wakeup_at = self._wakeup_at()
        ready = self._wait(wakeup_at)
        now = time.monotonic()
        front, listener = self._front, self._listener
        if self._signals.descriptor in ready:
            self._on_signals(self._signals.read(), now)
        self._supervisor.on_ready(ready, now)
        listener.on_ready(ready, front, self._channel.flush, now)
        if self._scraping is not None:
            self._scraping.on_ready(ready, now)
        if listener.guard.look_at <= now:
            listener.guard.look(front.received_bytes, front.buffer_limits.hidden_bytes, now)
        if wakeup_at <= now:
            self._on_time(now)

    def _wakeup_at(self) -> float:
        """When something is due though nothing happens."""
        return min(
            self._sweep_at,
            self._listener.guard.look_at,
            self._front.wakeup_at(),
            self._supervisor.wakeup_at,
            self._drain_by,
        )

    def _wait(self, wakeup_at: float) -> dict[int, int]:
        """What has happened, by descriptor. Messages of clients that the worker need not be told of
        at once wait a little for others.
        """
        wait_s = 0.0 if self._listener.is_unsure else max(0.0, wakeup_at - time.monotonic())
        ready = dict(self._poller.poll(math.ceil(wait_s * 1e3)))  # so that no timer is early
        clients = self._listener.clients.descriptor
        if len(ready) == 1 and clients in ready:
            more_ms = gather_ms(self._front.settled_until_s, time.monotonic())
            if more_ms:
                self._poller.unregister(clients)
                ready |= self._poller.poll(more_ms)
                self._poller.register(clients, select.POLLIN)
        return ready

    def _on_time(self, now: float) -> None:
        if self._front.wakeup_at() <= now:
            self._front.on_woke(now)
        if self._sweep_at <= now:
            self._sweep_at = now + SWEEP_S
            self._front.on_board(self._board.latest, now)
            self._front.on_sweep(now)
            self._listener.guard.sweep(self._front.buffer_limits.unread_bytes, now)
            if self._awake is not None:
                self._awake.sweep(now)
            if self._scraping is not None:
                self._scraping.sweep(now)
            self._supervisor.sweep(now, is_serving=self._drain_by == math.inf)
        self._supervisor.on_time(now)
        self._channel.flush()

    def _on_signals(self, numbers: bytes, now: float) -> None:
        """SIGHUP: reload; any other: drain, and a second one: end."""
        if signal.SIGHUP in numbers:
            self._front.on_reload(now)
        self._end_signals += [number for number in numbers if number != signal.SIGHUP]
        if self._end_signals and self._drain_by == math.inf:
            draining = f"draining: {self._front.open_requests} requests to answer"
            log.info(draining)
            self._notifier.status(draining)
            drain_timeout_s = self._config.server.drain_timeout_s
            self._drain_by = now + drain_timeout_s
            self._notifier.stopping(within_s=drain_timeout_s + LINGER_S + STOP_S + SWEEP_S)
            self._front.on_drain(now)
        self._channel.flush()

    def _on_first_ready(self) -> None:
        gc.collect()
        gc.freeze()  # what lives now lives for ever: later collections need not look at it
        self._listener.guard.begin()


def _awake(idle_latency_us: int | None) -> Awake | None:
    return None if idle_latency_us is None else Awake(idle_latency_us)

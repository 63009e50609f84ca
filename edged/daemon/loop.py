"""The daemon's one thread: sockets, the worker's process, signals and the clock.

It brings frames and times to the front and carries the front's frames away. It decides when a
worker is started, given up or restarted; what requests do meanwhile is the scheduler's business.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import select
import signal
import socket
import time
from collections.abc import Sequence

import msgspec
import zmq

from edged import wire
from edged.config import Config
from edged.daemon import owed
from edged.daemon.endpoint import Endpoint
from edged.daemon.front import Front
from edged.daemon.models.administration import Shelf
from edged.daemon.models.versions import Versions
from edged.daemon.owed import Untrusted
from edged.daemon.peers.connections import Connection
from edged.daemon.peers.door import Door, allow_descriptors
from edged.daemon.peers.guard import Guard
from edged.daemon.peers.listening import listen
from edged.daemon.restarts import Restarts
from edged.device.process import WorkerProcess
from edged.device.settings import Settings as WorkerSettings
from edged.endpoints import Endpoint as Address
from edged.errors import Code, Unavailable, from_code
from edged.link import messages as link
from edged.link.channel import Garbled
from edged.observe.awake import Awake
from edged.observe.recording import Recorder
from edged.profiles.form import Profile
from edged.sharedmem.owner import Regions
from edged.systemd import Notifier, Watchdog

log = logging.getLogger("edged")

REFUSALS = 1000  # that a client may leave unread, beside the answers that it is owed
HANDSHAKE_S = 5.0  # from a connection until it speaks ZeroMQ's protocol; else it is closed
GATHER_MS = 3  # at most, that one message waits for others while the device is busy for longer
SWEEP_S = 1.0
LINGER_S = 2.0  # for the last replies to leave
STOP_S = 5.0  # for the worker to end by itself


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
        profile: Profile | None = None,
    ) -> None:
        self._config = config
        self._worker_settings = worker_settings
        self._notifier = notifier
        self._watchdog = Watchdog(notifier.watchdog_s, config.device.hang_timeout_s)
        self._restarts = Restarts()
        self._context = zmq.Context()
        self._poller = select.poll()
        self._worker: WorkerProcess | None = None
        self._watched: set[int] = set()  # its descriptors that the poller knows
        self._is_due = False  # whether what is left for it is to be sent now
        self._is_blocked = False  # whether that has to wait until there is room
        self._start_worker_at = math.inf
        self._failure: link.Failed | None = None  # the last words of the current worker
        self._was_ready = False
        self._device_name = ""
        self._said = ""  # the last status that the service manager was told
        self._progress = ""  # the last one that the log was told
        self._drain_by = math.inf
        self._signals: list[int] = []
        self._locks: list[int] = []  # of ipc sockets; held until the end
        now = time.monotonic()
        self._sweep_at = now
        idle_latency_us = config.device.idle_latency_us
        self._awake = None if idle_latency_us is None else Awake(idle_latency_us)
        self._regions = Regions(config.server.socket_permissions)
        self._front = Front(
            config,
            versions,
            shelf,
            self,
            regions=self._regions,
            started_at=now,
            recorder=recorder,
            profile=profile,
        )
        limits = config.published_limits()
        self._clients = Endpoint(self._client_socket, limits)
        self._admins = Endpoint(self._admin_socket, limits)
        self._door = Door(allow_descriptors())
        self._guard = Guard((self._clients, self._admins), self._door)

    def run(self) -> int:
        """Serve until drained (status 0), told twice to end (128 + signal), or unable to start."""
        wakeup = self._listen_to_signals()
        try:
            self._bind()
            self._start_worker(time.monotonic())
            while not self._front.drained:
                self._turn(wakeup)
                if len(self._signals) > 1:
                    log.warning("told to end twice: %d requests dropped", self._front.open_requests)
                    return 128 + self._signals[-1]
                if time.monotonic() > self._drain_by and not self._front.drained:
                    log.error("not drained in time: %d dropped", self._front.open_requests)
                    return 1
            log.info("drained; every accepted request was answered")
            return 0
        finally:
            self._close()

    # --- the front's outlet -------------------------------------------------------------------

    def to_client(self, routing_id: bytes, frames: wire.Frames) -> bool:
        try:
            self._clients.send(routing_id, frames)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            return False
        return True

    def to_admin(self, routing_id: bytes, frames: wire.Frames) -> None:
        with contextlib.suppress(zmq.Again):
            self._admins.send(routing_id, frames)

    def to_worker(self, frames: Sequence[wire.Buffer], *, soon: bool = True) -> None:
        assert self._worker is not None
        self._worker.sender.put(frames)
        self._is_due = self._is_due or soon

    # --- one turn -----------------------------------------------------------------------------

    def _turn(self, wakeup: socket.socket) -> None:
        """Wait for something to happen, and let the front know of it."""
        wakeup_at = self._wakeup_at()
        ready, gathered = self._wait(wakeup_at)
        now = time.monotonic()
        if wakeup.fileno() in ready:
            self._on_signals(wakeup.recv(64), now)
            self._flush()
        front, worker = self._front, self._worker
        if self._clients.connections.descriptor in ready or (
            self._admins.connections.descriptor in ready
        ):
            self._guard.update(now)
        if self._door.descriptor in ready:
            self._door.let_in()
        if self._regions.descriptor in ready:
            self._regions.hand_out()
        if worker is not None and worker.receiver.descriptor in ready:
            self._read_worker(worker, now)
            worker = self._worker  # it may have been given up
        if worker is not None and worker.sender.descriptor in ready:
            self._flush(writable=True)
        for endpoint, take in ((self._clients, front.on_request), (self._admins, front.on_admin)):
            if endpoint.unsure or endpoint.descriptor in ready:
                for routing_id, frames in endpoint.messages(now):
                    take(routing_id, frames, now)
                    if not gathered:
                        self._flush()
                if gathered:
                    self._flush()
                if endpoint.flooder is not None:
                    self._renew(endpoint, endpoint.flooder, now)
        if worker is not None and worker.death_fd in ready:
            while self._read_worker(worker, now):
                pass  # its last words
            if worker is self._worker:
                self._on_worker_ended(worker.exit_reason(), now)
        if self._awake is not None and front.device_is_busy:
            self._awake.needed(now)
        if self._guard.look_at <= now:
            self._guard.look(front.received_bytes, front.room.hidden_bytes, now)
        if wakeup_at <= now:
            self._on_time(now)

    def _wait(self, wakeup_at: float) -> tuple[dict[int, int], bool]:
        """What has happened, by descriptor; and whether clients' messages were gathered first.

        A turn begins with cold caches, for which several messages pay as much as one. So while the
        device is busy for longer, one message of a client waits a little for others.
        """
        unsure = self._clients.unsure or self._admins.unsure
        wait_s = 0.0 if unsure else max(0.0, wakeup_at - time.monotonic())
        ready = dict(self._poller.poll(math.ceil(wait_s * 1e3)))  # so that no timer is early
        clients = self._clients.descriptor
        if list(ready) != [clients]:
            return ready, False
        settled_s = self._front.settled_until_s
        if settled_s == -math.inf:
            return ready, False
        gather_ms = math.floor(min(GATHER_MS, 1e3 * (settled_s - time.monotonic()) - 1.0))
        if gather_ms < 1:
            return ready, False
        self._poller.unregister(clients)
        ready |= self._poller.poll(gather_ms)
        self._poller.register(clients, select.POLLIN)
        return ready, True

    def _wakeup_at(self) -> float:
        """When something is due though nothing happens."""
        return min(
            self._sweep_at,
            self._guard.look_at,
            self._front.wakeup_at(),
            self._watchdog.ask_at,
            self._start_worker_at,
            self._drain_by,
        )

    def _read_worker(self, worker: WorkerProcess, now: float) -> bool:
        """Take what has come; False if that is nothing. A worker that talks nonsense has to go."""
        try:
            return self._take_reports(worker, now)
        except Untrusted as error:
            self._give_up(str(error), now, batch=error.batch)
        except Garbled as error:
            self._give_up(str(error), now)
        return False

    def _take_reports(self, worker: WorkerProcess, now: float) -> bool:
        heard = False
        while (frames := worker.receiver.receive()) is not None:
            heard = True
            message = owed.read(frames[0])
            self._front.on_worker(message, frames[1:], now)
            if isinstance(message, link.Ready):
                self._device_name = message.device
                self._restarts.on_ready(now)
                self._on_progress(now)
            elif isinstance(message, link.Loaded | link.LoadFailed):
                self._on_progress(now)
            elif isinstance(message, link.Failed):
                self._failure = message
            self._flush()
            if not worker.receiver.has_read_ahead:
                break  # the poller tells of the rest
        if worker.receiver.ended:  # what is closed would be readable for ever
            self._watch(worker.receiver.descriptor, 0)
        return heard

    def _on_time(self, now: float) -> None:
        if self._front.wakeup_at() <= now:
            self._front.on_woke(now)
        if self._start_worker_at <= now:
            self._start_worker(now)
        if self._sweep_at <= now:
            self._sweep_at = now + SWEEP_S
            self._front.on_sweep(now)
            self._guard.sweep(self._front.room.unread_bytes, now)
            if self._awake is not None:
                self._awake.sweep(now)
            self._check_worker(now)
            if self._front.device_is_up and self._drain_by == math.inf:
                self._on_progress(now)
        busy = self._front.vigil.is_waiting
        if self._watchdog.due(now, busy=busy, progress_at=self._front.vigil.progress_at(now)):
            self._notifier.alive()
        self._flush()

    # --- the worker ---------------------------------------------------------------------------

    def _start_worker(self, now: float) -> None:
        self._start_worker_at = math.inf
        self._front.vigil.begin(now)
        self._failure = None
        budget_bytes = self._front.worker_budget_bytes()
        models = self._front.worker_models()
        settings = msgspec.structs.replace(
            self._worker_settings,
            budget_bytes=budget_bytes,
            models=tuple(models),
            manifests=models,
        )
        self._worker = WorkerProcess(settings)
        self._watch(self._worker.receiver.descriptor, select.POLLIN)
        self._watch(self._worker.death_fd, select.POLLIN)
        self._notifier.starting(within_s=self._config.device.start_timeout_s)

    def _on_progress(self, now: float) -> None:
        """Say how far the loading has come. Progress extends the time that a start has.

        Raises EdgedError where no model can be served before any was.
        """
        readiness = self._front.readiness
        if readiness.failure is not None and not self._was_ready:
            raise from_code(*readiness.failure)
        if readiness.is_ready and not self._was_ready:
            self._was_ready = True
            gc.collect()
            gc.freeze()  # what lives now lives for ever: later collections need not look at it
            self._guard.begin()
            self._notifier.ready()
        if readiness.progress != self._progress:
            self._progress = readiness.progress
            if not self._was_ready:
                self._notifier.starting(within_s=self._config.device.start_timeout_s)
            if readiness.progress:
                log.info("%s", readiness.progress)
            elif readiness.is_ready:
                log.info("ready: %d models on %s", self._front.served_models, self._device_name)
            if readiness.note:
                log.warning("%s", readiness.note)
        self._say_what_is_served()

    def _say_what_is_served(self) -> None:
        front, readiness = self._front, self._front.readiness
        parts = [readiness.note, readiness.progress]
        if readiness.is_ready:
            parts.append(f"serving {front.served_models} models on {self._device_name}")
        if front.unserved_models:
            parts.append(f"{front.unserved_models} cannot be served (edged models)")
        said = "; ".join(filter(None, parts))
        if said != self._said:
            self._said = said
            self._notifier.status(said)

    def _check_worker(self, now: float) -> None:
        """Give up a worker that does not get ready, or does not get on."""
        reason = self._front.vigil.verdict(now)
        if reason is not None and self._worker is not None:
            self._give_up(reason, now, batch=self._front.vigil.late_batch(now))

    def _give_up(self, reason: str, now: float, *, batch: int | None = None) -> None:
        assert self._worker is not None
        self._worker.kill()
        self._on_worker_ended(reason, now, batch=batch)

    def _on_worker_ended(self, reason: str, now: float, *, batch: int | None = None) -> None:
        """Start another one, unless none was ever ready: then say why and end the daemon."""
        self._drop_worker()
        code = Code.INTERNAL
        if self._failure is not None:
            code, reason = self._failure.code, self._failure.message
        if not self._was_ready:
            raise from_code(code, reason)
        log.error("%s", reason)
        self._said = f"recovering: {reason}"
        self._notifier.status(self._said)
        self._front.on_worker_lost(reason, now, batch=batch)
        self._start_worker_at = self._restarts.on_ended(now)

    def _flush(self, *, writable: bool = False) -> None:
        """Send what is due to the worker, and all before it; watch for when the rest can follow."""
        worker = self._worker
        if worker is None or not self._is_due:
            return
        if writable or not self._is_blocked:
            try:
                worker.sender.flush()
            except Unavailable as error:
                # It has just ended: its death is reported next, and everything runs again.
                log.debug("nothing is sent to the worker: %s", error)
            self._is_due = worker.sender.waits
            if self._is_due != self._is_blocked:
                self._is_blocked = self._is_due
                self._watch(worker.sender.descriptor, select.POLLOUT if self._is_due else 0)

    def _watch(self, descriptor: int, events: int) -> None:
        """Be told of these events from now on; of none, if there are none."""
        if events:
            self._poller.register(descriptor, events)
            self._watched.add(descriptor)
        elif descriptor in self._watched:
            self._poller.unregister(descriptor)
            self._watched.remove(descriptor)

    def _drop_worker(self) -> None:
        worker = self._worker
        if worker is not None:
            for descriptor in (
                worker.receiver.descriptor,
                worker.sender.descriptor,
                worker.death_fd,
            ):
                self._watch(descriptor, 0)
            worker.close()
            self._worker = None
            self._is_due = self._is_blocked = False

    # --- beginning and end --------------------------------------------------------------------

    def _listen_to_signals(self) -> socket.socket:
        """Signals become bytes on a socket that the poller watches."""
        ours, wakeup = socket.socketpair()
        for end in (ours, wakeup):
            end.setblocking(False)
        self._wakeup_ends = (ours, wakeup)
        signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
        self._old_handlers = {
            number: signal.signal(number, lambda *_: None)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        self._poller.register(wakeup.fileno(), select.POLLIN)
        return wakeup

    def _on_signals(self, numbers: bytes, now: float) -> None:
        """SIGHUP: reload; any other: drain, and a second one: end."""
        if signal.SIGHUP in numbers:
            self._front.on_reload(now)
        self._signals += [number for number in numbers if number != signal.SIGHUP]
        if self._signals and self._drain_by == math.inf:
            draining = f"draining: {self._front.open_requests} requests to answer"
            log.info(draining)
            self._notifier.status(draining)
            drain_timeout_s = self._config.server.drain_timeout_s
            self._drain_by = now + drain_timeout_s
            self._notifier.stopping(within_s=drain_timeout_s + LINGER_S + STOP_S + SWEEP_S)
            self._front.on_drain(now)

    def _client_socket(self) -> zmq.Socket[bytes]:
        limits = self._config.published_limits()
        clients = self._router(limits.max_message_bytes)
        clients.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an answer that nobody can get is an error
        clients.setsockopt(zmq.SNDHWM, limits.max_in_flight + REFUSALS)
        clients.setsockopt(zmq.RCVHWM, limits.max_in_flight)
        clients.setsockopt(zmq.TCP_KEEPALIVE, 1)  # else who vanished keeps a descriptor for ever
        clients.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
        return clients

    def _admin_socket(self) -> zmq.Socket[bytes]:
        return self._router(self._config.limits.max_header_bytes)

    def _router(self, max_frame_bytes: int) -> zmq.Socket[bytes]:
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a client that reconnects keeps its name
        router.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
        router.setsockopt(zmq.LINGER, round(LINGER_S * 1e3))
        router.setsockopt(zmq.HANDSHAKE_IVL, round(HANDSHAKE_S * 1e3))
        return router

    def _listen(self, endpoint: Endpoint) -> None:
        for descriptor in (endpoint.descriptor, endpoint.connections.descriptor):
            self._poller.register(descriptor, select.POLLIN)

    def _renew(self, endpoint: Endpoint, flooder: Connection, now: float) -> None:
        """Let ZeroMQ drop a message that is too long to be read, with all that it holds."""
        log.warning("a client sends messages of too many frames: all have to connect again")
        self._guard.caught(flooder, now)
        for descriptor in (endpoint.descriptor, endpoint.connections.descriptor):
            self._poller.unregister(descriptor)
        endpoint.renew()
        self._door.renewed(endpoint)
        self._listen(endpoint)

    def _bind(self) -> None:
        server = self._config.server
        for address in server.parsed_endpoints:
            self._locks += listen(self._clients_at, address, server.socket_permissions)
        self._listen(self._clients)
        self._poller.register(self._door.descriptor, select.POLLIN)
        if server.shared_memory:
            self._regions.open(server.endpoints)
            if self._regions.descriptor is not None:
                self._poller.register(self._regions.descriptor, select.POLLIN)
        self._bind_admins(server.parsed_admin)

    def _clients_at(self, address: str, mode: int) -> None:
        self._door.bind(self._clients, address, mode)

    def _bind_admins(self, endpoint: Address | None) -> None:
        """Nobody but the account of the daemon may connect."""
        if endpoint is None:
            return
        self._locks += listen(self._admins_at, endpoint, 0o600, "administration")
        self._listen(self._admins)

    def _admins_at(self, address: str, mode: int) -> None:
        self._door.bind(self._admins, address, mode)

    def _close(self) -> None:
        at_once = len(self._signals) > 1
        self._door.close()
        for endpoint in (self._clients, self._admins):
            endpoint.close(linger=0 if at_once else None)
        if self._worker is not None:
            if not at_once:
                self.to_worker([link.encode(link.Stop())])
                self._flush()
                self._worker.wait(STOP_S)
            self._drop_worker()
        self._regions.close()
        if self._awake is not None:
            self._awake.close()
        self._context.term()
        for lock in self._locks:
            os.close(lock)
        signal.set_wakeup_fd(-1)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        for end in self._wakeup_ends:
            end.close()

"""The front: one inbox, the scheduler, and what is done with its commands.

Events come from clients (`intake`), from the worker (`worker_port`) and from administrators. A turn
tells the scheduler one of them and carries out the commands that it leads to, in this order:

1. What the worker is ordered to do, in the order of the commands. The device idles until it gets
   its next batch, so nothing goes before that.
2. Answers and refusals to clients.
3. What an administrator asked for and has been done, to the administration.
4. Observers see the event and its commands, also when carrying them out has failed.

What carrying out leads to, such as a client that is found gone or an administrator's next wish,
waits in the inbox until the turn is over. So each turn ends before the next one begins, and
everything happens in the order in which it was told. Knows no sockets, processes or clock.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from edged import wire
from edged.config import Config, cores
from edged.core.events import (
    Answer,
    BlockLoaded,
    BlockLoadFailed,
    Calibrated,
    ClientGone,
    DeviceDown,
    DeviceUp,
    DrainAsked,
    Event,
    LoadAsked,
    PaceChanged,
    PinAsked,
    Refuse,
    Settled,
    UnloadAsked,
    Woke,
)
from edged.core.scheduler import Scheduler
from edged.daemon.admin import AdminEndpoint
from edged.daemon.costs import KnownCosts
from edged.daemon.figures import Figures
from edged.daemon.intake import Intake
from edged.daemon.models.administration import Administration, Shelf
from edged.daemon.models.catalog import Catalog
from edged.daemon.models.state_file import instructions_of
from edged.daemon.models.versions import Versions
from edged.daemon.peers.clients import ConnectedClient
from edged.daemon.peers.room import BufferLimits
from edged.daemon.pending import ClientOutlet, Replies
from edged.daemon.readiness import STARTING
from edged.daemon.service import Service
from edged.daemon.worker_port import WorkerOutlet, WorkerPort
from edged.errors import EdgedError, from_code
from edged.link import messages as link
from edged.manifest import Manifest
from edged.observe import Observer
from edged.observe.blocks import BlockCounters
from edged.observe.statistics import TaskCounters
from edged.policies import find as find_policy
from edged.profiles.form import DeviceProfile
from edged.sharedmem.owner import SharedRegions
from edged.uplink.receiver import Uploads

log = logging.getLogger("edged")


class Outlet(ClientOutlet, WorkerOutlet, Protocol):
    """Where the front's messages go. No call blocks."""

    def to_admin(self, routing_id: bytes, frames: wire.Frames) -> None:
        """Never blocks. Nothing happens when the administrator is gone."""


class Front:
    """Everything that is decided in one daemon. `drained` turns true when all has been answered."""

    def __init__(
        self,
        config: Config,
        versions: Versions,
        shelf: Shelf,
        outlet: Outlet,
        *,
        regions: SharedRegions,
        started_at: float,
        observers: Sequence[Observer] = (),
        blocks: BlockCounters | None = None,
        profile: DeviceProfile | None = None,
    ) -> None:
        catalog, models = versions.catalog(), versions.models
        self._config, self._versions = config, versions
        self._costs = KnownCosts(profile)
        self.drained = False
        self._inbox: deque[Event | link.Define | link.Forget] = deque()
        chosen = config.scheduler.settings
        policy = find_policy(chosen.policy)
        self._scheduler = scheduler = Scheduler(chosen, config.memory.choice, policy)
        self._counters = TaskCounters(catalog.tasks, models, started_at, histograms=bool(blocks))
        self._blocks = blocks  # None: there are no metrics
        self._observers = (*observers, *filter(None, [blocks]), self._counters)
        self._regions = regions
        self._uploads = Uploads(config.uplink, config.published_limits())
        replies = self._replies = Replies(outlet, config, self._on_gone)
        worker = WorkerPort(config, outlet, scheduler, replies.pending, models)
        self._worker, self.outstanding = worker, worker.outstanding
        self._administration = Administration(versions, shelf, instructions_of(config), self)
        self.service = Service(
            config, catalog, versions, self._administration, scheduler, worker, regions, started_at
        )
        self._figures = Figures(self.service, self._counters, replies, self.tell)
        intake = Intake(self.service, self._uploads, replies, self._figures, self.tell)
        admin = AdminEndpoint(self.service, send=outlet.to_admin)
        self.on_request, self.on_admin = intake.on_request, admin.on_request
        self.on_board = self._figures.on_board
        self.tell_versions(started_at)
        self._administration.recall(started_at)

    # --- the pump -----------------------------------------------------------------------------

    def tell(self, event: Event | link.Define | link.Forget, now: float) -> None:
        """Put an event into the inbox; it has been dealt with on return, unless a turn is under
        way. What the administration sends the worker goes the same way, to keep its place.
        """
        inbox = self._inbox
        inbox.append(event)
        if len(inbox) > 1:
            return
        try:
            while inbox:
                self._turn(inbox[0], now)
                inbox.popleft()
        finally:
            inbox.clear()

    def _turn(self, event: Any, now: float) -> None:
        if isinstance(event, (link.Define, link.Forget)):
            self._worker.send(event)
            return
        commands = self._scheduler.handle(event, now)
        orders, later = self._worker.orders, []
        try:
            for command in commands:
                if type(command) in orders:
                    orders[type(command)](command, now)
                else:
                    later.append(command)
            settled = []
            for command in later:
                if isinstance(command, Answer):
                    self._replies.answer(command, now, emulated=self._worker.is_emulated)
                elif isinstance(command, Refuse):
                    self._replies.refuse(command, now)
                elif isinstance(command, Settled):
                    settled.append(command)
                else:
                    self.drained = True
            for outcome in settled:
                self._administration.settled(outcome, now)
        finally:
            for observer in self._observers:
                observer.turn(now, event, commands)

    # --- what the loop looks at ---------------------------------------------------------------

    @property
    def open_requests(self) -> int:
        return self._scheduler.open_requests

    @property
    def received_bytes(self) -> int:
        """Bytes of payloads that are held here, for requests that are open or still to come."""
        return self._replies.payload_bytes + self._uploads.held_bytes

    @property
    def buffer_limits(self) -> BufferLimits:
        """How much may be held of what clients send and do not take."""
        return self._figures.limits

    @property
    def device_is_up(self) -> bool:
        return self._worker.ready is not None

    @property
    def settled_until_s(self) -> float:
        """Until then the worker needs no orders, even if clients ask for more."""
        return self._worker.settled_until_s

    def worker_models(self) -> dict[str, Manifest]:
        """The models that a worker that is started now is to know, by key."""
        return dict(self._versions.models)

    def worker_budget_bytes(self) -> int:
        """The memory that a worker that is started now may take."""
        return self._figures.gauge.worker_budget_bytes()

    def metrics(self, now: float) -> bytes:
        """An encoded MetricsSnapshot; the front must have been given an observer of blocks."""
        assert self._blocks is not None
        return msgspec.msgpack.encode(self._figures.snapshot(self._blocks, now))

    def wakeup_at(self) -> float:
        """When to call `on_woke` if nothing else happens."""
        ours = min(self._uploads.wakeup_at(), self._figures.answer_by)
        return min(self._scheduler.wakeup_at(), ours)

    # --- from the loop ------------------------------------------------------------------------

    def on_woke(self, now: float) -> None:
        self.tell(Woke(), now)
        if self._figures.answer_by <= now:
            self._figures.report(now)
        for notice in self._uploads.notices(now):
            if isinstance(notice.what, EdgedError):
                self._replies.send_error(notice.client, notice.what, notice.id, now)
            else:
                self._replies.send(notice.client, notice.what, now)

    def on_sweep(self, now: float) -> None:
        """Now and then: drop the work of clients that have fallen silent."""
        for client in self.service.clients.sweep(now):
            self._drop(client, now)
        for path in self._regions.sweep(self.service.clients.knows):
            self._worker.send(link.Close(path))
        self._administration.on_sweep(now)
        self._figures.on_sweep(now)
        if self.device_is_up:
            self.service.look_at_memory()

    def on_drain(self, now: float) -> None:
        self.service.draining = True
        self._uploads.drain()
        self._administration.on_drain(now)
        self.tell(DrainAsked(), now)

    def on_worker_lost(self, reason: str, now: float, *, batch: int | None = None) -> None:
        """The worker has ended, because of `batch` if that is known; another will be started."""
        self.service.restarts += 1
        self.service.reason = reason
        self.service.readiness = STARTING
        for model in self.outstanding.calibrations.orders:
            self._costs.interrupted(model)
        was_up = self.device_is_up
        suspects = self._worker.lose(batch, now)
        if was_up:
            self.tell(DeviceDown(reason, suspects), now)
            self._administration.on_worker_lost(reason, now)
        self._figures.on_worker_lost(now)

    def on_reload(self, now: float) -> None:
        """A signal asks to serve what the store holds now; the log says what came of it."""
        self._administration.reload(lambda outcome, now: None, now)

    def on_worker(
        self, report: link.FromWorker, payload: Sequence[wire.Buffer], now: float
    ) -> None:
        """A report of the worker. Raises Untrusted if it owes no such report."""
        event = self._worker.take(report, payload, now)
        if self._blocks is not None and isinstance(report, link.BatchOutputs):
            self._blocks.ran(report.blocks)
        handler = _ON_WORKER.get(type(event))
        if handler is None:
            self.tell(event, now)
        else:
            handler(self, event, now)
        if type(event) in _PROGRESS:
            self.service.look_at_memory()

    # --- what the administration wants done ---------------------------------------------------

    def ask(self, event: LoadAsked | UnloadAsked | PinAsked, now: float) -> None:
        self.tell(event, now)

    def order(self, message: link.Define | link.Forget) -> None:
        if self._inbox:
            self._inbox.append(message)
        else:
            self._worker.send(message)

    def tell_versions(self, now: float) -> None:
        self.tell(self._costs.library(self._versions), now)

    def is_in_use(self, key: str) -> bool:
        return any(
            wanted.key == key
            for pending in self._replies.pending.values()
            for wanted in pending.resolved.outputs
        )

    def failing_models(self) -> list[str]:
        failing = self._scheduler.failing_models()
        return [key for key in self._versions.served.values() if key in failing]

    def serve(self, catalog: Catalog) -> None:
        before, self.service.catalog = self.service.catalog, catalog
        self._counters.know(catalog.tasks)
        self._costs.serve(catalog.models.values(), before.models.values())

    # --- clients that are gone ----------------------------------------------------------------

    def _on_gone(self, client: ConnectedClient, now: float) -> None:
        """Nobody is there to read a reply: drop what else the client has asked for."""
        self._uploads.forget(client)
        if client.in_flight:
            self.service.clients.forget(client)
            self._drop(client, now)

    def _drop(self, client: ConnectedClient, now: float) -> None:
        if client.is_gone:
            return
        client.is_gone = True
        dropped, fields = len(client.in_flight), {"client": client.number}
        log.info("client %d is gone: %d requests dropped", client.number, dropped, extra=fields)
        self._uploads.forget(client)
        self.tell(ClientGone(client.number), now)

    # --- reports of the worker that are not for the scheduler alone -----------------------------

    def _on_ready(self, message: link.Ready, now: float) -> None:
        """Raises ConfigError if the profile is of another device, or of other blocks."""
        gauge = self._figures.gauge
        costs = self._costs.on_ready(message, self._versions.models)
        measured = gauge.measured(message)
        self.tell_versions(now)
        self.tell(msgspec.structs.replace(measured, used_bytes=None), now)  # to begin with
        first, overhead = self.service.first_models(), gauge.overhead(message)
        threads = self._config.device.prepare_threads or cores()
        up = DeviceUp(
            costs, message.lanes, overhead=overhead, preparers=threads, first=first,
            depth=message.depth, sizes=message.sizes,
        )  # fmt: skip
        self.tell(up, now)
        if self._figures.pace != 1.0:
            self.tell(PaceChanged(self._figures.pace), now)
        self.tell(measured, now)
        forgotten = tuple(key for key in message.models if key not in self._versions.models)
        if forgotten:  # while the worker started: nothing could be sent to it
            self.order(link.Forget(forgotten))
        self._figures.share_out(now)
        self._administration.try_reload(now)

    def _on_failed(self, message: link.WorkerFailed, now: float) -> None:
        """Its process ends next; clients are told the reason until another one is ready."""
        self.service.reason = message.message

    def _on_memory(self, message: link.WorkerMemory, now: float) -> None:
        self._figures.on_memory(message, now)

    def _on_model_measured(self, message: link.ModelMeasured, now: float) -> None:
        ready = self._worker.ready
        assert ready is not None, "a worker that is not ready owes no measurement"
        costs, overhead = self._costs.on_measured(message, ready.lanes), None
        if message.done:
            ready = msgspec.structs.replace(
                ready,
                row_bytes=message.row_bytes,
                base_bytes=message.base_bytes,
                loading_bytes=message.loading_bytes,
            )
            self._worker.ready = ready
            overhead = self._figures.gauge.overhead(ready)
        self.tell(Calibrated(message.model, message.done, costs, overhead), now)
        if message.done:
            self._figures.share_out(now)

    def _on_building(self, message: link.Building, now: float) -> None:
        """What is built by now can be loaded: nobody tries that again by itself for a while."""
        before, self._worker.building = self._worker.building, message
        built = set(before.waiting if before is not None else ()) - set(message.waiting)
        if built:
            self._administration.on_built(built, now)

    def _on_defined(self, message: link.Defined, now: float) -> None:
        self._administration.defined(now)

    def _on_define_failed(self, message: link.DefineFailed, now: float) -> None:
        self._administration.define_failed(from_code(message.code, message.message), now)


# Reports after which more models may be served.
_PROGRESS = (link.Ready, link.Building, BlockLoaded, BlockLoadFailed)

_ON_WORKER: dict[type, Callable[[Front, Any, float], None]] = {
    link.Ready: Front._on_ready,
    link.WorkerFailed: Front._on_failed,
    link.WorkerMemory: Front._on_memory,
    link.ModelMeasured: Front._on_model_measured,
    link.Defined: Front._on_defined,
    link.DefineFailed: Front._on_define_failed,
    link.Building: Front._on_building,
}

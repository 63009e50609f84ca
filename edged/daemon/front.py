"""The front: messages to events, commands to messages.

Owns the scheduler, the requests' payloads and the table of clients. Does not know sockets,
processes or the clock: the loop brings frames and the time, and takes frames away.
"""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from edged import wire
from edged.budget import footprint
from edged.config import Config
from edged.core.events import (
    Answer,
    Arrived,
    Calibrate,
    Calibrated,
    CancelAsked,
    ClientGone,
    Command,
    DeviceDown,
    DeviceUp,
    DrainAsked,
    Drained,
    Event,
    Load,
    LoadAsked,
    PayloadRoom,
    PinAsked,
    Prepare,
    Refuse,
    Request,
    Run,
    Settled,
    Unload,
    UnloadAsked,
    Woke,
)
from edged.core.requests.admission import RESTART_S
from edged.core.scheduler import Scheduler
from edged.daemon import inquiries, translation
from edged.daemon.admin import AdminEndpoint, residency
from edged.daemon.costs import Figures
from edged.daemon.gauge import Gauge
from edged.daemon.inquiries import Situation
from edged.daemon.models.administration import Administration, Shelf
from edged.daemon.models.catalog import NOT_LOADED, Catalog
from edged.daemon.models.versions import Versions
from edged.daemon.owed import Owed
from edged.daemon.peers.clients import Client, Clients
from edged.daemon.peers.room import Room
from edged.daemon.pending import Pending, answers_of
from edged.daemon.readiness import STARTING, first_models, readiness, wanted_models
from edged.daemon.vigil import Vigil
from edged.errors import EdgedError, ResourceExhausted, Unavailable, from_code
from edged.link import messages as link
from edged.manifest import Manifest
from edged.observe.recording import Recorder
from edged.observe.statistics import Statistics
from edged.pictures.files import light_pixels
from edged.policies import find as find_policy
from edged.profiles.form import Profile
from edged.sharedmem.owner import Regions
from edged.uplink.receiver import Uploads

log = logging.getLogger("edged")

MEASURE_S = 5.0  # between two looks at how much memory there is, and how much is taken
FIGURES_S = 1.0  # after which statistics go out without the worker's figures


class Outlet(Protocol):
    """Where the front's messages go. Neither call blocks."""

    def to_client(self, routing_id: bytes, frames: wire.Frames) -> bool:
        """False when the client is gone or does not read."""

    def to_admin(self, routing_id: bytes, frames: wire.Frames) -> None:
        """Nothing happens when it is gone."""

    def to_worker(self, frames: Sequence[wire.Buffer], *, soon: bool = True) -> None:
        """In order. Not `soon`: with the next one that is."""


class Front:
    """One daemon's worth of conversation. `drained` turns true when all has been answered."""

    def __init__(
        self,
        config: Config,
        versions: Versions,
        shelf: Shelf,
        outlet: Outlet,
        *,
        regions: Regions,
        started_at: float,
        recorder: Recorder | None = None,
        profile: Profile | None = None,
    ) -> None:
        self._config = config
        self._limits = config.published_limits()
        self._versions = versions
        self._catalog = versions.catalog()
        self._outlet = outlet
        self._regions = regions
        self._recorder = recorder
        choice = config.scheduler.choice
        self._scheduler = Scheduler(choice, config.memory.choice, find_policy(choice.policy))
        self._statistics = Statistics(self._catalog.tasks)
        self._administration = Administration(versions, shelf, config.memory.pinned, self)
        self._admin = AdminEndpoint(
            self._administration,
            self._limits,
            send=outlet.to_admin,
            inquire=lambda header: inquiries.reply(header, self._situation()),
            residency=lambda id: residency(self._administration, self._resident, id),
        )
        self._figures = Figures(profile)
        self.readiness = STARTING
        self._resident: dict[str, int] = {}  # bytes of the blocks on the device
        self._settled: deque[Settled] = deque()
        self._clients = Clients(config.server.client_timeout_s)
        self._uploads = Uploads(config.uplink, self._limits)
        self._pending: dict[int, Pending] = {}
        self._last_rid = 0
        self._device: link.Ready | None = None
        self._owed = Owed()  # by the worker that there is, or is started next
        self._reason = "the device worker is starting"
        self._started_at = started_at
        self._restarts = 0
        self._draining = False
        self._asked_statistics: list[tuple[Client, str]] = []  # they wait for the worker's figures
        self._statistics_by = math.inf  # when they are answered without
        self._measures = 0
        self._measure_at = started_at
        self._gauge = Gauge(config)
        self.vigil = Vigil(config.device.start_timeout_s, config.device.hang_timeout_s)
        self.room = Room.of(config, None)
        self.payload_bytes = 0  # that were sent, of requests without an answer
        self.drained = False
        self.tell_versions(started_at)

    # --- what the loop looks at ---------------------------------------------------------------

    @property
    def state(self) -> str:
        if self._draining:
            return "DRAINING"
        if self._device is not None and self.readiness.is_ready:
            return "READY"
        return "RECOVERING" if self._restarts else "STARTING"

    @property
    def open_requests(self) -> int:
        return self._scheduler.open_requests

    @property
    def served_models(self) -> int:
        """How many can be asked for, unloaded ones included."""
        return len(self._catalog.models) - len(self._failing())

    @property
    def unserved_models(self) -> int:
        """How many cannot, since something is wrong with them."""
        return len(self._versions.unusable) + len(self._failing())

    @property
    def received_bytes(self) -> int:
        """Of payloads that are held here, for requests that are open or still to come."""
        return self.payload_bytes + self._uploads.held_bytes

    @property
    def device_is_up(self) -> bool:
        return self._device is not None

    @property
    def device_is_busy(self) -> bool:
        return self._device is not None and self._scheduler.staged_rows > 0

    @property
    def settled_until_s(self) -> float:
        """Up to then no batch is ordered and none is prepared sooner, whatever clients ask for."""
        if self._device is None or not self._device.lanes_prepare:
            return -math.inf  # other threads could decode what comes
        return self._scheduler.settled_until_s

    def worker_models(self) -> dict[str, Manifest]:
        """Those that a worker that is started now is to know, by key."""
        return dict(self._versions.models)

    def _look_at_memory(self) -> None:
        """See how far the loading has come, and what there is no room for."""
        pinned = self._administration.pinned
        wanted = wanted_models(self._catalog, self._versions.served, pinned)
        self.readiness = readiness(self._scheduler.memory(), wanted)

    def worker_budget_bytes(self) -> int:
        """What a worker that is started now may take."""
        return self._gauge.worker_budget_bytes()

    def wakeup_at(self) -> float:
        """When to call `on_woke` if nothing else happens."""
        ours = min(self._uploads.wakeup_at(), self._statistics_by)
        return min(self._scheduler.wakeup_at(), ours)

    # --- from the loop ------------------------------------------------------------------------

    def on_woke(self, now: float) -> None:
        self._tell(Woke(), now)
        if self._statistics_by <= now:
            self._report_statistics(now)
        for notice in self._uploads.notices(now):
            if isinstance(notice.what, EdgedError):
                self._send_error(notice.client, notice.what, notice.id, now)
            else:
                self._send(notice.client, notice.what, (), now)

    def on_sweep(self, now: float) -> None:
        """Now and then: drop the work of clients that have fallen silent."""
        for client in self._clients.sweep(now):
            self._lose(client, now)
        for path in self._regions.sweep(self._clients.knows):
            self.order(link.Close(path))
        self._administration.on_sweep(now)
        if self._device is not None:
            self._look_at_memory()
        if self._device is not None and now >= self._measure_at:
            self._measure(now)

    def on_drain(self, now: float) -> None:
        self._draining = True
        self._uploads.drain()
        self._administration.on_drain(now)
        self._tell(DrainAsked(), now)

    def on_worker_lost(self, reason: str, now: float, *, batch: int | None = None) -> None:
        """The worker has ended, because of `batch` if that is known; another will be started."""
        self._restarts += 1
        self._reason = reason
        if self._owed.calibrating is not None:
            self._figures.give_up(self._owed.calibrating)
        suspects, self._owed = self._owed.members(batch), Owed()
        self.readiness = STARTING
        self.vigil.begin(now)
        for pending in self._pending.values():
            pending.is_ordered = False
        if self._device is not None:
            self._device = None
            self._resident = {}
            self._tell(DeviceDown(reason, suspects), now)
            self._administration.on_worker_lost(reason, now)
        self._report_statistics(now)

    def on_request(self, routing_id: bytes, frames: Sequence[wire.Buffer], now: float) -> None:
        """A client's message. Every one is answered, but for the repetition of an open INFER."""
        client = self._clients.seen(routing_id, now)
        id: str | None = None
        try:
            request = wire.decode_request(frames, self._limits)
            id = request.header.id
            _ON_REQUEST[type(request.header)](self, client, request, now)
        except wire.BadRequest as error:
            self._send_error(client, error, error.id, now)
        except EdgedError as error:
            self._send_error(client, error, id, now)

    def on_admin(self, routing_id: bytes, frames: Sequence[wire.Buffer], now: float) -> None:
        """An administrator's message."""
        self._admin.on_request(routing_id, frames, now)

    def on_reload(self, now: float) -> None:
        """Told by a signal to serve what the store holds now; the log says what came of it."""
        self._administration.reload(lambda outcome, now: None, now)

    def on_worker(
        self, message: link.FromWorker, payload: Sequence[wire.Buffer], now: float
    ) -> None:
        """A message of the worker. Raises Untrusted if it owes no such message."""
        self._owed.settle(message, payload, self._pending, self._versions.models)
        self.vigil.heard(message, now)
        handler = _ON_WORKER.get(type(message))
        if handler is not None:
            handler(self, message, payload, now)
        event_of = translation.EVENTS.get(type(message))
        if event_of is not None:
            self._tell(event_of(message), now)
        if type(message) in _PROGRESS:
            self._look_at_memory()

    # --- what the administration wants done ---------------------------------------------------

    def ask(self, event: LoadAsked | UnloadAsked | PinAsked, now: float) -> None:
        self._tell(event, now)

    def order(self, message: link.Define | link.Forget | link.Close) -> None:
        if self._device is not None:  # else the worker that is started next knows of it
            if isinstance(message, link.Define):
                self._owed.define()
                self.vigil.define(tuple(key for key, _ in message.models))
            self._outlet.to_worker([link.encode(message)])

    def tell_versions(self, now: float) -> None:
        self._tell(self._figures.library(self._versions), now)

    def is_in_use(self, key: str) -> bool:
        return any(
            wanted.key == key
            for pending in self._pending.values()
            for wanted in pending.resolved.outputs
        )

    def failing_models(self) -> list[str]:
        failing = self._scheduler.failing_models()
        return [key for key in self._versions.served.values() if key in failing]

    def serve(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._statistics.know(catalog.tasks)
        self._figures.forget_profile()

    # --- requests -----------------------------------------------------------------------------

    def _infer(self, client: Client, request: wire.Request, now: float) -> None:
        infer = request.header
        assert isinstance(infer, wire.Infer)
        if infer.id in client.in_flight:
            return  # a retry of a request that is still open: its answer will do for both
        if len(client.in_flight) >= self._limits.max_in_flight:
            raise ResourceExhausted(
                f"{len(client.in_flight)} requests of this client are unanswered, the limit is "
                f"{self._limits.max_in_flight}: wait for answers before sending more"
            )
        resolved = self._catalog.resolve(infer)
        payload, shared = request.payload, None
        if infer.parameters.upload is not None:
            payload = self._uploads.take(client, infer)
        if infer.parameters.shared is not None:
            shared = self._regions.find(client.routing_id, infer.parameters.shared)
        self._last_rid += 1
        rid = self._last_rid
        sizes = [memoryview(p).nbytes for p in payload] if shared is None else shared.sizes
        size = sum(sizes)
        lanes_prepare = self._device is not None and self._device.lanes_prepare
        light = link.is_light(
            resolved.inputs,
            size,
            lanes_prepare=lanes_prepare,
            pixels=lambda: light_pixels(
                payload if shared is None else self._regions.beginnings(client.routing_id, shared)
            ),
        )
        rows, inputs, priority = resolved.rows, resolved.inputs, infer.parameters.priority
        level = priority - 1 if priority else self._config.server.default_level
        prepare = link.Prepare(
            rid, rows, inputs, resolved.asks, light, shared, client.number, level
        )
        to_prepare = [link.encode(prepare), *payload]
        held_bytes = size if shared is None else 0
        late_images = rows if light and inputs[0].kind != "tensor" else 0
        pending = Pending(
            client, infer.id, resolved, to_prepare, size, held_bytes, light, late_images
        )
        self._pending[rid] = pending
        self.payload_bytes += pending.held_bytes
        self._clients.begin(client, infer.id, rid)
        self._statistics.arrived(resolved.tasks)
        arrived = self._to_schedule(prepare, pending, infer.parameters, now)
        self._tell(Arrived(arrived), now)

    def _to_schedule(
        self,
        prepare: link.Prepare,
        pending: Pending,
        parameters: wire.InferParameters,
        now: float,
    ) -> Request:
        server, resolved = self._config.server, pending.resolved
        timeout_us = parameters.timeout
        return Request(
            rid=prepare.rid,
            client=pending.client.number,
            parts=resolved.parts,
            rows=resolved.rows,
            staging_rows=resolved.staging_rows,
            level=prepare.level,
            deadline_s=now + (timeout_us / 1e6 if timeout_us else server.default_timeout_s),
            stream=parameters.stream,
            ordered=parameters.ordered,
            payload_bytes=pending.payload_bytes,
            inline=prepare.light,
        )

    def _cancel(self, client: Client, request: wire.Request, now: float) -> None:
        header = request.header
        assert isinstance(header, wire.Cancel)
        rid = client.in_flight.get(header.request)
        if rid is not None:
            self._tell(CancelAsked(rid), now)
        cancelled = rid is not None or self._uploads.cancel(client, header.request)
        self._send(client, wire.CancelReply(header.id, cancelled), (), now)

    def _announce(self, client: Client, request: wire.Request, now: float) -> None:
        header = request.header
        assert isinstance(header, wire.Announce)
        if self._draining:
            raise Unavailable(self._why_not_ready(), retry_after_s=RESTART_S)
        group = self._catalog.group(self._catalog.find(header.task).name)
        self._uploads.announce(client, header, group, now)

    def _chunk(self, client: Client, request: wire.Request, now: float) -> None:
        assert isinstance(request.header, wire.Chunk)
        reply = self._uploads.chunk(client, request.header, request.payload[0], now)
        if reply is not None:
            self._send(client, reply, (), now)

    def _share(self, client: Client, request: wire.Request, now: float) -> None:
        assert isinstance(request.header, wire.Share)
        self._send(client, self._regions.share(client.routing_id, request.header), (), now)

    def _ping(self, client: Client, request: wire.Request, now: float) -> None:
        assert isinstance(request.header, wire.Ping)
        if request.header.interval is not None:
            client.promised_s = request.header.interval / 1e6
        self._inquire(client, request, now)

    def _inquire(self, client: Client, request: wire.Request, now: float) -> None:
        self._send(client, inquiries.reply(request.header, self._situation()), (), now)

    def _situation(self) -> Situation:
        reason, shares = self._why_not_ready(), self._regions.are_open
        return Situation(self._catalog, self._limits, self.state, reason, self._idle, shares)

    def _idle(self) -> dict[str, str]:
        """Models that are known and not served at present, by name, and why."""
        return {**self._failing(), **dict.fromkeys(self._administration.unloaded, NOT_LOADED)}

    def _failing(self) -> dict[str, str]:
        """Models that could not be loaded when it was tried last, by name, and why."""
        whys, served = self._scheduler.failing_models(), self._versions.served
        return {name: whys[key] for name, key in served.items() if key in whys}

    def _ask_statistics(self, client: Client, request: wire.Request, now: float) -> None:
        """Answered when the worker has measured its memory, or is gone, or does not say."""
        self._asked_statistics.append((client, request.header.id))
        if self._device is None:
            self._report_statistics(now)
        elif len(self._asked_statistics) == 1:
            self._statistics_by = now + FIGURES_S
            self._measure(now)

    def _measure(self, now: float) -> None:
        """Have the worker measure its memory, now and some time later again."""
        self._measure_at = now + MEASURE_S
        self._measures += 1
        self._owed.measure()
        self._outlet.to_worker([link.encode(link.Measure(self._measures))])

    def _why_not_ready(self) -> str:
        if self._draining:
            return "the daemon is shutting down"
        if self._device is None:
            return self._reason
        here = self.readiness
        return "" if here.is_ready else "; ".join(filter(None, (here.progress, here.note)))

    def _remark(self) -> str:
        """What an operator should know of a daemon that is ready."""
        return "; ".join(filter(None, (self.readiness.note, self.readiness.progress)))

    # --- the worker ---------------------------------------------------------------------------

    def _ready(self, message: link.Ready, frames: Sequence[wire.Buffer], now: float) -> None:
        """Raises ConfigError if the profile is of another device, or of other blocks."""
        self._device = message
        costs = self._figures.on_ready(message, self._versions.models)
        measured = self._gauge.measured(message)
        self._resident = {}
        self.tell_versions(now)
        self._tell(msgspec.structs.replace(measured, used_bytes=0), now)  # the budget to begin with
        overhead = self._gauge.overhead(message)
        unloaded = self._administration.unloaded
        keys = {name: key for name, key in self._versions.served.items() if name not in unloaded}
        pinned, order = self._administration.pinned, self._config.models or ()
        first = first_models(self._catalog, keys, pinned, order)
        self._tell(DeviceUp(costs, message.lanes, (), overhead, first=first), now)
        self._tell(measured, now)
        self._find_room(now)
        self._administration.try_reload(now)

    def _failed(self, message: link.Failed, frames: Sequence[wire.Buffer], now: float) -> None:
        """Its process ends next; the reason is kept for `on_worker_lost`'s log and clients."""
        self._reason = message.message

    def _batch_done(
        self, message: link.BatchDone, frames: Sequence[wire.Buffer], now: float
    ) -> None:
        for answer, raw in answers_of(message, frames):
            pending = self._pending.get(answer.rid)
            if pending is not None:  # else it was refused while it ran
                pending.add(self._versions.models[answer.model], answer, raw)

    def _batch_failed(
        self, message: link.BatchFailed, frames: Sequence[wire.Buffer], now: float
    ) -> None:
        log.error("batch %d failed: %s", message.batch, message.message)

    def _memory(self, message: link.Memory, frames: Sequence[wire.Buffer], now: float) -> None:
        self._tell(self._gauge.measured(message), now)
        self._find_room(now)
        self._report_statistics(now, message)

    def _find_room(self, now: float) -> None:
        """What blocks and workspace leave is for what clients send."""
        account = self._scheduler.memory().account
        room = Room.of(self._config, account, self.payload_bytes)
        if room.payload_bytes != self.room.payload_bytes:
            self._tell(PayloadRoom(room.payload_bytes), now)
        self.room = room

    def _loaded(self, message: link.Loaded, frames: Sequence[wire.Buffer], now: float) -> None:
        self._resident[message.block] = message.bytes_used

    def _load_failed(
        self, message: link.LoadFailed, frames: Sequence[wire.Buffer], now: float
    ) -> None:
        for key, manifest in self._versions.models.items():
            if any(step.block == message.block for step in manifest.steps):
                log.error("model %s cannot be served: %s", key, message.message)

    def _unloaded(self, message: link.Unloaded, frames: Sequence[wire.Buffer], now: float) -> None:
        del self._resident[message.block]

    def _calibrated(
        self, message: link.Calibrated, frames: Sequence[wire.Buffer], now: float
    ) -> None:
        assert self._device is not None, "a worker that is not ready owes no measurement"
        costs = self._figures.on_calibrated(message, self._device.lanes)
        overhead = None
        if message.done:
            figures = {"row_bytes": message.row_bytes, "loading_bytes": message.loading_bytes}
            self._device = msgspec.structs.replace(self._device, **figures)
            overhead = self._gauge.overhead(self._device)
        self._tell(Calibrated(message.model, message.done, costs, overhead), now)
        if message.done:
            self._find_room(now)

    def _defined(self, message: link.Defined, frames: Sequence[wire.Buffer], now: float) -> None:
        self._administration.defined(now)

    def _define_failed(
        self, message: link.DefineFailed, frames: Sequence[wire.Buffer], now: float
    ) -> None:
        self._administration.define_failed(from_code(message.code, message.message), now)

    # --- the scheduler ------------------------------------------------------------------------

    def _tell(self, event: Event, now: float) -> None:
        commands = self._scheduler.handle(event, now)
        if self._recorder is not None:
            self._recorder.turn(now, event, commands)
        replies = []
        for command in commands:
            if type(command) in _REPLIES:  # the device idles until it hears of its next batch
                replies.append(command)
            else:
                _ON_COMMAND[type(command)](self, command, now)
        for command in replies:
            _ON_COMMAND[type(command)](self, command, now)
        while self._settled:  # when all is carried out that was ordered before
            self._administration.settled(self._settled.popleft(), now)

    def _do_prepare(self, command: Prepare, now: float) -> None:
        pending = self._pending[command.rid]
        pending.ordered()
        if not pending.light:  # else it is a part of its batch
            self._owed.prepare(command.rid)
            self.vigil.prepare(command.rid, pending.resolved.rows, now)
        # A light one is for a Run, and none comes before that: the worker wakes once for all.
        is_for_later = pending.light and self.settled_until_s > now
        self._outlet.to_worker(pending.to_prepare, soon=not is_for_later)

    def _do_order(self, command: Command, now: float) -> None:
        order = translation.ORDERS[type(command)](command)
        self._outlet.to_worker([link.encode(order)])

    def _do_calibrate(self, command: Calibrate, now: float) -> None:
        self._owed.calibrate(command.model)
        self._do_order(command, now)
        self.vigil.calibrate(command.model, command.rows, now)

    def _do_load(self, command: Load, now: float) -> None:
        self._owed.load(command.block)
        self._do_order(command, now)
        self.vigil.load(command.block, now)

    def _do_unload(self, command: Unload, now: float) -> None:
        self._owed.unload(command.block)
        self._do_order(command, now)
        self.vigil.unload(command.block, now)

    def _do_run(self, command: Run, now: float) -> None:
        self._owed.run(command.batch, command.members)
        self._do_order(command, now)
        images = sum([self._pending[member.rid].late_images for member in command.members])
        self.vigil.run(command, self._scheduler.expected_s(command.batch), images, now)
        models = self._versions.models
        tasks = {models[key].task for member in command.members for key in member.models}
        self._statistics.ran(tasks, command.rows)

    def _do_answer(self, command: Answer, now: float) -> None:
        credits = self._credits(self._pending[command.rid])
        pending = self._settle(command.rid)
        emulated = self._device is not None and self._device.emulated
        header, raw = pending.reply(command, emulated=emulated, credits=credits)
        self._send(pending.client, header, raw, now)
        self._statistics.answered(pending.resolved, command)

    def _do_refuse(self, command: Refuse, now: float) -> None:
        pending = self._settle(command.rid)
        self._statistics.refused(pending.resolved.tasks, command.code)
        error = from_code(command.code, command.message, retry_after_s=command.retry_after_s)
        self._send_error(pending.client, error, pending.id, now)

    def _do_settled(self, command: Settled, now: float) -> None:
        self._settled.append(command)

    def _do_drained(self, command: Drained, now: float) -> None:
        self.drained = True

    def _settle(self, rid: int) -> Pending:
        pending = self._pending.pop(rid)
        self.payload_bytes -= pending.held_bytes
        self._clients.end(pending.client, pending.id)
        return pending

    def _credits(self, answered: Pending) -> int:
        """How many such requests its client may have unanswered: its share of the queue now."""
        limits, waiting = self._config.scheduler, self._clients.waiting
        by_rows = limits.queue_rows // (waiting * answered.resolved.rows)
        by_bytes = self.room.payload_bytes // (waiting * max(1, answered.payload_bytes))
        by_answers = self._limits.max_message_bytes // max(1, answered.answer_bytes)
        return max(1, min(self._limits.max_in_flight, by_rows, by_bytes, by_answers))

    # --- replies ------------------------------------------------------------------------------

    def _send(
        self, client: Client, header: wire.ReplyHeader, payload: Sequence[wire.Buffer], now: float
    ) -> None:
        self._deliver(client, wire.encode_reply(header, payload), now)

    def _send_error(self, client: Client, error: EdgedError, id: str | None, now: float) -> None:
        self._deliver(client, wire.encode_error(error, id), now)

    def _deliver(self, client: Client, frames: wire.Frames, now: float) -> None:
        """Send, and if nobody is there to read, drop what else the client has asked for."""
        if not self._outlet.to_client(client.routing_id, frames):
            self._uploads.forget(client)
            if client.in_flight:
                self._clients.forget(client)
                self._lose(client, now)

    def _lose(self, client: Client, now: float) -> None:
        log.info("client %d is gone: %d requests dropped", client.number, len(client.in_flight))
        self._uploads.forget(client)
        self._tell(ClientGone(client.number), now)

    def _report_statistics(self, now: float, worker: link.Memory | None = None) -> None:
        asked, self._asked_statistics = self._asked_statistics, []
        self._statistics_by = math.inf
        if not asked:
            return
        body = wire.StatisticsReply(
            id="",
            server=wire.ServerStatistics(
                state=self.state,
                reason=self._why_not_ready() or self._remark(),
                pid=os.getpid(),
                uptime_s=now - self._started_at,
                worker_restarts=self._restarts,
                clients=len(self._clients),
                in_flight=self._scheduler.open_requests,
                queued=self._scheduler.waiting_requests,
            ),
            tasks=self._statistics.tasks(),
            batches=self._statistics.batches(),
            memory=self._memory_report(worker),
        )
        for client, id in asked:
            self._send(client, msgspec.structs.replace(body, id=id), (), now)

    def _memory_report(self, worker: link.Memory | None) -> dict[str, int]:
        """Bytes: the account, which adds up to its total, and what was measured.

        The worker's are left out while there is none: absent, not wrong.
        """
        report: dict[str, int] = {}
        if worker is not None:
            account = msgspec.structs.asdict(self._scheduler.memory().account)
            report |= {f"{name}_bytes": round(count) for name, count in account.items()}
            report |= {"worker_pss_bytes": worker.pss_bytes, "buffer_bytes": worker.buffer_bytes}
            report["front_pss_bytes"] = self._gauge.front.pss_bytes
        else:
            report["front_pss_bytes"] = footprint().pss_bytes
        report["clients_shared_bytes"] = self._regions.nbytes
        return report


_REPLIES = (Answer, Refuse)
_PROGRESS = (link.Ready, link.Loaded, link.LoadFailed)  # after which more models may be served

_ON_REQUEST: dict[type, Callable[[Front, Client, wire.Request, float], None]] = {
    wire.Infer: Front._infer,
    wire.Cancel: Front._cancel,
    wire.Announce: Front._announce,
    wire.Chunk: Front._chunk,
    wire.Share: Front._share,
    wire.Statistics: Front._ask_statistics,
    **dict.fromkeys(inquiries.INQUIRIES, Front._inquire),
    wire.Ping: Front._ping,
}

_ON_WORKER: dict[type, Callable[[Front, Any, Sequence[wire.Buffer], float], None]] = {
    link.Ready: Front._ready,
    link.Failed: Front._failed,
    link.BatchDone: Front._batch_done,
    link.BatchFailed: Front._batch_failed,
    link.Memory: Front._memory,
    link.Loaded: Front._loaded,
    link.LoadFailed: Front._load_failed,
    link.Unloaded: Front._unloaded,
    link.Calibrated: Front._calibrated,
    link.Defined: Front._defined,
    link.DefineFailed: Front._define_failed,
}

_ON_COMMAND: dict[type, Callable[[Front, Any, float], None]] = {
    **dict.fromkeys(translation.ORDERS, Front._do_order),
    Prepare: Front._do_prepare,
    Calibrate: Front._do_calibrate,
    Load: Front._do_load,
    Unload: Front._do_unload,
    Run: Front._do_run,
    Answer: Front._do_answer,
    Refuse: Front._do_refuse,
    Settled: Front._do_settled,
    Drained: Front._do_drained,
}

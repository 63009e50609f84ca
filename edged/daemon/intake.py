"""What clients send: messages into events for the scheduler, or replies at once.

Owns the numbers of requests. Knows no sockets, and not what becomes of a request: its answer is
`edged.daemon.pending`'s business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edged import wire
from edged.core.events import Arrived, CancelAsked, Event, Request
from edged.core.requests.admission import RESTART_S
from edged.daemon import inquiries
from edged.daemon.figures import Figures
from edged.daemon.models.catalog import Resolved
from edged.daemon.peers.clients import ConnectedClient
from edged.daemon.pending import PendingRequest, Replies
from edged.daemon.service import Service
from edged.errors import EdgedError, ResourceExhausted, Unavailable
from edged.link import messages as link
from edged.pictures.files import light_pixels
from edged.uplink.receiver import Uploads

log = logging.getLogger("edged")

# A client may be over its limit through no fault of its own: what it sent again, because its answer
# was late, is done again and counts. One of so many requests should be answered after this time.
ANSWER_S = 0.1


@dataclass(eq=False)
class Intake:
    """Takes the messages of clients. Every one is answered, but for a repeated open request."""

    service: Service
    uploads: Uploads
    replies: Replies
    figures: Figures
    tell: Callable[[Event, float], None]  # tells the scheduler, and carries out what it orders

    def __post_init__(self) -> None:
        self._server = self.service.config.server
        self._limits = self.service.config.published_limits()
        self._clients = self.service.clients
        self._regions = self.service.regions
        self._last_rid = 0

    def on_request(self, routing_id: bytes, frames: Sequence[wire.Buffer], now: float) -> None:
        client = self._clients.find(routing_id) or self._clients.enter(routing_id, now)
        client.seen_at = now
        id: str | None = None
        try:
            request = wire.decode_request(frames, self._limits)
            id = request.header.id
            _HANDLERS[type(request.header)](self, client, request, now)
        except wire.BadRequest as error:
            self.replies.reject(client, error, error.id, now)
        except EdgedError as error:
            refuse = self.replies.send_error
            if isinstance(request.header, wire.Infer):
                refuse = self.replies.reject
            refuse(client, error, id, now)

    # --- requests for inference -----------------------------------------------------------------

    def _infer(self, client: ConnectedClient, request: wire.RequestMessage, now: float) -> None:
        infer = request.header
        assert isinstance(infer, wire.Infer)
        if infer.id in client.in_flight:
            return  # a retry of a request that is still open: its answer will do for both
        if len(client.in_flight) >= (most := self._limits.max_in_flight):
            raise ResourceExhausted(
                f"{most} requests of this client are unanswered, the limit: wait for answers",
                retry_after_s=ANSWER_S,
            )
        resolved = self.service.catalog.resolve(infer.inputs, infer.outputs)
        payload, shared = request.payload, None
        if infer.parameters.upload is not None:
            payload = self.uploads.take(client, infer)
        if infer.parameters.shared is not None:
            shared = self._regions.find(client.routing_id, infer.parameters.shared)
        size = sum(map(len, payload) if shared is None else shared.sizes)
        inline, images = size <= link.INLINE_BYTES, 0
        if resolved.inputs[0].kind != "tensor":
            inline = inline and self.service.worker.lanes_prepare
            inline = inline and self._is_light(client, resolved, payload, shared)
            images = resolved.rows if inline else 0
        self._last_rid += 1
        priority = infer.parameters.priority
        header = link.PayloadHeader(
            self._last_rid,
            resolved.rows,
            resolved.inputs,
            resolved.asks,
            inline,
            shared,
            client.number,
            priority - 1 if priority else self._server.default_level,
        )
        order, held = [link.encode(header), *payload], size if shared is None else 0
        pending = PendingRequest(
            client, infer.id, resolved, order, size, held, inline, images, header.level
        )
        self.replies.add(header.rid, pending)
        self._arrive(header, infer.parameters, pending, now)

    def _is_light(
        self,
        client: ConnectedClient,
        resolved: Resolved,
        payload: Sequence[wire.Buffer],
        shared: link.PayloadFile | None,
    ) -> bool:
        """Whether a lane may decode these images itself. Lanes that do so take all processors of
        the host, and have nobody to wait for but each other.
        """
        if resolved.inputs[0].kind != "encoded":
            return True
        if shared is not None:
            payload = self._regions.beginnings(client.routing_id, shared)
        pixels = light_pixels(payload)
        return pixels is not None and 0 < pixels <= link.INLINE_PIXELS

    def _arrive(
        self,
        header: link.PayloadHeader,
        parameters: wire.InferParameters,
        pending: PendingRequest,
        now: float,
    ) -> None:
        timeout_us, resolved = parameters.timeout, pending.resolved
        if log.isEnabledFor(logging.DEBUG):
            asked = ", ".join(wanted.task for wanted in resolved.outputs)
            log.debug("%s has come, for %s", pending, asked, extra=pending.fields(header.rid))
        request = Request(
            rid=header.rid,
            client=header.client,
            parts=resolved.parts,
            rows=resolved.rows,
            staging_rows=resolved.staging_rows,
            level=header.level,
            deadline_s=now + (timeout_us / 1e6 if timeout_us else self._server.default_timeout_s),
            stream=parameters.stream,
            ordered=parameters.ordered,
            inline=header.inline,
            payload_bytes=pending.payload_bytes,
        )
        self.tell(Arrived(request), now)

    # --- everything else ------------------------------------------------------------------------

    def _cancel(self, client: ConnectedClient, request: wire.RequestMessage, now: float) -> None:
        header = request.header
        assert isinstance(header, wire.Cancel)
        rid = client.in_flight.get(header.request)
        if rid is not None:
            self.tell(CancelAsked(rid), now)
        cancelled = rid is not None or self.uploads.cancel(client, header.request)
        self.replies.send(client, wire.CancelReply(header.id, cancelled), now)

    def _announce(self, client: ConnectedClient, request: wire.RequestMessage, now: float) -> None:
        header = request.header
        assert isinstance(header, wire.Announce)
        if self.service.draining:
            raise Unavailable("the daemon is shutting down", retry_after_s=RESTART_S)
        catalog = self.service.catalog
        group = catalog.group(catalog.find(header.task).name)
        self.uploads.announce(client, header, group, now)

    def _chunk(self, client: ConnectedClient, request: wire.RequestMessage, now: float) -> None:
        assert isinstance(request.header, wire.Chunk)
        reply = self.uploads.chunk(client, request.header, request.payload[0], now)
        if reply is not None:
            self.replies.send(client, reply, now)

    def _share(self, client: ConnectedClient, request: wire.RequestMessage, now: float) -> None:
        assert isinstance(request.header, wire.Share)
        reply = self._regions.share(client.routing_id, request.header)
        self.replies.send(client, reply, now)

    def _statistics(
        self, client: ConnectedClient, request: wire.RequestMessage, now: float
    ) -> None:
        self.figures.ask(client, request.header.id, now)

    def _ping(self, client: ConnectedClient, request: wire.RequestMessage, now: float) -> None:
        assert isinstance(request.header, wire.Ping)
        if request.header.interval is not None:
            client.promised_s = request.header.interval / 1e6
        self._inquire(client, request, now)

    def _inquire(self, client: ConnectedClient, request: wire.RequestMessage, now: float) -> None:
        reply = inquiries.reply(request.header, self.service.situation())
        self.replies.send(client, reply, now)


_HANDLERS: dict[type, Callable[[Intake, ConnectedClient, wire.RequestMessage, float], None]] = {
    **dict.fromkeys(inquiries.INQUIRIES, Intake._inquire),
    wire.Infer: Intake._infer,
    wire.Cancel: Intake._cancel,
    wire.Announce: Intake._announce,
    wire.Chunk: Intake._chunk,
    wire.Share: Intake._share,
    wire.StatisticsQuery: Intake._statistics,
    wire.Ping: Intake._ping,
}

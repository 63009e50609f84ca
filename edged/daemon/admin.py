"""The admin endpoint: reads its requests and sends their answers. Knows no sockets.

The endpoint is one of its own, with its own messages, so that a client that may use the daemon
cannot change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edged import wire
from edged.daemon import inquiries
from edged.daemon.models.administration import Administration, Done
from edged.daemon.models.catalog import version_of
from edged.daemon.models.versions import Change
from edged.daemon.service import Service
from edged.errors import EdgedError

Send = Callable[[bytes, wire.Frames], object]


class AdminEndpoint:
    """Answers each request once, when it is done. A request that comes again before is ignored."""

    def __init__(self, service: Service, *, send: Send) -> None:
        self._service = service
        self._administration = service.administration
        self._limits = service.config.published_limits()
        self._send = send
        self._open: set[tuple[bytes, str]] = set()  # routing ids and ids of open requests

    def on_request(self, routing_id: bytes, frames: Sequence[wire.Buffer], now: float) -> None:
        """An administrator's message."""
        try:
            request = wire.decode_request(frames, self._limits, wire.ADMIN_REQUESTS)
        except wire.BadRequest as error:
            self._send(routing_id, wire.encode_error(error, error.id))
            return
        header = request.header
        if (routing_id, header.id) in self._open:
            return
        self._open.add((routing_id, header.id))
        try:
            if type(header) in _BEGIN:
                _BEGIN[type(header)](self, routing_id, header, now)
            elif isinstance(header, wire.ResidencyQuery):
                scheduler = self._service.scheduler
                blocks = scheduler.memory().blocks
                there = {one.block: one.bytes for one in blocks if one.state != "loading"}
                held = there, scheduler.resident_bytes
                self._answer(routing_id, residency(self._administration, *held, header.id))
            else:
                self._answer(routing_id, inquiries.reply(header, self._service.situation()))
        except EdgedError as error:
            self._refuse(routing_id, header.id, error)

    # --- what takes time --------------------------------------------------------------------------

    def _set(self, routing_id: bytes, header: wire.ModelSet, now: float) -> None:
        reply = wire.ModelSetReply(header.id, header.name, header.to)
        change = _CHANGES[header.to]
        change(self._administration, header.name, self._when_done(routing_id, reply), now)

    def _reload(self, routing_id: bytes, header: wire.Reload, now: float) -> None:
        def done(outcome: Change | EdgedError, now: float) -> None:
            if isinstance(outcome, EdgedError):
                self._refuse(routing_id, header.id, outcome)
            else:
                names = (outcome.added, outcome.changed, outcome.removed)
                self._answer(routing_id, wire.ReloadReply(header.id, *names))

        self._administration.reload(done, now)

    def _when_done(self, routing_id: bytes, reply: wire.ReplyHeader) -> Done:
        assert reply.id is not None, "this is a bug: every reply but an error has an id"
        id = reply.id

        def done(error: EdgedError | None, now: float) -> None:
            if error is None:
                self._answer(routing_id, reply)
            else:
                self._refuse(routing_id, id, error)

        return done

    # --- answers ----------------------------------------------------------------------------------

    def _answer(self, routing_id: bytes, reply: wire.ReplyHeader) -> None:
        assert reply.id is not None, "this is a bug: every reply but an error has an id"
        self._open.discard((routing_id, reply.id))
        self._send(routing_id, wire.encode_reply(reply))

    def _refuse(self, routing_id: bytes, id: str, error: EdgedError) -> None:
        self._open.discard((routing_id, id))
        self._send(routing_id, wire.encode_error(error, id))


def residency(
    administration: Administration, bytes_used: dict[str, int], total_bytes: int, id: str
) -> wire.ResidencyReply:
    """How much of each version is on the device. `bytes_used` are the blocks there, with the size
    of each alone, and `total_bytes` what they hold together."""
    versions = administration.versions
    models = []
    for key, manifest in sorted(versions.models.items()):
        blocks = {step.block for step in manifest.steps}
        there = blocks & bytes_used.keys()
        state = versions.state(key)
        served = state == "SERVING"
        models.append(
            wire.ModelResidency(
                name=manifest.name,
                version=version_of(manifest),
                state="UNLOADED" if served and manifest.name in administration.unloaded else state,
                blocks=len(blocks),
                blocks_resident=len(there),
                total_bytes=sum(versions.block_bytes[block] for block in blocks),
                resident_bytes=sum(bytes_used[block] for block in there),
                pinned=served and manifest.name in administration.pinned,
            )
        )
    return wire.ResidencyReply(id, tuple(models), total_bytes)


_CHANGES: dict[wire.Residence, Callable[[Administration, str, Done, float], None]] = {
    "loaded": Administration.load,
    "unloaded": Administration.unload,
    "pinned": Administration.pin,
    "unpinned": Administration.unpin,
}

_BEGIN: dict[type, Callable[[AdminEndpoint, bytes, Any, float], None]] = {
    wire.ModelSet: AdminEndpoint._set,
    wire.Reload: AdminEndpoint._reload,
}

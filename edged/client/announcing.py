"""Announced uploads of one client: asks for grants, and says when each chunk is due. No I/O.

Knows no clock: `now` is an argument. `edged.uplink.sender` knows how far each upload is.
"""

from __future__ import annotations

from collections.abc import Callable

from edged import wire
from edged.client.call import Call, CallStage
from edged.client.table import CallTable
from edged.errors import Cancelled
from edged.uplink.sender import Upload


class Announcing:
    """Owns the announcements that wait for a grant."""

    def __init__(self, table: CallTable, next_id: Callable[[], str]) -> None:
        self._table = table
        self._next_id = next_id
        self._announced: dict[str, Call] = {}  # inferences, by the id of an open ANNOUNCE

    def find(self, id: str) -> Call | None:
        """The inference that the announcement `id` belongs to."""
        return self._announced.get(id)

    def announce(self, call: Call, upload: Upload, now: float) -> None:
        """Ask for a grant for the rest of an upload."""
        infer = call.header
        assert isinstance(infer, wire.Infer), "this is a bug: no inference"
        header = wire.Announce(
            id=self._next_id(),
            request=call.id,
            task=infer.outputs[0].name,
            bytes=upload.left_bytes,
            sent=upload.sent_bytes,
            rows=infer.inputs[0].shape[0],
            link_bytes_s=upload.link_bytes_s,
        )
        self._announced[header.id] = call
        self._table.add(Call(header, (), began_s=now, deadline_s=call.deadline_s))

    def granted(self, grant: wire.GrantReply, now: float) -> None:
        """The daemon has answered an announcement."""
        call = self._announced.pop(grant.id, None)
        if call is not None and call.upload is not None:
            call.upload.granted(grant, now)
            self.pace(call, call.upload, now)

    def received(self, call: Call, received_bytes: int, now: float) -> None:
        """The daemon has acknowledged chunks."""
        if call.stage is CallStage.UPLOADING and call.upload is not None:
            call.upload.acknowledged(received_bytes)
            self.pace(call, call.upload, now)

    def pace(self, call: Call, upload: Upload, now: float) -> None:
        """Let the next chunk be sent when the grant allows it."""
        due_s = upload.due_at(now)
        if due_s > now:
            self._table.wake(call, min(call.deadline_s, due_s))
        elif call.rank is None:
            self._table.queue_chunk(call)

    def close(self, call: Call, now: float) -> None:
        """End the announcements of an inference that has ended, or is sent from its beginning."""
        for id in [id for id, announced in self._announced.items() if announced is call]:
            del self._announced[id]
            if (asked := self._table.open.get(id)) is not None:
                error = Cancelled(f"announcement {id} is not needed any more")
                self._table.end(asked, error, now)

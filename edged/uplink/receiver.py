"""Announced uploads: the bytes of each that have come, and the answers to announcements.

`edged.uplink.grants` decides which upload runs when. It also bounds the memory that uploads take,
since only announced bytes are accepted. Knows no sockets and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from edged import wire
from edged.daemon.peers.clients import ConnectedClient
from edged.errors import Cancelled, EdgedError, InvalidArgument, Unavailable
from edged.uplink.grants import Announcement, Grants, Key, UplinkSettings


@dataclass(slots=True, eq=False)
class _Upload:
    client: ConnectedClient
    announcement: str | None  # the id of an ANNOUNCE that waits for its grant
    data: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class Notice:
    """A message for a client: a grant, or why its request `id` has failed."""

    client: ConnectedClient
    id: str
    what: wire.GrantReply | EdgedError


class Uploads:
    """Owns the bytes of uploads until the request that they belong to."""

    def __init__(self, settings: UplinkSettings, limits: wire.Limits) -> None:
        self._shares_out = settings.rate_bytes_s > 0
        self._grants = Grants(
            settings, max_rows=limits.max_rows, max_client_uploads=limits.max_in_flight
        )
        self._uploads: dict[Key, _Upload] = {}
        self._notices: list[Notice] = []

    @property
    def held_bytes(self) -> int:
        """The bytes that have come for requests that have not come yet."""
        return sum([len(upload.data) for upload in self._uploads.values()])

    def announce(
        self, client: ConnectedClient, header: wire.Announce, group: str, now: float
    ) -> None:
        """Take an ANNOUNCE for a task of `group`; its answer will be a notice.

        Raises what Grants.announce raises.
        """
        if not self._shares_out:
            self._notices.append(Notice(client, header.id, wire.GrantReply(header.id)))
            return
        key = (client.number, header.request)
        known = self._uploads.get(key)
        if known is not None and known.announcement == header.id:
            return  # a repetition: the answer will do for both
        if known is not None:
            self._answer(known, Cancelled(f"upload {header.request} was announced again"))
        announcement = Announcement(
            key, group, header.rows, header.bytes, header.sent, header.link_bytes_s
        )
        try:
            self._grants.announce(announcement, now)
        except EdgedError:
            self._drop(key)
            raise
        if known is None or not header.sent:
            self._uploads[key] = _Upload(client, header.id)
        else:
            known.announcement = header.id

    def chunk(
        self, client: ConnectedClient, header: wire.Chunk, data: wire.Buffer, now: float
    ) -> wire.ChunkReply | None:
        """Take bytes of an upload. None: it has ended, which was answered, and they are dropped.

        Raises what Grants.received raises.
        """
        key = (client.number, header.id)
        try:
            if not self._grants.received(key, header.offset, memoryview(data).nbytes, now):
                return None
        except EdgedError:
            self._drop(key)
            raise
        upload = self._uploads[key]
        upload.data += data
        return wire.ChunkReply(header.id, len(upload.data))

    def take(self, client: ConnectedClient, header: wire.Infer) -> tuple[wire.Buffer, ...]:
        """The payload frames of an INFER that says it was uploaded; the upload ends.

        Raises Unavailable when it is not here, InvalidArgument when its size is another.
        """
        assert header.parameters.upload is not None, "this is a bug: nothing was uploaded"
        upload = self._drop((client.number, header.id))
        if upload is None:
            raise Unavailable(
                "what was uploaded for the request is not here (any more): upload it again",
                retry_after_s=0.0,
            )
        self._answer(upload, Cancelled("the request came before its upload was granted"))
        sizes = header.parameters.upload
        if sum(sizes) != len(upload.data):
            raise InvalidArgument(
                f"the request says that {sum(sizes)} bytes were uploaded, {len(upload.data)} came"
            )
        data = memoryview(upload.data).toreadonly()
        ends = accumulate(sizes)
        return tuple(data[end - size : end] for size, end in zip(sizes, ends, strict=True))

    def cancel(self, client: ConnectedClient, request: str) -> bool:
        """Cancel an upload, and answer its request with Cancelled. False: there is none."""
        upload = self._drop((client.number, request))
        if upload is None:
            return False
        cancelled = Cancelled("cancelled by the client")
        self._answer(upload, cancelled)
        self._notices.append(Notice(client, request, cancelled))
        return True

    def forget(self, client: ConnectedClient) -> None:
        """The client is gone, and with it what it uploaded."""
        for key in self._grants.keys_of(client.number):
            self._drop(key)

    def drain(self) -> None:
        """Nobody is granted anything any more."""
        for key, upload in list(self._uploads.items()):
            if upload.announcement is not None:
                self._answer(upload, Unavailable("the daemon is shutting down", retry_after_s=1.0))
                self._drop(key)

    def notices(self, now: float) -> Iterator[Notice]:
        """The messages that are due to clients now."""
        expired, granted = self._grants.turn(now)
        for key in expired:
            upload = self._uploads.pop(key)
            gone = Unavailable("the upload came to a stop and was given up", retry_after_s=0.0)
            self._notices.append(Notice(upload.client, key[1], gone))
        for grant in granted:
            upload = self._uploads[grant.key]
            reply = wire.GrantReply(
                upload.announcement or "",
                start_us=round((grant.start_s - now) * 1e6),
                rate_bytes_s=max(1, int(grant.rate_bytes_s)),
                lease_us=round((grant.end_s - grant.start_s) * 1e6),
            )
            self._answer(upload, reply)
        notices, self._notices = self._notices, []
        yield from notices

    def wakeup_at(self) -> float:
        """When `notices` has something, if nothing else happens."""
        return -math.inf if self._notices else self._grants.wakeup_at()

    def _answer(self, upload: _Upload, what: wire.GrantReply | EdgedError) -> None:
        if upload.announcement is not None:
            self._notices.append(Notice(upload.client, upload.announcement, what))
            upload.announcement = None

    def _drop(self, key: Key) -> _Upload | None:
        self._grants.end(key)
        return self._uploads.pop(key, None)

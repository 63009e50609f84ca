"""Grants of the uplink: which announced uploads run now, how fast, and until when. Pure.

Knows no payloads and no messages, only keys, sizes and times: bytes, bytes per second, seconds.

Announced uploads wait until the uplink is free. Then those of one group, which can share a batch,
run side by side in a *round*, and all end at the same time: equation (12) of Qu et al.,
PartialLoading. With d the bytes of an upload and c the rate that its client's link carries alone,
its part of the uplink is (d / c) / sum(d / c), and its rate is that part of c. The parts of a round
sum to one, and a round begins when the leases of the round before are over, so grants never sum to
more than the uplink.

A grant is a lease. It ends when all bytes have arrived, when the client gives it back, when nothing
has arrived for a while, or when its time is up; a client with bytes left then announces them again.
So a client whose link is slower than it said, or that has vanished, keeps the others waiting for no
longer than a lease.

Clients take turns, one upload each. A client that sends nothing at all under a grant loses it soon,
and its announcements wait longer each time, until it has sent something.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edged.bounds import Bytes, BytesOrNone, Seconds
from edged.errors import InvalidArgument, ResourceExhausted, Unavailable
from edged.typeinfo import describe

Key: TypeAlias = tuple[int, str]
"""An upload: the number of its client, and the client's name for it."""

# A lease is longer than the upload takes at its rate, which a connection reaches after a while.
EXTRA_PART = 0.1  # part of the upload's time that is added to its lease
EXTRA_S = 0.05  # time that is added to every lease
TRANSIT_S = 0.5  # bytes that are on their way when a lease ends are taken for so long
FIRST_S = 0.5  # time for the first bytes of a grant; doubled after each grant without any
MOST_LAPSES = 6  # further grants without any bytes change nothing more
MOST_KNOWN = 4_096  # clients whose lapses are counted


class UplinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The configuration of the uplink. With `rate_bytes_s` 0 uploads are not granted."""

    rate_bytes_s: BytesOrNone = 0  # rate of all uploads together
    shares: Literal["finish-together", "equal"] = "finish-together"
    # A round begins this long after an announcement, so that others can join it.
    gather_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.01
    max_lease_s: Seconds = 5.0  # longer uploads take turns
    stall_s: Seconds = 2.0  # an upload ends after so long without a byte
    max_bytes: Bytes = (
        268_435_456  # size of all announced uploads that are not part of a request yet
    )
    max_client_bytes: Bytes = 67_108_864  # size of those of one client


@dataclass(frozen=True, slots=True)
class Announcement:
    """An upload that a client asks a grant for. `link_bytes_s` is the rate of the client's link
    when it has the uplink to itself; None: the rate of the uplink.
    """

    key: Key
    group: str  # uploads of one group can share a batch
    rows: int
    size_bytes: int  # bytes that are left to upload
    sent_bytes: int = 0  # bytes that were sent under earlier grants
    link_bytes_s: float | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission to upload at `rate_bytes_s` from `start_s` until `end_s`."""

    key: Key
    start_s: float
    rate_bytes_s: float
    end_s: float


class _Stage(Enum):
    WAITING = auto()
    GRANTED = auto()
    COMPLETE = auto()  # all bytes have arrived; the INFER that they belong to follows


@dataclass(slots=True)
class _Upload:
    group: str
    rows: int
    left_bytes: int
    received_bytes: int
    link_bytes_s: float
    announced_s: float
    stage: _Stage = _Stage.WAITING
    heard_s: float = 0.0  # when bytes arrived last, or the grant began
    is_silent: bool = False  # nothing has arrived under the present grant
    grant: Grant | None = None

    @property
    def size_bytes(self) -> int:
        return self.left_bytes + self.received_bytes

    @property
    def need_s(self) -> float:
        """The time that the upload would take alone; p_k of the paper."""
        return self.left_bytes / self.link_bytes_s


class Grants:
    """Owns the table of announced uploads. The caller calls `turn` after every other call, and at
    `wakeup_at()`.
    """

    def __init__(self, settings: UplinkSettings, *, max_rows: int, max_client_uploads: int) -> None:
        """`max_rows` is the number of rows of the largest batch, and so of a round."""
        self._settings = settings
        self._max_rows = max_rows
        self._max_client_uploads = max_client_uploads
        self._uploads: dict[Key, _Upload] = {}
        # The uploads by stage, in the order in which they reached it.
        self._waiting: dict[Key, _Upload] = {}
        self._granted: dict[Key, _Upload] = {}
        self._complete: dict[Key, _Upload] = {}
        self._lapses: Counter[int] = Counter()  # grants in a row that a client has not used
        self._bytes = 0
        self._client_bytes: Counter[int] = Counter()
        self._client_uploads: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._uploads)

    @property
    def active(self) -> tuple[Grant, ...]:
        """The grants that have not ended."""
        return tuple(upload.grant for upload in self._granted.values() if upload.grant is not None)

    def announce(self, announcement: Announcement, now: float) -> None:
        """Put an upload at the end of the queue. A known one gives its grant back, and continues
        after `sent_bytes` or from its beginning.

        Raises ResourceExhausted if it can never be granted, Unavailable if not now.
        """
        key = announcement.key
        known = self._uploads.get(key)
        if announcement.sent_bytes and announcement.sent_bytes != (known and known.received_bytes):
            self.end(key)
            raise Unavailable(
                f"the {announcement.sent_bytes} bytes that were sent before are not here (any "
                "more): announce the upload again from its beginning",
                retry_after_s=0.0,
            )
        size_bytes = announcement.sent_bytes + announcement.size_bytes
        self._check_room(key, size_bytes, 0 if known is None else known.size_bytes)
        uplink = float(self._settings.rate_bytes_s)
        upload = _Upload(
            group=announcement.group,
            rows=announcement.rows,
            left_bytes=announcement.size_bytes,
            received_bytes=announcement.sent_bytes,
            link_bytes_s=min(announcement.link_bytes_s or uplink, uplink),
            announced_s=now + self._penalty_s(key[0]),
        )
        self.end(key)
        self._uploads[key] = self._waiting[key] = upload
        self._charge(key[0], size_bytes, 1)

    def received(self, key: Key, offset: int, size_bytes: int, now: float) -> bool:
        """Bytes have arrived. False: they are dropped, since the upload is not known (any more).

        Raises Unavailable when bytes before them are missing, InvalidArgument when they are more
        than was announced; that ends the upload.
        """
        upload = self._granted.get(key)
        if upload is None:
            return False
        if offset != upload.received_bytes:
            self.end(key)
            raise Unavailable(
                f"bytes of the upload from {upload.received_bytes} on are missing, those from "
                f"{offset} on came: announce it again and send all of it",
                retry_after_s=0.0,
            )
        if size_bytes > upload.left_bytes:
            self.end(key)
            raise InvalidArgument(
                f"the upload brings {size_bytes - upload.left_bytes} bytes more than were "
                "announced: announce all of them"
            )
        upload.received_bytes += size_bytes
        upload.left_bytes -= size_bytes
        upload.heard_s = now
        upload.is_silent = False
        self._lapses.pop(key[0], None)
        if not upload.left_bytes:
            upload.stage = _Stage.COMPLETE
            self._complete[key] = self._granted.pop(key)
        return True

    def end(self, key: Key) -> bool:
        """Forget an upload and give its grant back. False: there is no such upload."""
        upload = self._uploads.pop(key, None)
        if upload is None:
            return False
        for stage in (self._waiting, self._granted, self._complete):
            stage.pop(key, None)
        self._charge(key[0], -upload.size_bytes, -1)
        return True

    def keys_of(self, client: int) -> tuple[Key, ...]:
        """The uploads of a client."""
        if client not in self._client_uploads:
            return ()
        return tuple(key for key in self._uploads if key[0] == client)

    def turn(self, now: float) -> tuple[tuple[Key, ...], tuple[Grant, ...]]:
        """The uploads that end now, neither complete nor used, and the grants that begin."""
        expired = tuple(
            key
            for stage in (self._granted, self._complete)
            for key, upload in stage.items()
            if self._expires_at(upload) <= now
        )
        silent = {key[0] for key in expired if self._uploads[key].is_silent}
        for key in expired:
            self.end(key)
        for client in silent:
            self._lapsed(client)
        if self._next_round_at() > now:
            return expired, ()
        return expired, self._begin_round(now)

    def wakeup_at(self) -> float:
        """When to call `turn`, if nothing else happens before; infinity: nothing is due."""
        if not self._uploads:
            return math.inf
        times = [
            self._expires_at(upload)
            for stage in (self._granted, self._complete)
            for upload in stage.values()
        ]
        return min([self._next_round_at(), *times])

    # --- inside -------------------------------------------------------------------------------

    def _next_round_at(self) -> float:
        """When to choose the next round. Others have had time to join by then, and the uplink is
        free, or will be soon: the grants travel to the clients meanwhile.
        """
        if not self._waiting:
            return math.inf
        gather_s = self._settings.gather_s
        oldest_s = min(upload.announced_s for upload in self._waiting.values())
        return max(oldest_s + gather_s, self._busy_until() - gather_s)

    def _busy_until(self) -> float:
        return max((grant.end_s for grant in self.active), default=-math.inf)

    def _begin_round(self, now: float) -> tuple[Grant, ...]:
        members = self._choose(now)
        start_s = max(now, self._busy_until())
        parts = _PARTS[self._settings.shares]([upload.need_s for upload in members.values()])
        grants = []
        for (key, upload), part in zip(members.items(), parts, strict=True):
            rate_bytes_s = part * upload.link_bytes_s
            lease_s = min(upload.left_bytes / rate_bytes_s, self._settings.max_lease_s)
            end_s = start_s + lease_s * (1 + EXTRA_PART) + EXTRA_S
            upload.grant = Grant(key, start_s, rate_bytes_s, end_s)
            upload.stage = _Stage.GRANTED
            upload.heard_s = start_s
            upload.is_silent = True
            self._granted[key] = self._waiting.pop(key)
            grants.append(upload.grant)
        return tuple(grants)

    def _choose(self, now: float) -> dict[Key, _Upload]:
        """The uploads of the next round: one group's, as many as fill a batch or a lease."""
        turns: Counter[int] = Counter()
        ranked = []
        for key, upload in self._waiting.items():
            if upload.announced_s <= now:
                turns[key[0]] += 1
                ranked.append((turns[key[0]], upload.announced_s, key, upload))
        ranked.sort(key=lambda place: place[:2])
        group = ranked[0][3].group
        chosen: dict[Key, _Upload] = {}
        rows, need_s = 0, 0.0
        for _, _, key, upload in ranked:
            if upload.group != group:
                continue
            rows += upload.rows
            need_s += upload.need_s
            if chosen and (rows > self._max_rows or need_s > self._settings.max_lease_s):
                break
            chosen[key] = upload
        return chosen

    def _lapsed(self, client: int) -> None:
        """The client has let a grant pass without a byte: its other announcements wait longer."""
        if self._lapses[client] < MOST_LAPSES:
            self._lapses[client] += 1
        if len(self._lapses) > MOST_KNOWN:
            del self._lapses[next(iter(self._lapses))]
        for key, upload in self._waiting.items():
            if key[0] == client:
                upload.announced_s += self._penalty_s(client)

    def _penalty_s(self, client: int) -> float:
        return self._settings.stall_s * self._lapses.get(client, 0)

    def _expires_at(self, upload: _Upload) -> float:
        stalled_s = upload.heard_s + self._settings.stall_s
        if upload.stage is _Stage.COMPLETE or upload.grant is None:
            return stalled_s
        if upload.is_silent:
            patience_s = FIRST_S * 2.0 ** self._lapses.get(upload.grant.key[0], 0)
            stalled_s = min(stalled_s, upload.heard_s + patience_s)
        return min(stalled_s, upload.grant.end_s + TRANSIT_S)

    def _check_room(self, key: Key, size_bytes: int, known_bytes: int) -> None:
        settings = self._settings
        client_bytes = self._client_bytes[key[0]] + size_bytes - known_bytes
        if client_bytes > settings.max_client_bytes:
            raise ResourceExhausted(
                f"{client_bytes} bytes announced by this client are above the limit of "
                f"{settings.max_client_bytes}: upload what was announced before announcing more"
            )
        if key not in self._uploads and self._client_uploads[key[0]] >= self._max_client_uploads:
            raise ResourceExhausted(
                f"{self._max_client_uploads} uploads of this client are announced, which is the "
                "limit: finish one before announcing another"
            )
        if self._bytes + size_bytes - known_bytes > settings.max_bytes:
            raise Unavailable(
                f"uploads of {self._bytes} bytes are announced already; try again later",
                retry_after_s=math.fsum(upload.need_s for upload in self._uploads.values()),
            )

    def _charge(self, client: int, size_bytes: int, uploads: int) -> None:
        """Add to the bytes and uploads of a client. A client without uploads leaves the table."""
        self._bytes += size_bytes
        self._client_bytes[client] += size_bytes
        self._client_uploads[client] += uploads
        if not self._client_uploads[client]:
            del self._client_bytes[client], self._client_uploads[client]


def _finish_together(needs_s: list[float]) -> list[float]:
    """Equation (12): parts in proportion to the time that each upload takes alone."""
    total_s = math.fsum(needs_s)
    return [need_s / total_s for need_s in needs_s]


def _equal(needs_s: list[float]) -> list[float]:
    return [1.0 / len(needs_s)] * len(needs_s)


_PARTS = {"finish-together": _finish_together, "equal": _equal}


describe(UplinkSettings)

"""Who holds how much of the staging memory, and who may have more of it.

A client that is alone may have all of it. While others are served as well, the last part is kept
for those that hold less than an equal share: what they send is prepared at once, and need not
wait for a batch to end first. Does not know what is prepared, ready or running.
"""

from __future__ import annotations

from itertools import islice

from msgspec import Struct

from edged.core.events import Request
from edged.core.settings import Settings

LATELY_S = 2.0  # for so long a client that holds nothing counts as one that is served
_KEPT = 4  # one part of so many


class _Held(Struct, eq=False):
    rows: int = 0
    bytes: int = 0  # of payload
    left_s: float = 0.0  # when it last came to hold nothing


class Staging:
    """Owns the counts. Rows are those of staging, bytes those of the payloads."""

    def __init__(self, settings: Settings) -> None:
        self._rows = settings.staging_rows
        # Up to these anyone may have what is free. A full batch of one client always fits.
        self._open_rows = max(settings.max_batch_rows, self._rows - self._rows // _KEPT)
        self._levels = settings.levels
        self.bound_bytes(settings.staging_bytes)
        self.clear()

    def bound_bytes(self, most_bytes: int) -> None:
        """From now on there may be so many bytes of payload."""
        self._bytes = most_bytes
        self._open_bytes = most_bytes - most_bytes // _KEPT

    def clear(self) -> None:
        """The device is gone, and everything with it."""
        self.rows = 0
        self.bytes = 0
        self._level_rows = [0] * self._levels
        self._held: dict[int, _Held] = {}  # by client
        self._lately: dict[int, _Held] = {}  # those that hold nothing any more, oldest first

    @property
    def is_full(self) -> bool:
        return self.rows >= self._rows

    def has_room(self, request: Request) -> bool:
        """Whether it fits beside what is there; by its bytes, any request can be alone."""
        rows = self.rows + request.staging_rows
        size = self.bytes + request.payload_bytes
        return rows <= self._rows and (size <= self._bytes or not self.rows)

    def is_fair(self, request: Request) -> bool:
        """Whether its client may have so much, if there is room."""
        held = self._held.get(request.client)
        if held is None:
            return True
        rows, size = request.staging_rows, request.payload_bytes
        if self.rows + rows <= self._open_rows and self.bytes + size <= self._open_bytes:
            return True
        served = len(self._held) + len(self._lately)
        return served == 1 or max(held.rows / self._rows, held.bytes / self._bytes) * served < 1.0

    def enter(self, request: Request, now: float) -> None:
        client, rows, size = request.client, request.staging_rows, request.payload_bytes
        held = self._held.get(client)
        if held is None:
            held = self._lately.pop(client) if client in self._lately else _Held()
            self._held[client] = held
            if self._lately:
                self._forget(now - LATELY_S)
        held.rows += rows
        held.bytes += size
        self.rows += rows
        self.bytes += size
        self._level_rows[request.level] += rows

    def leave(self, request: Request, now: float) -> None:
        client, rows, size = request.client, request.staging_rows, request.payload_bytes
        held = self._held[client]
        held.rows -= rows
        held.bytes -= size
        self.rows -= rows
        self.bytes -= size
        self._level_rows[request.level] -= rows
        if self._lately:
            self._forget(now - LATELY_S)
        if not held.rows:
            del self._held[client]
            held.left_s = now
            self._lately[client] = held

    def _forget(self, before_s: float) -> None:
        """Clients that hold nothing since."""
        for client, held in list(islice(self._lately.items(), 2)):
            if held.left_s < before_s:
                del self._lately[client]

    def rows_ahead_of(self, request: Request, ordered_rows: int) -> int:
        """At most how many rows go before a newcomer's, besides those that are ordered: all of
        higher levels, and of its own level no more of each client than of its own."""
        others = self.rows - ordered_rows
        if others <= 0:
            return 0
        held = self._held.get(request.client)
        own = request.staging_rows + (held.rows if held is not None else 0)
        level = request.level
        here = min(self._level_rows[level], own * len(self._held))
        return min(others, sum(self._level_rows[:level]) + here)

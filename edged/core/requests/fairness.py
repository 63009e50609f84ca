"""Fairness among clients on the device: how much staging memory each may have, and whose rows run.

Whose request is prepared next is for the queue to say (waiting.py).

Shares: a client that is alone may have all of the staging memory. While others are served as well,
the last part is kept for those that hold less than an equal share: what they send is prepared at
once, and need not wait for a batch to end first.

Turns: start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), counted in rows. A client's
next rows begin where its last ones end or, if that is past, where the service is now; what begins
first goes first. So a client that asks for much stands behind itself, one that asks for little
stands behind one request of each other client, and one that is alone is never held up.

Knows nothing of what is prepared, ready or running.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import islice

from msgspec import Struct

from edged.core.events import Request
from edged.core.settings import SchedulerSettings

LATELY_S = 2.0  # a client that holds nothing any more counts as served for this long
KEPT_PART = 4  # one part in this many is kept for clients with less than an equal share
FEW_CLIENTS = 64  # the turns of this many clients are remembered before any are forgotten


class _Held(Struct, eq=False):
    """What one client holds."""

    rows: int = 0
    bytes: int = 0  # size of the payloads
    left_s: float = 0.0  # when it last came to hold nothing


class StagingShares:
    """Owns the counts. Rows are those of staging memory, bytes those of the payloads."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self.capacity_rows = rows = settings.staging_rows
        # Anyone may have what is free up to these. A full batch of one client always fits.
        self._open_rows = max(settings.max_batch_rows, rows - rows // KEPT_PART)
        self._levels = settings.levels
        self.bound_bytes(settings.staging_bytes)
        self.clear()

    def bound_bytes(self, most_bytes: int) -> None:
        """Allow payloads of `most_bytes` together from now on."""
        self.capacity_bytes = most_bytes
        self._open_bytes = most_bytes - most_bytes // KEPT_PART

    def clear(self) -> None:
        """Forget everything: the device is gone."""
        self.rows = 0
        self.bytes = 0
        self._level_rows = [0] * self._levels
        self._held: dict[int, _Held] = {}  # what each client holds
        self._lately: dict[int, _Held] = {}  # clients that hold nothing any more, oldest first

    def has_room(self, request: Request) -> bool:
        """Whether it fits beside what is there; by its bytes, any request can be alone."""
        rows = self.rows + request.staging_rows
        size = self.bytes + request.payload_bytes
        return rows <= self.capacity_rows and (size <= self.capacity_bytes or not self.rows)

    def is_fair(self, request: Request) -> bool:
        """Whether its client may have that much more, if there is room."""
        held = self._held.get(request.client)
        if held is None:
            return True
        rows, size = request.staging_rows, request.payload_bytes
        if self.rows + rows <= self._open_rows and self.bytes + size <= self._open_bytes:
            return True
        served = len(self._held) + len(self._lately)
        share = max(held.rows / self.capacity_rows, held.bytes / self.capacity_bytes)
        return served == 1 or share * served < 1.0

    def enter(self, request: Request, now: float) -> None:
        """A request's rows are reserved."""
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
        """A request's rows are free again."""
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
        """Forget clients that have held nothing since `before_s`, two at most each time."""
        for client, held in list(islice(self._lately.items(), 2)):
            if held.left_s < before_s:
                del self._lately[client]

    def rows_ahead_of(self, request: Request, ordered_rows: int) -> int:
        """The most rows that go before a newcomer's, without the rows that are ordered."""
        others = self.rows - ordered_rows
        if others <= 0:
            return 0
        held = self._held.get(request.client)
        own = request.staging_rows + (held.rows if held is not None else 0)
        return min(others, rows_ahead(self._level_rows, request.level, own, len(self._held)))

    def validate(self, on_device: Collection[Request]) -> None:
        """Check the counts against the requests that hold rows. Raises AssertionError."""
        assert self.rows == sum(r.staging_rows for r in on_device), "rows of staging memory"
        assert self.bytes == sum(r.payload_bytes for r in on_device), "bytes of staging memory"
        assert self.rows <= self.capacity_rows, "more rows than the staging memory has"
        assert sum(self._level_rows) == self.rows, "rows by level"
        rows: Counter[int] = Counter()
        for request in on_device:
            rows[request.client] += request.staging_rows
        assert {client: held.rows for client, held in self._held.items()} == rows, "rows by client"


def rows_ahead(level_rows: Sequence[int], level: int, own: int, clients: int) -> int:
    """The most rows that go before the `own` rows of a client: all of higher levels, and of its own
    level no more of each of the `clients` than of its own, since they take turns."""
    return sum(level_rows[:level]) + min(level_rows[level], own * clients)


class Turns:
    """Gives out turns; the lower goes first, and equal ones in the order in which they came."""

    def __init__(self) -> None:
        self._now = 0  # the latest turn that was taken
        self._ends: dict[int, int] = {}  # where the last turn of each client ends
        self._forget_at = FEW_CLIENTS  # number of clients

    def enter(self, client: int, rows: int) -> int:
        """The turn of a client's next rows."""
        turn = self._ends.get(client, 0)
        if turn < self._now:
            turn = self._now
        self._ends[client] = turn + rows
        if len(self._ends) > self._forget_at:
            self._forget()
        return turn

    def take(self, turn: int) -> None:
        """What had this turn is served."""
        if turn > self._now:
            self._now = turn

    def _forget(self) -> None:
        """Forget clients that would get the same turn if they were new."""
        self._ends = {client: end for client, end in self._ends.items() if end > self._now}
        self._forget_at = max(FEW_CLIENTS, 2 * len(self._ends))

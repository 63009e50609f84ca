"""When the next request's time is up. Knows times and requests' ids only."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf

_FEW = 64  # entries that are not worth looking through


class Deadlines:
    """A heap of deadlines. What has ended otherwise is passed over, and thrown away before it is
    half of all: who asks with a time-out of an hour leaves nothing behind for that hour.
    """

    def __init__(self, has_ended: Callable[[int], bool]) -> None:
        """`has_ended`: whether a request needs no deadline any more."""
        self._has_ended = has_ended
        self._heap: list[tuple[float, int]] = []
        self._clear_at = _FEW  # entries

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at_s: float, rid: int) -> None:
        if len(self._heap) >= self._clear_at:
            self._heap = [entry for entry in self._heap if not self._has_ended(entry[1])]
            heapq.heapify(self._heap)
            self._clear_at = max(_FEW, 2 * len(self._heap))
        heapq.heappush(self._heap, (at_s, rid))

    def next_s(self) -> float:
        """The earliest of a request that has not ended."""
        while self._heap and self._has_ended(self._heap[0][1]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else inf

    def pop(self, now: float) -> int | None:
        """A request whose time is up; None when there is none any more."""
        while self._heap and self._heap[0][0] <= now:
            _, rid = heapq.heappop(self._heap)
            if not self._has_ended(rid):
                return rid
        return None

"""Deadlines: when the next request's time is up. Knows times and request numbers only."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf

FEW_ENTRIES = 64  # a heap of this many entries is not searched for ended requests


class Deadlines:
    """A heap of deadlines. Those of requests that have ended are passed over, and removed before
    they are half of all: a request with a time-out of an hour leaves nothing behind for that hour.
    """

    def __init__(self, has_ended: Callable[[int], bool]) -> None:
        """`has_ended`: whether a request needs no deadline any more."""
        self._has_ended = has_ended
        self._heap: list[tuple[float, int]] = []
        self._clear_at = FEW_ENTRIES
        self.earliest_s = inf  # no request's time is up before this; it may have ended

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, at_s: float, rid: int) -> None:
        """The time of a request is up at `at_s`."""
        if len(self._heap) >= self._clear_at:
            self._heap = [entry for entry in self._heap if not self._has_ended(entry[1])]
            heapq.heapify(self._heap)
            self._clear_at = max(FEW_ENTRIES, 2 * len(self._heap))
        heapq.heappush(self._heap, (at_s, rid))
        self.earliest_s = self._heap[0][0]

    def next_s(self) -> float:
        """The earliest deadline of a request that has not ended; infinity where there is none."""
        heap = self._heap
        while heap and self._has_ended(heap[0][1]):
            heapq.heappop(heap)
        self.earliest_s = heap[0][0] if heap else inf
        return self.earliest_s

    def pop(self, now: float) -> int | None:
        """A request whose time is up; None where there is none any more."""
        if self.next_s() > now:
            return None
        return heapq.heappop(self._heap)[1]

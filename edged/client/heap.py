"""Calls by a number, least first, where entries may stop to count while they lie in the heap."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


class LazyHeap(Generic[T]):
    """Items by a number; equal numbers in the order of their coming.

    An entry counts while `counts(number, item)`; the others are dropped when they come to the top,
    or when they are the greater part, so that what has ended does not keep its memory.
    """

    def __init__(self, counts: Callable[[float, T], bool]) -> None:
        self._counts = counts
        self._entries: list[tuple[float, int, T]] = []
        self._order = count()
        self._sweep_at = 64  # entries

    def push(self, number: float, item: T) -> None:
        heapq.heappush(self._entries, (number, next(self._order), item))
        if len(self._entries) > self._sweep_at:
            self._entries = [entry for entry in self._entries if self._counts(entry[0], entry[2])]
            heapq.heapify(self._entries)
            self._sweep_at = 2 * len(self._entries) + 64

    def first(self) -> tuple[float, T] | None:
        """The least entry that counts; it stays."""
        while self._entries:
            number, _, item = self._entries[0]
            if self._counts(number, item):
                return number, item
            heapq.heappop(self._entries)
        return None

    def pop(self) -> T:
        """Take what `first` has just shown."""
        return heapq.heappop(self._entries)[2]

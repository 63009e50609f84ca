"""A heap of items whose keys may change while they lie in it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class LazyHeap(Generic[T]):
    """Items, least key first. `key` gives the key of an item; no two items have the same.

    An entry counts while its item still has the key that it was pushed with. Other entries are
    dropped when they reach the top, or when they are the greater part, so that an item that was
    dropped does not keep its memory.
    """

    def __init__(self, key: Callable[[T], Any]) -> None:
        self._key = key
        self._entries: list[tuple[Any, T]] = []
        self._sweep_at = 64  # entries

    def push(self, item: T) -> None:
        heapq.heappush(self._entries, (self._key(item), item))
        if len(self._entries) > self._sweep_at:
            self._entries = [entry for entry in self._entries if self._key(entry[1]) == entry[0]]
            heapq.heapify(self._entries)
            self._sweep_at = 2 * len(self._entries) + 64

    def first(self) -> T | None:
        """The item with the least key; it stays."""
        while self._entries:
            key, item = self._entries[0]
            if self._key(item) == key:
                return item
            heapq.heappop(self._entries)
        return None

    def pop(self) -> T:
        """Take out the item that `first` has just returned."""
        return heapq.heappop(self._entries)[1]

"""Batches in flight on a device that works by itself: one thread submits, another one finishes.

While the device runs a batch the next one is on its way to it, so it does not stand still while the
host reads orders and makes answers. Batches end in the order in which they were submitted. Orders
are read by a third thread, so that what is short is done although all flights are out. Knows no
messages and no device.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
F = TypeVar("F")


class Pipeline(Generic[T, F]):
    """Each of `read_all`, `submit_all` and `finish_all` is the life of one thread."""

    def __init__(
        self,
        depth: int,
        read: Callable[[], T | None],
        submit: Callable[[T], F | None],
        finish: Callable[[F], None],
    ) -> None:
        """depth   most batches in flight
        read    the next order, or None at the end
        submit  gives the device a batch; None: nothing of it is in flight
        finish  waits for the batch that was submitted first, and reports it
        """
        self._read = read
        self._submit = submit
        self._finish = finish
        self._free = threading.Semaphore(depth)
        self._orders: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._in_flight: queue.SimpleQueue[F | None] = queue.SimpleQueue()

    def read_all(self) -> None:
        """Read orders until their end."""
        order: T | None = None
        while (order := self._read()) is not None:
            self._orders.put(order)
        self._orders.put(None)

    def submit_all(self) -> None:
        """Submit what was read, as soon as fewer than `depth` batches are in flight."""
        while (order := self._orders.get()) is not None:
            self._free.acquire()
            found = self._submit(order)
            if found is None:
                self._free.release()
            else:
                self._in_flight.put(found)
        self._in_flight.put(None)

    def finish_all(self) -> None:
        """Finish what was submitted."""
        while (found := self._in_flight.get()) is not None:
            self._finish(found)
            self._free.release()

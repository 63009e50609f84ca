"""The lanes: threads that read the front's orders in turn, and run the batches that they read.

Whoever reads the order of a batch runs it at once, and another thread reads on meanwhile. To hand
it to a thread that waits would cost a wake-up first, often on a processor that has fallen asleep
and knows nothing of what was read. Knows no messages and no device.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """Runs as many batches side by side as there are lanes, in the order in which they are read.

    `work` is the life of a thread. There is one more of them than lanes: it reads while all run.
    """

    def __init__(self, lanes: int, read: Callable[[], T | None], run: Callable[[T], None]) -> None:
        """read  the next batch that is ordered, or None at the end; called by one thread at a time
        run   a batch; never raises
        """
        self._lanes = lanes
        self._read = read
        self._run = run
        self._reading = threading.Lock()
        self._ended = False
        self._lock = threading.Lock()
        self._waiting: deque[T] = deque()  # read while all lanes ran
        self._running = 0

    def work(self) -> None:
        """Read and run until the end has been read and nothing waits any more."""
        while (batch := self._next()) is not None:
            while batch is not None:
                self._run(batch)
                batch = self._waiting_one()

    def _next(self) -> T | None:
        """A batch for a free lane, which this thread takes; None: there are no more."""
        with self._reading:
            while not self._ended:
                batch = self._read()
                if batch is None:
                    self._ended = True
                elif self._takes(batch):
                    return batch
            return None

    def _takes(self, batch: T) -> bool:
        """Take a free lane for it; else it waits."""
        with self._lock:
            is_free = self._running < self._lanes
            if is_free:
                self._running += 1
            else:
                self._waiting.append(batch)
            return is_free

    def _waiting_one(self) -> T | None:
        """For the lane that has run its last: one that was read meanwhile, or it is free now."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
            return None

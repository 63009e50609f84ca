"""Prepares blocks where that takes minutes, beside everything else: one after the other.

A block that is wanted and not prepared is refused meanwhile, so that other blocks are loaded and
served. New models wait for theirs. Knows no backend: it is given what prepares.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edged.backends.base import DeviceLost, Progress
from edged.device.failures import typed
from edged.errors import Cancelled, EdgedError, StoreError, Unavailable, Unsupported
from edged.link import messages as link

log = logging.getLogger("edged.device")

_REPORT_S = 1.0  # pause after a report of one build
_AGAIN_S = 600.0  # pause after a build that failed; what cannot be built is not tried again


@dataclass(frozen=True, slots=True)
class _Failure:
    error: EdgedError
    again_s: float


class BuildQueue:
    """Owns the thread that prepares, and what became of each block. Any thread may call it."""

    def __init__(
        self,
        is_prepared: Callable[[str], bool],
        prepare: Callable[[str, Progress], None],
        report: Callable[[link.FromWorker], None],
    ) -> None:
        self._is_prepared = is_prepared
        self._prepare = prepare
        self._report = report
        self._queue: dict[str, None] = {}  # the first one is being prepared
        self._of = 0  # how many were wanted since the queue was empty
        self._failures: dict[str, _Failure] = {}
        self._waiting: list[tuple[set[str], Callable[[EdgedError | None], None]]] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._reported_s = -math.inf
        self._thread = threading.Thread(target=self._work, name="builder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Give up what is being prepared, and return when the thread has ended."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def want(self, blocks: Iterable[str]) -> None:
        """Have these prepared, unless they are, or have failed lately."""
        missing = [block for block in blocks if not self._is_prepared(block)]
        with self._changed:
            for block in missing:
                failure = self._failures.get(block)
                if block not in self._queue and (
                    failure is None or failure.again_s <= time.monotonic()
                ):
                    self._failures.pop(block, None)
                    self._queue[block] = None
                    self._of += 1
            self._changed.notify_all()

    def check(self, block: str) -> None:
        """Returns if the block can be loaded. Raises why it could not be prepared, or Unavailable
        while it is about to be."""
        if self._is_prepared(block):
            return
        self.want([block])
        with self._changed:
            failure = self._failures.get(block)
        if failure is not None:
            raise failure.error
        raise Unavailable(f"the engine of block {block[:12]} is being built: edged status")

    def when_prepared(
        self, blocks: Iterable[str], then: Callable[[EdgedError | None], None]
    ) -> None:
        """Call `then` when all of them are, or with why one of them cannot be."""
        blocks = set(blocks)
        with self._changed:
            for block in blocks:
                self._failures.pop(block, None)  # whoever brings them in may have mended them
            self._waiting.append((blocks, then))
        self.want(blocks)
        self._tell_waiting()

    def _work(self) -> None:
        with contextlib.suppress(_Stopped):
            try:
                while True:
                    self._one(self._next())
            except DeviceLost as error:
                try:
                    self._report(link.WorkerFailed(error.code, str(error)))
                finally:
                    os._exit(1)

    def _next(self) -> str:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopped)
            if self._stopped:
                raise _Stopped
            return next(iter(self._queue))

    def _one(self, block: str) -> None:
        failure: EdgedError | None = None
        self._say("beginning", 0.0, soon=True)
        try:
            self._prepare(block, self._progress)
        except Cancelled:
            raise _Stopped from None
        except DeviceLost:
            raise
        except Exception as caught:
            failure = typed(caught, f"block {block[:12]} could not be built")
            log.error("block %s: %s", block[:12], failure, extra={"block": block})
        with self._changed:
            del self._queue[block]
            if failure is not None:
                hopeless = isinstance(failure, Unsupported | StoreError)
                again_s = math.inf if hopeless else time.monotonic() + _AGAIN_S
                self._failures[block] = _Failure(failure, again_s)
            if not self._queue:
                self._of = 0
        self._say("", 0.0, soon=True)
        self._tell_waiting()

    def _progress(self, phase: str, done: float) -> bool:
        self._say(phase, done)
        return not self._stopped

    def _say(self, phase: str, done: float, *, soon: bool = False) -> None:
        now = time.monotonic()
        if soon or now - self._reported_s >= _REPORT_S:
            self._reported_s = now
            with self._changed:
                waiting, of = tuple(self._queue), self._of
            self._report(link.Building(waiting, of, phase, done))

    def _tell_waiting(self) -> None:
        """Call whoever waits for nothing any more."""
        with self._changed:
            ready, waiting = [], []
            for blocks, then in self._waiting:
                failed = [self._failures[block].error for block in blocks & self._failures.keys()]
                if failed or not blocks & self._queue.keys():
                    ready.append((then, failed[0] if failed else None))
                else:
                    waiting.append((blocks, then))
            self._waiting = waiting
        for then, error in ready:
            then(error)


class _Stopped(Exception):
    """The thread ends."""

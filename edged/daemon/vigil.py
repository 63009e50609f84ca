"""Whether a worker is to be given up. Pure: the time is an argument.

Life is progress of work. Whatever the worker was ordered to do has to end within a bound: each
batch, each request that it prepares, each block that comes or goes. What it says besides, such as
how much memory it takes, is no sign of life.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

from msgspec import Struct

from edged.core.events import Run
from edged.link import messages as link

TIMES = 20.0  # as long as it is expected to take, at most
FIRST = 3.0  # and so many times longer the first time with a number of rows: kernels are chosen
LOAD = 3.0  # for a block, which may have to come from a slow disk; for a batch it is 1
IMAGE_S = 2.0  # for each image that is decoded
LAPSE_S = 3.0  # between two questions; longer, and it was the front that stood still

_Order: TypeAlias = "tuple[float, str]"  # its bound, and what it is


class _Line(Struct, eq=False):
    """Orders that are begun as they are given. So the first of those that have not ended has begun,
    at the latest, when it became the first: from then on its bound counts, whatever others do."""

    orders: dict[Hashable, _Order] = {}
    since_s: float = 0.0

    def begin(self, key: Hashable, order: _Order, now: float) -> None:
        if not self.orders:
            self.since_s = now
        self.orders[key] = order

    def end(self, key: Hashable, now: float) -> None:
        if key in self.orders:  # what is prepared with its batch was not ordered by itself
            if key == next(iter(self.orders)):
                self.since_s = now
            del self.orders[key]

    def first(self) -> tuple[float, _Order] | None:
        """Until when the first has time, and which it is."""
        if not self.orders:
            return None
        order = next(iter(self.orders.values()))
        return self.since_s + order[0], order


class Vigil:
    """Over one worker after the other. `verdict` is asked each second."""

    def __init__(self, start_timeout_s: float, hang_timeout_s: float) -> None:
        self._start_timeout_s = start_timeout_s
        self._hang_timeout_s = hang_timeout_s
        self._started_s = 0.0
        self._asked_s = -math.inf
        self._reset()

    def _reset(self) -> None:
        self._is_up = False
        self._lines = tuple(_Line() for _ in range(5))
        self._batches, self._requests, self._coming, self._going, self._measuring = self._lines
        self._runs: dict[int, tuple[str, int]] = {}  # group and rows of batches that have not ended
        self._ran: set[tuple[str, int]] = set()
        self._loads_s: dict[str, float] = {}  # of blocks that were loaded before

    # --- what is ordered ------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """There is no worker, or a new one that starts now."""
        self._reset()
        self._started_s = now

    def prepare(self, rid: int, rows: int, now: float) -> None:
        bound_s = self._hang_timeout_s + rows * IMAGE_S
        self._requests.begin(rid, (bound_s, "what a request sent was not prepared"), now)

    def run(self, run: Run, expected_s: float | None, images: int, now: float) -> None:
        """expected_s  as its group's batches take, if that is known
        images      that the batch itself decodes
        """
        bound_s = max(self._hang_timeout_s, TIMES * (expected_s or 0.0))
        if (run.group, run.rows) not in self._ran:
            bound_s *= FIRST
        self._runs[run.batch] = run.group, run.rows
        self._batches.begin(run.batch, (bound_s + images * IMAGE_S, "a batch did not end"), now)

    def load(self, block: str, now: float) -> None:
        known_s = self._loads_s.get(block)
        bound_s = (
            self._start_timeout_s
            if known_s is None
            else max(LOAD * self._hang_timeout_s, TIMES * known_s)
        )
        self._coming.begin(block, (bound_s, f"block {block[:12]} was not loaded"), now)

    def unload(self, block: str, now: float) -> None:
        bound_s = LOAD * self._hang_timeout_s
        self._going.begin(block, (bound_s, f"block {block[:12]} was not taken off"), now)

    def calibrate(self, model: str, rows: int, now: float) -> None:
        """One run, the first one with so many rows perhaps; a request's batch may go before it."""
        bound_s = 2.0 * FIRST * self._hang_timeout_s
        self._measuring.begin(model, (bound_s, f"model {model} was not measured"), now)

    def define(self, models: tuple[str, ...]) -> None:
        """By the thread that loads, so what is to be loaded next waits for it. It takes minutes, so
        that it counts from the latest question does not matter."""
        order = self._start_timeout_s, "new models were not prepared"
        self._coming.begin(models, order, self._asked_s)

    # --- what comes of it -----------------------------------------------------------------------

    def heard(self, message: link.FromWorker, now: float) -> None:
        end = _ENDS.get(type(message))
        if end is not None:
            end(self, message, now)

    def _ready(self, message: link.Ready, now: float) -> None:
        self._is_up = True
        self._loads_s = {info.id: info.load_us / 1e6 for info in message.blocks}

    def _prepared(self, message: link.Prepared | link.PrepareFailed, now: float) -> None:
        self._requests.end(message.rid, now)

    def _batch_done(self, message: link.BatchDone, now: float) -> None:
        ran = self._runs.pop(message.batch, None)
        if ran is not None:
            self._ran.add(ran)
        self._batches.end(message.batch, now)

    def _batch_failed(self, message: link.BatchFailed, now: float) -> None:
        self._runs.pop(message.batch, None)
        self._batches.end(message.batch, now)

    def _loaded(self, message: link.Loaded, now: float) -> None:
        if message.block not in self._loads_s:
            self._ran.clear()  # batches may have to do with it for the first time
        self._loads_s[message.block] = message.load_us / 1e6
        self._coming.end(message.block, now)

    def _load_failed(self, message: link.LoadFailed, now: float) -> None:
        self._coming.end(message.block, now)

    def _unloaded(self, message: link.Unloaded, now: float) -> None:
        self._going.end(message.block, now)

    def _defined(self, message: link.Defined | link.DefineFailed, now: float) -> None:
        self._coming.end(message.models, now)

    def _calibrated(self, message: link.Calibrated, now: float) -> None:
        self._measuring.end(message.model, now)

    # --- the verdict ----------------------------------------------------------------------------

    def verdict(self, now: float) -> str | None:
        """Why to give the worker up; None while there is hope."""
        lapse_s, self._asked_s = now - self._asked_s, now
        if LAPSE_S < lapse_s < math.inf:  # the machine was suspended, or all of the daemon stopped
            self._started_s += lapse_s
            for line in self._lines:
                line.since_s += lapse_s
        if not self._is_up:
            if now - self._started_s > self._start_timeout_s:
                return f"the device worker was not ready within {self._start_timeout_s:g} s"
            return None
        for line in self._lines:
            first = line.first()
            if first is not None and first[0] < now:
                bound_s, what = first[1]
                return f"the device worker hung: {what} within {bound_s:g} s"
        return None

    def late_batch(self, now: float) -> int | None:
        """The batch that has not ended in its time, if that is why the worker is given up."""
        first = self._batches.first()
        if first is None or first[0] >= now:
            return None
        return next(iter(self._runs), None)

    @property
    def is_waiting(self) -> bool:
        """Whether the worker owes anything."""
        return any(line.orders for line in self._lines)

    def progress_at(self, now: float) -> float:
        """Up to when all went on: now, or when what is late should have ended."""
        due_s = [first[0] for line in self._lines if (first := line.first()) is not None]
        return min([now, *due_s])


_ENDS: dict[type, Callable[[Vigil, Any, float], None]] = {
    link.Ready: Vigil._ready,
    link.Prepared: Vigil._prepared,
    link.PrepareFailed: Vigil._prepared,
    link.BatchDone: Vigil._batch_done,
    link.BatchFailed: Vigil._batch_failed,
    link.Loaded: Vigil._loaded,
    link.LoadFailed: Vigil._load_failed,
    link.Unloaded: Vigil._unloaded,
    link.Defined: Vigil._defined,
    link.DefineFailed: Vigil._defined,
    link.Calibrated: Vigil._calibrated,
}

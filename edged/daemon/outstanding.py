"""What a worker was ordered to do and has not reported yet. Pure: the time is an argument.

It answers two questions. Is a report owed? One that is not would leave the scheduler with figures
that are not true, so whoever sends it cannot be trusted. And does the worker make progress? Each
batch, each request that it prepares, each block that it loads or unloads has to end within a
bound, and nothing else that the worker says meanwhile is a sign of life.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from edged.core.events import Run
from edged.link import messages as link

BATCH_TIMES = 20.0  # a batch may take this many times as long as it is expected to take
# The first batch with a number of rows may take this many times longer: kernels are chosen.
FIRST_TIMES = 3.0
LOAD_TIMES = 3.0  # a load may take this many times `hang_timeout_s`: disks can be slow
IMAGE_S = 2.0  # the time added for each image that is decoded
LAPSE_S = 3.0  # the longest pause between two checks; after a longer one the front stood still


K = TypeVar("K")
V = TypeVar("V")


class _Line(Generic[K, V]):
    """Orders that the worker begins in the order in which they were given. So the first of those
    that have not ended has begun, at the latest, when it became the first: from then on its bound
    counts, even if the others go on.
    """

    def __init__(
        self,
        bound: Callable[[K, V], tuple[float, str]],
        goes_before: Callable[[V, V], bool] = lambda order, first: False,
    ) -> None:
        """bound        the seconds that an order may take, and what is late after that
        goes_before  whether the worker takes up an order before one that was given earlier
        """
        self.orders: dict[K, V] = {}  # what the bound of each depends on
        self.since_s = 0.0
        self._bound = bound
        self._goes_before = goes_before

    def begin(self, key: K, order: V, now: float) -> None:
        if not self.orders:
            self.since_s = now
        self.orders[key] = order

    def end(self, key: K, now: float) -> bool:
        """Whether it was ordered; it has ended now."""
        orders = self.orders
        if key not in orders:
            return False
        first = next(iter(orders))
        if key == first or self._goes_before(orders[key], orders[first]):
            self.since_s = now
        del orders[key]
        return True

    def first(self) -> tuple[float, float, str] | None:
        """The end of the time that the first order has, its bound, and what it is."""
        if not self.orders:
            return None
        bound_s, what = self._bound(*next(iter(self.orders.items())))
        return self.since_s + bound_s, bound_s, what


class Preparation(NamedTuple):
    """A request that is not prepared inline."""

    rows: int
    level: int  # 0 is the most urgent, which the worker prepares first


class _Batch(NamedTuple):
    run: Run
    images: int  # the number of images that the batch itself decodes
    is_first: bool  # the first one of this group with so many rows


class Outstanding:
    """Follows one worker after the other. `verdict` is asked each second.

    It is told each order when it is given, and each report when it has come; where nothing else
    is to be done, its lines are told. What takes a report returns whether that was owed.
    """

    def __init__(
        self,
        start_timeout_s: float,
        hang_timeout_s: float,
        expected_s: Callable[[int], float | None],
    ) -> None:
        """`expected_s`: the time that a batch which has not ended is expected to take, if known."""
        self._expected_s = expected_s
        self._start_timeout_s = start_timeout_s
        self._hang_timeout_s = hang_timeout_s
        self._started_s = 0.0
        self._checked_s = -math.inf
        self._reset()

    def _reset(self) -> None:
        self._is_up = False
        self.batches = _Line(self._batch_bound)
        self.requests = _Line(
            self._request_bound, goes_before=lambda order, first: order.level < first.level
        )
        self.loads = _Line(self._load_bound)
        self.unloads = _Line(self._unload_bound)
        self.calibrations = _Line(self._calibration_bound)
        self._lines: tuple[_Line[Any, Any], ...] = (
            self.batches,
            self.requests,
            self.loads,
            self.unloads,
            self.calibrations,
        )
        self._ran: set[tuple[str, int]] = set()  # groups and rows of batches that have run
        self._load_times_s: dict[str, float] = {}  # blocks that were loaded before
        self._measures = 0

    # --- what is ordered ------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """There is no worker, or a new one that starts now."""
        self._reset()
        self._started_s = now

    def run(self, run: Run, images: int, now: float) -> None:
        """`images`: the number of images that the batch itself decodes."""
        is_first = (run.group, run.rows) not in self._ran
        self.batches.begin(run.batch, _Batch(run, images, is_first), now)

    def load(self, block: str, now: float) -> None:
        self.loads.begin(block, self._load_times_s.get(block), now)

    def define(self, models: tuple[str, ...]) -> None:
        """The thread that loads also defines, so the next load waits for it. This takes minutes,
        so it does not matter that its time counts from the latest check.
        """
        self.loads.begin(models, None, self._checked_s)

    def building(self, now: float) -> None:
        """Blocks of models that are being defined are built, which has a time-out of its own."""
        first = next(iter(self.loads.orders), "")
        if not isinstance(first, str):
            self.loads.since_s = now

    def measure(self) -> None:
        self._measures += 1

    # --- what is reported -----------------------------------------------------------------------

    def ready(self, message: link.Ready) -> bool:
        was_up, self._is_up = self._is_up, True
        self._load_times_s = {info.id: info.load_us / 1e6 for info in message.blocks}
        return not was_up

    def batch_done(self, run: Run, now: float) -> None:
        self._ran.add((run.group, run.rows))
        self.batches.end(run.batch, now)

    def loaded(self, block: str, load_s: float, now: float) -> bool:
        if block not in self._load_times_s:
            self._ran.clear()  # batches may use it for the first time
        self._load_times_s[block] = load_s
        return self.loads.end(block, now)

    def calibrated(self, model: str, now: float) -> bool:
        """Batches may have waited for the run of a calibration: their time begins now."""
        self.batches.since_s = now
        return self.calibrations.end(model, now)

    def measured(self) -> bool:
        self._measures -= 1
        return self._measures >= 0

    # --- bounds ---------------------------------------------------------------------------------

    def _batch_bound(self, number: int, batch: _Batch) -> tuple[float, str]:
        bound_s = max(self._hang_timeout_s, BATCH_TIMES * (self._expected_s(number) or 0.0))
        if batch.is_first:
            bound_s *= FIRST_TIMES
        return bound_s + batch.images * IMAGE_S, "a batch did not end"

    def _request_bound(self, rid: int, request: Preparation) -> tuple[float, str]:
        bound_s = self._hang_timeout_s + request.rows * IMAGE_S
        return bound_s, "what a request sent was not prepared"

    def _load_bound(self, what: str | tuple[str, ...], known_s: float | None) -> tuple[float, str]:
        """Blocks that are loaded, and models that are defined. `known_s`: the time of a block that
        was loaded before.
        """
        if not isinstance(what, str):
            return self._start_timeout_s, "new models were not prepared"
        bound_s = self._start_timeout_s
        if known_s is not None:
            bound_s = max(LOAD_TIMES * self._hang_timeout_s, BATCH_TIMES * known_s)
        return bound_s, f"block {what[:12]} was not loaded"

    def _unload_bound(self, block: str, _: None) -> tuple[float, str]:
        return LOAD_TIMES * self._hang_timeout_s, f"block {block[:12]} was not taken off"

    def _calibration_bound(self, model: str, rows: int) -> tuple[float, str]:
        """One run, which may be the first with so many rows; a request's batch may go before it."""
        return 2.0 * FIRST_TIMES * self._hang_timeout_s, f"model {model} was not measured"

    # --- the verdict ----------------------------------------------------------------------------

    def verdict(self, now: float) -> str | None:
        """Why the worker is to be given up; None while there is hope."""
        lapse_s, self._checked_s = now - self._checked_s, now
        if LAPSE_S < lapse_s < math.inf:  # the machine was suspended, or all of the daemon stopped
            self._started_s += lapse_s
            for line in self._lines:
                line.since_s += lapse_s
        if not self._is_up:
            if now - self._started_s > self._start_timeout_s:
                return f"the device worker was not ready within {self._start_timeout_s:g} s"
            return None
        for line in self._watched():
            first = line.first()
            if first is not None and first[0] < now:
                _, bound_s, what = first
                return f"the device worker hung: {what} within {bound_s:g} s"
        return None

    def late_batch(self, now: float) -> int | None:
        """The batch that has not ended in its time, if that is why the worker is given up."""
        first = self.batches.first()
        if first is None or first[0] >= now or self.calibrations.orders:
            return None
        return next(iter(self.batches.orders), None)

    def _watched(self) -> Iterator[_Line[Any, Any]]:
        """The lines whose bounds count now: a batch may wait for the run of a calibration."""
        for line in self._lines:
            if line is not self.batches or not self.calibrations.orders:
                yield line

    @property
    def is_any(self) -> bool:
        """Whether the worker owes anything."""
        return any(line.orders for line in self._lines)

    def progress_at(self, now: float) -> float:
        """The last moment at which nothing was late: now, or the end of the time that is over."""
        ends_s = [first[0] for line in self._watched() if (first := line.first()) is not None]
        return min([now, *ends_s])

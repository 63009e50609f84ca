"""What a worker was ordered to do and has not reported yet. Pure: the time is an argument.

It answers two questions. Is a report owed? One that is not would leave the scheduler with figures
that are not true, so whoever sends it cannot be trusted. And does the worker make progress? Each
batch, each request that it prepares, each block that it loads or unloads has to end within a
bound, and nothing else that the worker says meanwhile is a sign of life.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from msgspec import Struct

from edged.core.events import Run
from edged.link import messages as link

BATCH_TIMES = 20.0  # a batch may take this many times as long as it is expected to take
# The first batch with a number of rows may take this many times longer: kernels are chosen.
FIRST_TIMES = 3.0
LOAD_TIMES = 3.0  # a load may take this many times `hang_timeout_s`: disks can be slow
IMAGE_S = 2.0  # the time added for each image that is decoded
LAPSE_S = 3.0  # the longest pause between two checks; after a longer one the front stood still


class _Line(Struct, eq=False):
    """Orders that the worker begins in the order in which they were given. So the first of those
    that have not ended has begun, at the latest, when it became the first: from then on its bound
    counts, even if the others go on.
    """

    orders: dict[Hashable, tuple[float, str]] = {}  # each with its bound and what is late beyond it
    since_s: float = 0.0

    def begin(self, key: Hashable, bound_s: float, what: str, now: float) -> None:
        if not self.orders:
            self.since_s = now
        self.orders[key] = bound_s, what

    def end(self, key: Hashable, now: float) -> bool:
        """Whether it was ordered; it has ended now."""
        orders = self.orders
        if key not in orders:
            return False
        if key == next(iter(orders)):
            self.since_s = now
        del orders[key]
        return True

    def first(self) -> tuple[float, float, str] | None:
        """The end of the time that the first order has, its bound, and what it is."""
        if not self.orders:
            return None
        bound_s, what = next(iter(self.orders.values()))
        return self.since_s + bound_s, bound_s, what


class Outstanding:
    """Follows one worker after the other. `verdict` is asked each second.

    Orders are told as they are given. A method for a report says whether that report was owed.
    """

    def __init__(self, start_timeout_s: float, hang_timeout_s: float) -> None:
        self._start_timeout_s = start_timeout_s
        self._hang_timeout_s = hang_timeout_s
        self._started_s = 0.0
        self._checked_s = -math.inf
        self._reset()

    def _reset(self) -> None:
        self._is_up = False
        self._lines = tuple(_Line() for _ in range(4))
        self._batches, self._requests, self._loads, self._unloads = self._lines
        self._runs: dict[int, Run] = {}  # batches that have not ended
        self._ran: set[tuple[str, int]] = set()  # groups and rows of batches that have run
        self._load_times_s: dict[str, float] = {}  # blocks that were loaded before
        self._measures = 0

    # --- what is ordered ------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """There is no worker, or a new one that starts now."""
        self._reset()
        self._started_s = now

    def prepare(self, rid: int, rows: int, now: float) -> None:
        """A request that is not prepared inline."""
        bound_s = self._hang_timeout_s + rows * IMAGE_S
        self._requests.begin(rid, bound_s, "what a request sent was not prepared", now)

    def run(self, run: Run, expected_s: float | None, images: int, now: float) -> None:
        """expected_s  the time that the batch is expected to take, if that is known
        images      the number of images that the batch itself decodes
        """
        bound_s = max(self._hang_timeout_s, BATCH_TIMES * (expected_s or 0.0))
        if (run.group, run.rows) not in self._ran:
            bound_s *= FIRST_TIMES
        self._runs[run.batch] = run
        self._batches.begin(run.batch, bound_s + images * IMAGE_S, "a batch did not end", now)

    def load(self, block: str, now: float) -> None:
        known_s = self._load_times_s.get(block)
        if known_s is None:
            bound_s = self._start_timeout_s
        else:
            bound_s = max(LOAD_TIMES * self._hang_timeout_s, BATCH_TIMES * known_s)
        self._loads.begin(block, bound_s, f"block {block[:12]} was not loaded", now)

    def unload(self, block: str, now: float) -> None:
        bound_s = LOAD_TIMES * self._hang_timeout_s
        self._unloads.begin(block, bound_s, f"block {block[:12]} was not taken off", now)

    def define(self, models: tuple[str, ...]) -> None:
        """The thread that loads also defines, so the next load waits for it. This takes minutes,
        so it does not matter that its time counts from the latest check.
        """
        what = "new models were not prepared"
        self._loads.begin(models, self._start_timeout_s, what, self._checked_s)

    def measure(self) -> None:
        self._measures += 1

    # --- what is reported -----------------------------------------------------------------------

    def ready(self, message: link.Ready) -> bool:
        was_up, self._is_up = self._is_up, True
        self._ran.update((warm.group, warm.rows) for warm in message.warm_ups)
        self._load_times_s = {info.id: info.load_us / 1e6 for info in message.blocks}
        return not was_up

    def prepared(self, rid: int, now: float) -> bool:
        return self._requests.end(rid, now)

    def batch(self, number: int) -> Run | None:
        """The order for a batch that has not ended."""
        return self._runs.get(number)

    def batch_done(self, run: Run, now: float) -> None:
        del self._runs[run.batch]
        self._ran.add((run.group, run.rows))
        self._batches.end(run.batch, now)

    def batch_failed(self, number: int, now: float) -> bool:
        self._runs.pop(number, None)
        return self._batches.end(number, now)

    def loaded(self, block: str, load_s: float, now: float) -> bool:
        if block not in self._load_times_s:
            self._ran.clear()  # batches may use it for the first time
        self._load_times_s[block] = load_s
        return self._loads.end(block, now)

    def load_failed(self, block: str, now: float) -> bool:
        return self._loads.end(block, now)

    def unloaded(self, block: str, now: float) -> bool:
        return self._unloads.end(block, now)

    def defined(self, models: tuple[str, ...], now: float) -> bool:
        return self._loads.end(models, now)

    def measured(self) -> bool:
        self._measures -= 1
        return self._measures >= 0

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
        for line in self._lines:
            first = line.first()
            if first is not None and first[0] < now:
                _, bound_s, what = first
                return f"the device worker hung: {what} within {bound_s:g} s"
        return None

    def late_batch(self, now: float) -> int | None:
        """The batch that has not ended in its time, if that is why the worker is given up."""
        first = self._batches.first()
        if first is None or first[0] >= now:
            return None
        return next(iter(self._runs), None)

    @property
    def is_any(self) -> bool:
        """Whether the worker owes anything."""
        return any(line.orders for line in self._lines)

    def progress_at(self, now: float) -> float:
        """The last moment at which nothing was late: now, or the end of the time that is over."""
        ends_s = [first[0] for line in self._lines if (first := line.first()) is not None]
        return min([now, *ends_s])

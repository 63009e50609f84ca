"""What a batch costs, and so which size is useful: seconds by rows, measured and then corrected.

A group that nobody has measured yet is learnt from the batches that run.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

from edged.core.events import GroupCost

SMOOTHING = 0.1  # weight of the newest batch in the seconds per row
LATEST_BATCHES = 9  # the load is the median over this many batches of any size
RECENT_BATCHES = 15  # the time of a size is the median over this many batches of that size
WARMUP_WEIGHT = 2  # a warm-up time counts as this many measured batches
CHOOSE_WITHIN = 0.02  # take the smallest size within 2 % of the best rate
KEEP_WITHIN = 0.03  # keep a size while its rate is within 3 % of the best
PREFER_WITHIN = 0.01  # prefer a smaller size whose rate is within 1 % of the best
PROBE_EVERY = 32  # one batch of another size follows this many of the useful size
UNKNOWN_SPEED_UP = 2.0  # where none was measured, a batch that is alone gets all lanes
SAFE_ROWS = 4  # batches of a group that nobody has measured begin with this size
RUNS = 3  # they grow to twice the size after this many batches


class CostModel:
    """Owns a curve, or else a learner, for each group."""

    def __init__(
        self, costs: Sequence[GroupCost] = (), *, lanes: int = 1, sizes: Sequence[int] = ()
    ) -> None:
        """`sizes`: rows that batches are padded to, ascending; one costs what its size does."""
        self._lanes = lanes
        self.sizes = sizes
        self.measured: dict[str, GroupCost] = {}  # the measured times, uncorrected
        self._curves: dict[str, Curve] = {}
        self._learners: dict[str, Learner] = {}  # by group that is still to be measured
        self._pace_s: dict[str, float] = {}  # seconds per row by group, smoothed
        self.pace_s: float | None = None  # mean over all groups; None before anything has run
        self.know(costs)

    def learn(self, groups: Iterable[str]) -> None:
        """These groups are still to be measured: until then their batches begin small."""
        fresh = [group for group in groups if group not in self._curves]
        self._learners = {group: self._learners.get(group) or Learner() for group in fresh}

    def know(self, costs: Sequence[GroupCost]) -> None:
        """Groups have been measured."""
        for cost in costs:
            if self.measured.get(cost.group) != cost:
                self.measured[cost.group] = cost
                self._curves[cost.group] = Curve(cost.rows, cost.time_s)
                self._learners.pop(cost.group, None)

    def change_pace(self, pace: float) -> None:
        """The device's clocks have changed: batches take `pace` times as long as was measured."""
        for curve in self._curves.values():
            curve.change_pace(pace)

    def batch_s(self, group: str, rows: int) -> float | None:
        """Predicted seconds of a batch; None before anything is known of the group."""
        curve = self._curves.get(group)
        if curve is None:
            pace_s = self._pace_s.get(group)
            return None if pace_s is None else pace_s * rows
        return curve.batch_s(self.padded_rows(rows) if self.sizes else rows)

    def padded_rows(self, rows: int) -> int:
        """The rows that a batch is padded to; one that is larger than all sizes runs as it is."""
        return next((size for size in self.sizes if size >= rows), rows)

    def unpadded_rows(self, group: str, rows: int) -> int:
        """Fewer of these rows, a whole size, if it and the rest after it take no longer than all of
        them with what pads them."""
        size = max((size for size in self.sizes if size <= rows), default=rows)
        times_s = [self.batch_s(group, n) for n in (rows, size, rows - size) if n]
        together_s, *apart_s = [math.inf if time_s is None else time_s for time_s in times_s]
        return size if math.fsum(apart_s) <= together_s < math.inf else rows

    def observe(self, group: str, rows: int, time_s: float, *, wide: bool) -> None:
        """Learn from a batch that took `time_s` from its order to its end.

        The curves are of one lane, so a batch that had all of several teaches nothing about them.
        """
        pace_s = time_s / rows if wide else time_s / rows / self._lanes
        known_s = self._pace_s.get(group, pace_s)
        self._pace_s[group] = known_s + SMOOTHING * (pace_s - known_s)
        self.pace_s = math.fsum(self._pace_s.values()) / len(self._pace_s)
        if self._lanes > 1 and wide:
            return
        curve, rows = self._curves.get(group), self.padded_rows(rows) if self.sizes else rows
        if curve is not None:
            curve.observe(rows, time_s)
        elif group in self._learners:
            self._learners[group].observe(rows, time_s)

    def useful_rows(self, group: str, limit: int, around_s: float = 0.0) -> int:
        """As Curve.useful_rows; `limit` where nothing is known."""
        learner = self._learners.get(group)
        if learner is not None:
            if learner.rows <= limit:
                return learner.rows
            learnt = learner.curve(limit)
            if learnt is None:
                return limit
            self._curves[group] = learnt
            del self._learners[group]
        curve = self._curves.get(group)
        return limit if curve is None else curve.useful_rows(limit, around_s)

    def speed_up(self, group: str) -> float:
        """By what factor all lanes together run a batch sooner than one of them."""
        cost = self.measured.get(group)
        return UNKNOWN_SPEED_UP if cost is None or cost.speed_up is None else cost.speed_up


class Curve:
    """The times of one group's batches on one lane, and the largest batch that is of use.

    Two things change the time of a batch, and they are told apart. The load of the machine slows
    all sizes alike; it changes at any time and is followed quickly. The shape, which is what one
    size takes beside the others, is a matter of the device and the models: the median of what the
    latest batches of a size would have taken without load. So a size that runs while the machine is
    busy does not look worse than one that was measured on an idle machine.
    """

    def __init__(self, rows: Sequence[int], time_s: Sequence[float]) -> None:
        """Measured seconds `time_s[i]` of `rows[i]` rows, ascending. Raises ValueError for none."""
        if not rows:
            raise ValueError("a curve needs the time of one size at least: this is a bug")
        self.sizes = list(rows)
        self._shape_s = dict(zip(rows, time_s, strict=True))
        self._recent_s = {
            size: deque([taken_s] * WARMUP_WEIGHT, RECENT_BATCHES)
            for size, taken_s in self._shape_s.items()
        }
        self._latest = deque([1.0], LATEST_BATCHES)
        self._load = 1.0
        self._useful: int | None = None
        self._full = 0  # number of batches of the useful size since the last probe
        self._probe_up = True

    def batch_s(self, rows: int) -> float:
        """Predicted seconds of a batch at the present load."""
        return self._load * self._interpolated_s(rows)

    def change_pace(self, pace: float) -> None:
        """The load begins anew there: what ran at other clocks says nothing of it."""
        self._latest, self._load = deque([pace], LATEST_BATCHES), pace

    def observe(self, rows: int, time_s: float) -> None:
        """Learn from a batch."""
        self._latest.append(time_s / self._interpolated_s(rows))
        self._load = median(self._latest)
        if rows != self._useful:
            self._learn(rows, time_s / self._load)
        if self._full >= PROBE_EVERY:  # this was the probe, if there were rows enough
            self._full = 0
            self._probe_up = not self._probe_up
        elif rows == self._useful:
            self._full += 1

    def _learn(self, rows: int, time_s: float) -> None:
        """Correct the shape. The useful size stays: what it takes is the load."""
        recent_s = self._recent_s.get(rows)
        if recent_s is None:
            first_s = [self._interpolated_s(rows)] * WARMUP_WEIGHT
            recent_s = self._recent_s[rows] = deque(first_s, RECENT_BATCHES)
            insort(self.sizes, rows)
        recent_s.append(time_s)
        self._shape_s[rows] = median(recent_s)

    def useful_rows(self, limit: int, around_s: float = 0.0) -> int:
        """The batch to form when there are rows enough, at most `limit`.

        around_s  time that any batch costs besides, however many rows it has
        At first the smallest known size whose rows per second are within CHOOSE_WITHIN of the
        best: larger batches only add waiting. It is kept while it is within KEEP_WITHIN and no
        smaller one comes within PREFER_WITHIN. Now and then a batch of twice the size or half of it
        is formed: the figure of a size that never runs would never be corrected.
        """
        sizes = [rows for rows in self.sizes if rows <= limit]
        if not sizes:
            return limit
        rates = [rows / (self._shape_s[rows] + around_s) for rows in sizes]
        best = max(rates)
        if self._useful is None:
            self._useful = _smallest(sizes, rates, best * (1 - CHOOSE_WITHIN))
        least = _smallest(sizes, rates, best * (1 - KEEP_WITHIN))
        most = _smallest(sizes, rates, best * (1 - PREFER_WITHIN))
        self._useful = min(max(self._useful, least), most)
        if self._full < PROBE_EVERY:
            return self._useful
        return min(self._useful * 2, limit) if self._probe_up else max(self._useful // 2, 1)

    def _interpolated_s(self, rows: int) -> float:
        known_s = self._shape_s.get(rows)
        if known_s is not None:
            return known_s
        return interpolate(self.sizes, [self._shape_s[size] for size in self.sizes], rows)


class Learner:
    """The times of a group that nobody has measured, on one lane.

    Its batches begin small, which is safe and soon answered. While they run, twice the size has its
    turn after a few batches, until the times of all sizes are known.
    """

    def __init__(self) -> None:
        self.rows = SAFE_ROWS  # the batch to form when there are rows enough
        self._times_s: dict[int, list[float]] = {}

    def observe(self, rows: int, time_s: float) -> None:
        """Learn from a batch."""
        times_s = self._times_s.setdefault(rows, [])
        times_s.append(time_s)
        if rows >= self.rows and len(times_s) >= RUNS:
            self.rows = 2 * rows

    def curve(self, limit: int) -> Curve | None:
        """The times, when batches of all sizes up to `limit` have run; else None."""
        sizes = sorted(size for size, times_s in self._times_s.items() if len(times_s) >= RUNS)
        if self.rows <= limit or not sizes or sizes[-1] < min(SAFE_ROWS, limit):
            return None
        return Curve(sizes, [median(self._times_s[size]) for size in sizes])


def _smallest(sizes: Sequence[int], rates: Sequence[float], least: float) -> int:
    """The first of `sizes` whose rate is at least that."""
    for rows, rate in zip(sizes, rates, strict=True):
        if rate >= least:
            return rows
    raise ValueError(f"no rate of {rates} is {least}: this is a bug")


def interpolate(xs: Sequence[int], ys: Sequence[float], x: int) -> float:
    """Piecewise linear through the points, straight on beyond the last; positive throughout."""
    at = bisect_left(xs, x)
    if at < len(xs) and xs[at] == x:
        return ys[at]
    if len(xs) == 1:
        return ys[0] * x / xs[0]
    if at == 0:
        return ys[0]
    low, high = (at - 1, at) if at < len(xs) else (len(xs) - 2, len(xs) - 1)
    slope = max(0.0, (ys[high] - ys[low]) / (xs[high] - xs[low]))
    return ys[low] + slope * (x - xs[low]) if at < len(xs) else ys[high] + slope * (x - xs[high])

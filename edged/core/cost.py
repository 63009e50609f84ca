"""What a batch costs: seconds by rows, from measurements, corrected as the device runs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from edged.core.events import GroupCost

_WEIGHT = 0.1  # of the newest batch in the running correction


class CostModel:
    """Owns one curve for each group. Groups without one are learnt from what runs."""

    def __init__(self, costs: Iterable[GroupCost] = (), *, lanes: int = 1) -> None:
        self._lane_share = 1.0 / lanes
        self._curves = {cost.group: cost for cost in costs}
        self._correction: dict[str, float] = {}  # measured over predicted, smoothed
        self._pace_s: dict[str, float] = {}  # seconds a row, smoothed

    def batch_s(self, group: str, rows: int) -> float | None:
        """Predicted seconds of a batch; None before anything is known of the group."""
        curve = self._curves.get(group)
        if curve is None:
            pace_s = self._pace_s.get(group)
            return None if pace_s is None else pace_s * rows
        return interpolate(curve.rows, curve.time_s, rows) * self._correction.get(group, 1.0)

    def observe(self, group: str, rows: int, time_s: float, *, share: float = 1.0) -> None:
        """Learn from a batch that took `time_s` on this share of the device.

        The curves are of one lane, so a batch that had all lanes teaches nothing about them.
        """
        pace_s = time_s * share / rows
        _smooth(self._pace_s, group, pace_s, first=pace_s)
        curve = self._curves.get(group)
        if curve is not None and share == self._lane_share:
            predicted_s = interpolate(curve.rows, curve.time_s, rows)
            _smooth(self._correction, group, time_s / predicted_s, first=1.0)

    def pace_s(self) -> float | None:
        """Seconds a row over all groups, from what has run lately; None before anything has."""
        return sum(self._pace_s.values()) / len(self._pace_s) if self._pace_s else None

    def curve(self, group: str) -> GroupCost | None:
        """The measured times of a group, uncorrected."""
        return self._curves.get(group)

    def useful_rows(self, group: str, limit: int, *, slack: float = 0.02) -> int:
        """The smallest measured batch whose rows per second are within `slack` of the best.

        Larger ones only add waiting. `limit` where nothing is known.
        """
        curve = self._curves.get(group)
        if curve is None:
            return limit
        rates = [
            (rows, rows / time_s)
            for rows, time_s in zip(curve.rows, curve.time_s, strict=True)
            if rows <= limit
        ]
        if not rates:
            return limit
        best = max(rate for _, rate in rates)
        return next(rows for rows, rate in rates if rate >= (1.0 - slack) * best)


def _smooth(averages: dict[str, float], key: str, value: float, *, first: float) -> None:
    """Move the exponential average under `key` towards `value`."""
    known = averages.get(key, first)
    averages[key] = known + _WEIGHT * (value - known)


def interpolate(xs: tuple[int, ...], ys: tuple[float, ...], x: int) -> float:
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

"""Batches of a group whose times nobody has measured yet: how large they may be.

They begin small, which is safe and soon answered. While they run, twice the size has its turn
after a few batches, until the times of all sizes are known.
"""

from __future__ import annotations

from statistics import median

SAFE_ROWS = 4
RUNS = 3  # batches of a size, after which the next size has its turn


class Learner:
    """The times of one group on one lane, as they become known."""

    def __init__(self) -> None:
        self._rows = SAFE_ROWS
        self._times_s: dict[int, list[float]] = {}

    def useful_rows(self, limit: int) -> int:
        """The batch to form when there are rows enough, at most `limit`."""
        return min(self._rows, limit)

    def observe(self, rows: int, time_s: float) -> None:
        """Learn from a batch."""
        times_s = self._times_s.setdefault(rows, [])
        times_s.append(time_s)
        if rows >= self._rows and len(times_s) >= RUNS:
            self._rows = 2 * rows

    def found(self, limit: int) -> tuple[tuple[int, ...], tuple[float, ...]] | None:
        """Sizes and their seconds, ascending, when those up to `limit` have run; else None."""
        sizes = sorted(size for size, times_s in self._times_s.items() if len(times_s) >= RUNS)
        if self._rows <= limit or not sizes or sizes[-1] < min(SAFE_ROWS, limit):
            return None
        return tuple(sizes), tuple(median(self._times_s[size]) for size in sizes)

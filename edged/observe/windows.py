"""What was counted lately: windows of one minute and of ten, as differences of running figures.

To count costs no more for that. Every few seconds in which something happens the figures are
remembered as they were; a window is what has been added since such a moment. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

SPANS_S = (60, 600)
_STEPS = 12  # a window is longer than its span by one step at most

F = TypeVar("F")


class History(Generic[F]):
    """Figures as they were at the ends of past steps."""

    def __init__(self, span_s: int, started_at: float, first: F) -> None:
        """`first`: the figures at the start."""
        self.span_s = span_s
        self._started_at = started_at
        self._step_s = span_s / _STEPS
        self._kept: deque[tuple[float, F]] = deque([(started_at, first)])
        self.due_at = self._step_after(started_at)

    def keep(self, now: float, figures: F) -> None:
        """Remember figures that have held since `due_at`. To be called before they change at
        `now`, and before a window is read, unless `now` is before `due_at`.
        """
        self._kept.append((self.due_at, figures))
        self.due_at = self._step_after(now)
        begin = self._begin(now)
        while len(self._kept) > 1 and self._kept[1][0] <= begin:
            self._kept.popleft()

    def since(self, now: float) -> tuple[float, F]:
        """Seconds from the beginning of the window until now, and the figures at its beginning."""
        begin = self._begin(now)
        figures = next(figures for at, figures in reversed(self._kept) if at <= begin)
        return now - begin, figures

    def _begin(self, now: float) -> float:
        return max(self._started_at, self._step_after(now - self.span_s) - self._step_s)

    def _step_after(self, at: float) -> float:
        return (at // self._step_s + 1) * self._step_s

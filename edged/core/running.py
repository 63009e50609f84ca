"""The batches that the device has: which of them run, and when it should hear of the next one.

A device that hears of its next batch when the last one has ended stands still in between. So a
batch may be ordered ahead, as late as possible, because what comes later cannot join it: as long
before a lane is expected to be free as the hand-over takes. The device takes up batches in the
order of their Run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from edged.core.events import Run
from edged.core.ready import ReadyPart

_WEIGHT = 0.1  # of the newest batch in what is learnt
_ERRORS = 2.0  # by so many usual ones a batch may end sooner than expected
_TIMER_S = 1e-3  # by which a driver's timer may be late
_LEAST_S = 0.1e-3  # a hand-over that is shorter is not worth a timer
_MOST = 0.25  # of a batch; to order a short one ahead would only make it smaller


class Batch(NamedTuple):
    """What was ordered. One that was ordered ahead begins when a lane is expected to be free."""

    run: Run
    parts: tuple[ReadyPart, ...]
    started_s: float
    expected_s: float  # that it takes; infinity where nothing is known
    ahead: bool  # of a free lane

    @property
    def ends_s(self) -> float:
        return self.started_s + self.expected_s


class Running:
    """Owns what is ordered and has not ended, and how long hand-overs take."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._batches: dict[int, Batch] = {}  # in the order in which lanes take them up
        self.handover_s = 0.0  # from an order to the news of its end, without the work itself
        self._error_s = 0.0  # between expected and real times
        self.order_at = -math.inf  # of the next batch; infinity: not before one ends

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches.values())

    @property
    def has_free_lane(self) -> bool:
        return len(self._batches) < self._lanes

    @property
    def settled_until_s(self) -> float:
        """Up to then no batch is ordered. Minus infinity while a lane is free."""
        return min(self.order_at, self.begins_s(-math.inf))

    def begins_s(self, now: float) -> float:
        """When a batch that is ordered now is expected to begin."""
        if self.has_free_lane:
            return now
        ends_s = sorted(batch.ends_s for batch in self)
        return max(now, ends_s[len(ends_s) - self._lanes])

    def order(
        self, run: Run, parts: Iterable[ReadyPart], expected_s: float | None, now: float
    ) -> None:
        known_s = math.inf if expected_s is None else expected_s
        ahead = not self.has_free_lane
        self._batches[run.batch] = Batch(run, tuple(parts), self.begins_s(now), known_s, ahead)
        self.order_at = self._next_order_at()

    def end(self, number: int, busy_s: float | None, now: float) -> Batch:
        """A batch has ended after so much work, or failed (None); the next one begins."""
        waits = len(self._batches) > self._lanes
        ended = self._batches.pop(number)
        if waits:
            batch = next(islice(self, self._lanes - 1, None))
            self._batches[batch.run.batch] = batch._replace(started_s=now)
        if busy_s is not None:
            self._learn(ended, busy_s, now - ended.started_s)
        self.order_at = self._next_order_at()
        return ended

    def _next_order_at(self) -> float:
        if self.has_free_lane:
            return -math.inf
        if len(self._batches) >= 2 * self._lanes or self.handover_s < _LEAST_S:
            return math.inf
        shortest_s = min(batch.expected_s for batch in self)
        lead_s = self.handover_s + _ERRORS * self._error_s + _TIMER_S
        return self.begins_s(-math.inf) - min(lead_s, _MOST * shortest_s)

    def _learn(self, ended: Batch, busy_s: float, took_s: float) -> None:
        if not ended.ahead:
            self.handover_s += _WEIGHT * (max(0.0, took_s - busy_s) - self.handover_s)
        if math.isfinite(ended.expected_s) and (self._lanes == 1 or not ended.run.wide):
            self._error_s += _WEIGHT * (abs(took_s - ended.expected_s) - self._error_s)

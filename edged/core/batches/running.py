"""The batches that the device has: which of them run, and when it should hear of the next one.

A device that hears of its next batch when the last one has ended stands still in between. So a
batch may be ordered ahead, as late as possible, because what comes later cannot join it: as long
before a lane is expected to be free as the hand-over takes. The device takes up batches in the
order of their Run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice

from msgspec import Struct
from msgspec.structs import replace

from edged.core.events import Run
from edged.core.requests.staged import ReadyPart

_WEIGHT = 0.1  # of the newest batch in what is learnt
_ERRORS = 2.0  # by so many usual ones a batch may end sooner than expected
_TIMER_S = 1e-3  # by which a driver's timer may be late
_LEAST_S = 0.1e-3  # a hand-over that is shorter is not worth a timer
_MOST = 0.25  # of a batch; to order a short one ahead would only make it smaller


class Batch(Struct, frozen=True):
    """What was ordered. One that was ordered ahead begins when a lane is expected to be free."""

    run: Run
    parts: tuple[ReadyPart, ...]
    started_s: float
    expected_s: float  # that it takes; infinity where nothing is known
    ahead: bool  # of a free lane


class Running:
    """Owns what is ordered and has not ended, and how long hand-overs take."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._batches: dict[int, Batch] = {}  # in the order in which lanes take them up
        self.batches = self._batches.values()
        self.rows = 0  # of all of them
        self._error_s = 0.0  # between expected and real times
        self.handover_s = 0.0  # from an order to the news of its end, without the work itself
        self.has_free_lane = True
        self.free_s = -math.inf  # when a lane is expected to be free; minus infinity: it is
        self.order_at = -math.inf  # of the next batch; infinity: not before one ends

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def settled_until_s(self) -> float:
        """Up to then no batch is ordered. Minus infinity while a lane is free."""
        return min(self.order_at, self.free_s)

    @property
    def spare_s(self) -> float:
        """By how much a batch may well take longer than expected."""
        return _ERRORS * self._error_s

    def expected_s(self, number: int) -> float | None:
        """That this batch takes; None where nothing is known."""
        expected_s = self._batches[number].expected_s
        return expected_s if expected_s < math.inf else None

    def order(
        self, run: Run, parts: Iterable[ReadyPart], expected_s: float | None, now: float
    ) -> None:
        known_s = math.inf if expected_s is None else expected_s
        begins_s, ahead = max(now, self.free_s), not self.has_free_lane
        self._batches[run.batch] = Batch(run, tuple(parts), begins_s, known_s, ahead)
        self.rows += run.rows
        self._look_ahead()

    def end(self, number: int, busy_s: float | None, now: float) -> Batch:
        """A batch has ended after so much work, or failed (None); the next one begins."""
        waits = len(self._batches) > self._lanes
        ended = self._batches.pop(number)
        self.rows -= ended.run.rows
        if waits:
            batch = next(islice(self.batches, self._lanes - 1, None))
            self._batches[batch.run.batch] = replace(batch, started_s=now)
        if busy_s is not None:
            self._learn(ended, busy_s, now - ended.started_s)
        self._look_ahead()
        return ended

    def _look_ahead(self) -> None:
        """When a lane is free and the next batch is to be ordered, as of now."""
        lanes, batches = self._lanes, self.batches
        self.has_free_lane = len(batches) < lanes
        if self.has_free_lane:
            self.free_s = self.order_at = -math.inf
            return
        self.free_s = sorted([b.started_s + b.expected_s for b in batches])[-lanes]
        if len(batches) >= 2 * lanes or self.handover_s < _LEAST_S:
            self.order_at = math.inf
            return
        shortest_s = min([b.expected_s for b in batches])
        lead_s = self.handover_s + self.spare_s + _TIMER_S
        self.order_at = self.free_s - min(lead_s, _MOST * shortest_s)

    def _learn(self, ended: Batch, busy_s: float, took_s: float) -> None:
        if not ended.ahead:
            self.handover_s += _WEIGHT * (max(0.0, took_s - busy_s) - self.handover_s)
        if math.isfinite(ended.expected_s) and (self._lanes == 1 or not ended.run.wide):
            self._error_s += _WEIGHT * (abs(took_s - ended.expected_s) - self._error_s)

"""Needs: which requests wait for which models, and how often each model is asked for.

A need is the set of models of a request. It knows what it waits for by count only; what is on
the device, and what comes next, is decided elsewhere.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass, field

from edged.core.events import Request

_WEIGHT = 0.1  # of the newest gap in the averages


@dataclass(slots=True, eq=False)
class Use:
    """How regularly, and with how much patience, a model is asked for."""

    last_s: float | None = None
    gap_s: float = math.inf  # mean time between two requests
    gap_square: float = 0.0  # mean square of it
    patience_s: float = math.inf  # mean time from arrival to deadline

    def seen(self, now: float, deadline_s: float | None) -> None:
        patience_s = math.inf if deadline_s is None else deadline_s - now
        if self.last_s is None:
            self.patience_s = patience_s
        else:
            gap_s = now - self.last_s
            if self.gap_s == math.inf:
                self.gap_s, self.gap_square = gap_s, 2.0 * gap_s * gap_s
            self.gap_s += _WEIGHT * (gap_s - self.gap_s)
            self.gap_square += _WEIGHT * (gap_s * gap_s - self.gap_square)
            if patience_s < math.inf and self.patience_s < math.inf:
                self.patience_s += _WEIGHT * (patience_s - self.patience_s)
            else:
                self.patience_s = patience_s
        self.last_s = now

    def next_s(self, now: float) -> float:
        """Expected seconds until the next request; infinite for a model asked for at most once.

        Between two laws: after a regular source asked it asks again one gap later, of a random
        (Poisson) one nothing is known but its mean gap. One that is silent for longer than usual
        is expected to stay silent as long again. So a model of a round robin is the farthest
        from its next use just after one, which is what eviction must know (Belady's rule).
        """
        if self.last_s is None or math.isinf(self.gap_s):
            return math.inf
        elapsed_s = now - self.last_s
        gap_s = max(self.gap_s, 1e-9)
        variation = min(1.0, max(0.0, self.gap_square / (gap_s * gap_s) - 1.0))
        regular_s = max(gap_s - elapsed_s, 0.0)
        silent_s = elapsed_s if elapsed_s > 3.0 * gap_s else 0.0
        return max(regular_s + variation * (gap_s - regular_s), silent_s, 1e-9)


@dataclass(slots=True, eq=False)
class Need:
    """The requests of one set of models that wait, and how many runs hold its blocks in use.

    Identity is its key: one object for each set, made by the residency.
    """

    models: tuple[str, ...]
    groups: tuple[str, ...]  # of its parts
    missing: int = 0  # of its blocks that no new request can start with
    in_use: int = 0  # requests, and runs of the calibration, that are on the device
    open: int = 0  # accepted requests, those that wait and those on the device
    arrived_s: OrderedDict[int, float] = field(default_factory=OrderedDict)  # of those that wait
    deadlines_s: list[float] = field(default_factory=list)  # of those that wait, ascending
    levels: dict[int, int] = field(default_factory=dict)  # how many wait, by priority
    rows: int = 0  # that wait
    use: Use = field(default_factory=Use)  # of a single model
    used_s: float = -math.inf  # when a request last started, or the last block came
    fresh: bool = False  # has come to the device, and none of those that wait has started yet
    lacked_s: float = math.inf  # of a single model: since when it has been asked for and not come

    @property
    def is_model(self) -> bool:
        """Whether it is that of one model; that of several has no history of its own."""
        return len(self.models) == 1

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self.arrived_s)

    @property
    def oldest_s(self) -> float:
        """When the oldest of those that wait came; only asked while one does."""
        return next(iter(self.arrived_s.values()))

    @property
    def level(self) -> int:
        """The most urgent priority of those that wait; only asked while one does."""
        return min(self.levels)

    def level_or(self, level: int) -> int:
        """The most urgent priority of those that wait; `level` where none does."""
        return min(self.levels, default=level)

    def add(self, request: Request, arrived_s: float) -> None:
        """A request waits."""
        self.arrived_s[request.rid] = arrived_s
        insort(self.deadlines_s, _deadline_s(request))
        self.levels[request.level] = self.levels.get(request.level, 0) + 1
        self.rows += request.rows

    def remove(self, request: Request) -> None:
        """A request waits no more."""
        del self.arrived_s[request.rid]
        del self.deadlines_s[bisect_left(self.deadlines_s, _deadline_s(request))]
        self.levels[request.level] -= 1
        if not self.levels[request.level]:
            del self.levels[request.level]
        self.rows -= request.rows
        if not self.arrived_s:
            self.fresh = False

    def in_time(self, at_s: float) -> int:
        """How many of those that wait have a deadline at `at_s` or later."""
        return len(self.deadlines_s) - bisect_left(self.deadlines_s, at_s)


def _deadline_s(request: Request) -> float:
    return math.inf if request.deadline_s is None else request.deadline_s

"""SMOOTH's Algorithm 1, and two ways to close its gaps.

Wait for the smallest batch that carries the load. The load is what arrives for the whole device:
the groups share its lanes, so a group that saw its own arrivals alone would run batches too small
to leave time for the others.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from edged.core.batches.policies import BatchPolicy, GroupView, Rule, work_conserving
from edged.core.events import GroupCost
from edged.policies.arrivals import ArrivalRate


class Smooth(msgspec.Struct, frozen=True):
    """How the load is measured. The paper does not say; these are the guesses of docs/results."""

    window_s: float = 1.0  # time over which arrivals are counted
    beat_s: float = 0.1  # time between two looks at the load

    def policy(self, rule: Callable[[], Rule]) -> BatchPolicy:
        """A policy whose rule follows the load measured so."""
        return BatchPolicy(rule, rate=self._rate)

    def _rate(self, since: float) -> ArrivalRate:
        return ArrivalRate(window_s=self.window_s, beat_s=self.beat_s, since=since)


def smooth() -> Rule:
    """Algorithm 1: wait for the batch that `smallest_feasible` names at the present load.

    The paper leaves the batch size undefined where no size is feasible; the largest one is taken.
    """
    return _waiting_for(_feasible_or_largest)


def smooth_keep() -> Rule:
    """Algorithm 1 as printed: where no size is feasible nothing is assigned, and the batch size
    stays what it was; before any was feasible, the smallest."""
    return _waiting_for(_LastFeasible())


def smooth_timeout() -> Rule:
    """As `smooth`, but what has waited for 2 B / load, twice as long as a batch should take to
    fill, runs: the batching delay of most servers. There is no timer for it, so it is up to a beat
    late."""
    full = smooth()

    def rows(view: GroupView) -> int:
        wanted = full(view)
        if wanted or view.cost is None:
            return wanted
        late = view.waited_s * view.rate_rows_s >= 2 * _feasible_or_largest(view.cost, view)
        return work_conserving(view) if late else 0

    return rows


class _LastFeasible:
    """The latest size that was feasible."""

    def __init__(self) -> None:
        self._rows: int | None = None

    def __call__(self, cost: GroupCost, view: GroupView) -> int:
        found = smallest_feasible(cost, view.rate_rows_s, view.others_rows_s)
        self._rows = found or self._rows or cost.rows[0]
        return self._rows


def _feasible_or_largest(cost: GroupCost, view: GroupView) -> int:
    return smallest_feasible(cost, view.rate_rows_s, view.others_rows_s) or cost.rows[-1]


def _waiting_for(chosen: Callable[[GroupCost, GroupView], int]) -> Rule:
    """Wait for the batch size that is chosen by measured times and load."""

    def rows(view: GroupView) -> int:
        if view.cost is None:
            return work_conserving(view)  # nothing is measured yet, so nothing can be chosen
        wanted = min(chosen(view.cost, view), view.limit_rows)
        return wanted if view.staged_rows >= wanted else 0

    return rows


def smallest_feasible(cost: GroupCost, rate_rows_s: float, others_rows_s: float) -> int | None:
    """The batch size of Algorithm 1; None when the load is above what any size carries.

    It minimises t_net + t_pre + t_B + t_head + B / load over the sizes B with
    min(workers / t_pre, B / t_B, 1 / t_head) >= load. Both t_B and B / load grow with B, so that
    is the smallest feasible size; without load it is 1. `others_rows_s` is the smaller one of the
    first and the last rate, as measured on this device. Rates in rows/s, times in s.
    """
    for rows, time_s in zip(cost.rows, cost.time_s, strict=True):
        if min(others_rows_s, rows / time_s) >= rate_rows_s:
            return rows
    return None

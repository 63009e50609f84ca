"""Algorithm 3 of PartialLoading: load next the model that serves the most users per unit of time.

Ties go to more users, then to the smaller index; the paper does not say. A model is visited once
(the algorithm removes it from I'), so users that did not fit its visit are not served.
"""

from __future__ import annotations

import numpy as np

from edged.planner.loading.order import Visits
from edged.planner.loading.slotted import slots_of, slots_until_deadline
from edged.planner.loading.tables import LoadingTables


def greedy_visits(tables: LoadingTables, *, slotted: bool) -> Visits:
    """The visits in order. If `slotted`, as in the paper, every visit takes whole slots."""
    left = tables.asked
    loaded = tables.cold
    time_left = slots_until_deadline(tables) if slotted else tables.limit_ms
    visits: Visits = []
    while left:
        cost = tables.load_ms[loaded, left][:, None] + tables.serve_ms[left, 1:]  # (22), (23)
        if slotted:
            cost = slots_of(tables, cost)
        users = np.broadcast_to(np.arange(1, cost.shape[1] + 1), cost.shape)
        with np.errstate(divide="ignore"):
            rate = np.where(cost <= time_left, users / cost, -1.0)
        if rate.max() < 0:
            break
        best = np.lexsort((-users.ravel(), -rate.ravel()))[0]
        at, users_less_one = divmod(int(best), cost.shape[1])
        visits.append((left[at], users_less_one + 1))
        loaded = left[at]
        time_left -= float(cost[at, users_less_one])
        left = [model for model in left if model != loaded]
    return visits

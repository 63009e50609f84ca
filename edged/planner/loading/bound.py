"""An upper bound on the users that any schedule can serve: the certificate of a heuristic plan.

It comes from a relaxation. Some best schedule visits each model once (Theorem 2). Models of
different clusters share nothing, so a schedule without the other clusters' visits is no slower,
and each cluster's visits are a walk through its models that begins with a cold load. The bound
allows a walk to visit a model more than once and puts a price on each visit instead (Lagrange
multipliers, in ms). It holds for any prices; subgradient steps look for prices that rule out the
largest number of users still in question.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.planner.loading.order import best_visits
from edged.planner.loading.structure import BlockSharing
from edged.planner.loading.tables import Floats, Ints, LoadingTables

ROUNDS = 60
STATES_MAX = 6e7  # states that all rounds together may evaluate; one round is always made
_ROUNDING = 1e-9  # relative; rounding may make the bound too high but never too low
_STEP_FACTOR = 1.8  # times the step that reaches the deadline if times are linear in the prices
_AIM_FACTOR = (
    1.02  # the steps aim 2 % past the deadline, as they shrink before they reach their aim
)


def upper_bound(tables: LoadingTables, sharing: BlockSharing, served: int) -> int:
    """No schedule serves more users than this number; it is the optimum if clusters are nested.

    `served` users are known to be possible: the search ends when it gets there.
    """
    if sharing.nested:
        return sum(users for _, users in best_visits(tables, sharing.order))
    models = np.array(sharing.order)
    price_ms = np.zeros(len(models))
    least_ms = np.zeros(tables.users + 1)
    bound = tables.users
    work = len(models) ** 2 * (tables.users + 1)
    for _ in range(max(1, min(ROUNDS, int(STATES_MAX / work)))):
        walks = _Walks.solve(tables, sharing, price_ms)
        total_ms, share = _combine(walks.least_by_cluster(), tables.users)
        total_ms = total_ms - price_ms.sum()
        least_ms = np.maximum(least_ms, np.where(np.arange(tables.users + 1) > 0, total_ms, 0.0))
        limit_ms = tables.limit_ms * (1.0 + _ROUNDING)
        bound = int(np.flatnonzero(least_ms <= limit_ms)[-1])
        if bound <= served:
            return served
        excess = walks.visits(_split(share, bound)) - 1.0
        excess[(price_ms <= 0) & (excess < 0)] = 0.0
        if not excess.any():
            break
        short_ms = max(tables.limit_ms * _AIM_FACTOR - total_ms[bound], 0.0)
        price_ms = np.maximum(0.0, price_ms + _STEP_FACTOR * short_ms / (excess @ excess) * excess)
    return bound


@dataclass(frozen=True, slots=True)
class _Walks:
    """Cheapest walks within each cluster, visits priced; rows are models in `sharing.order`."""

    cluster: list[slice]  # rows of each cluster
    users: list[int]  # users of each cluster
    least_ms: Floats  # (I, K + 1) least time to serve k users and end in model i
    count: Ints  # (I, K + 1) users of the last visit
    previous: Ints  # (I, K + 1) row of the model before a visit that starts after k users

    @classmethod
    def solve(cls, tables: LoadingTables, sharing: BlockSharing, price_ms: Floats) -> _Walks:
        models = np.array(sharing.order)
        ends = np.cumsum([len(cluster) for cluster in sharing.clusters])
        cluster = [
            slice(end - len(models_), end)
            for end, models_ in zip(ends.tolist(), sharing.clusters, strict=True)
        ]
        users = [sum(len(tables.queue[i]) for i in models_) for models_ in sharing.clusters]
        load_ms = np.full((len(models), len(models)), np.inf)
        for rows in cluster:
            load_ms[rows, rows] = tables.load_ms[np.ix_(models[rows], models[rows])]
        np.fill_diagonal(load_ms, np.inf)
        serve_ms = tables.serve_ms[models]
        width = serve_ms.shape[1] - 1
        shape = (len(models), max(users) + 1)
        least = np.full(shape, np.inf)
        loaded = np.full(shape, np.inf)  # least time to have served k users and loaded model i
        loaded[:, 0] = tables.load_ms[tables.cold, models]
        count = np.zeros(shape, dtype=np.int64)
        previous = np.zeros(shape, dtype=np.int64)
        for k in range(1, shape[1]):
            q = np.arange(1, min(width, k) + 1)
            options = loaded[:, k - q] + serve_ms[:, q]
            count[:, k] = options.argmin(axis=1) + 1
            least[:, k] = options.min(axis=1) + price_ms
            reached = least[:, k, None] + load_ms
            previous[:, k] = reached.argmin(axis=0)
            loaded[:, k] = reached.min(axis=0)
        return cls(cluster, users, least, count, previous)

    def least_by_cluster(self) -> list[Floats]:
        """The least ms to serve k users of each cluster: arrays (users of the cluster + 1,)."""
        least = [
            self.least_ms[rows, : users + 1].min(axis=0)
            for rows, users in zip(self.cluster, self.users, strict=True)
        ]
        for served_ms in least:
            served_ms[0] = 0.0
        return least

    def visits(self, share: list[int]) -> Floats:
        """How often the walks that serve `share[c]` users of cluster c visit each model, (I,)."""
        visits = np.zeros(len(self.least_ms))
        for rows, users in zip(self.cluster, share, strict=True):
            if users == 0:
                continue
            row = rows.start + int(self.least_ms[rows, users].argmin())
            while True:
                visits[row] += 1.0
                users -= int(self.count[row, users])
                if users == 0:
                    break
                row = int(self.previous[row, users])
        return visits


def _combine(clusters: list[Floats], users_max: int) -> tuple[Floats, list[Ints]]:
    """The least ms to serve k users of all clusters, and how many of the k each cluster serves."""
    total_ms = np.full(users_max + 1, np.inf)
    total_ms[0] = 0.0
    share: list[Ints] = []
    for least_ms in clusters:
        combined = np.full(users_max + 1, np.inf)
        users = np.zeros(users_max + 1, dtype=np.int64)
        for k, time_ms in enumerate(least_ms):
            candidate = total_ms[: users_max + 1 - k] + time_ms
            better = candidate < combined[k:]
            combined[k:][better] = candidate[better]
            users[k:][better] = k
        total_ms = combined
        share.append(users)
    return total_ms, share


def _split(share: list[Ints], users: int) -> list[int]:
    """How many of `users` each cluster serves."""
    split: list[int] = []
    for chosen in reversed(share):
        split.append(int(chosen[users]))
        users -= split[-1]
    return split[::-1]

"""Algorithm 2 of PartialLoading: dynamic programming over time slots, for nested clusters.

There are two readings. `literal` decides by test (19) whether model i' may precede model i:
g(i', t) > 0 and g(i', t) != g(i' - 1, t). That test takes "serving more users than without i'" for
"i' is loaded last" and forbids a predecessor that only ties. The other reading keeps in the table
which model is loaded last. Both compute the upload time of a batch by (11), the sum over its users;
(16) as printed counts only the slowest user. Method `dp` is better than either: rounding each visit
up to whole slots costs users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.errors import PlanError
from edged.planner.loading.order import Visits
from edged.planner.loading.tables import Floats, Ints, LoadingTables

_UNREACHABLE = np.int64(-(2**40))  # number of users served in a state that cannot be reached
_ROUNDING = 1e-12

ENTRIES_MAX = 1e7  # models times slots; four tables of that many entries take 320 MB


def slots_of(tables: LoadingTables, time_ms: Floats) -> Floats:
    """The slots that visits of these lengths take: at least one each; inf stays inf."""
    return np.maximum(1.0, np.ceil(time_ms / tables.slot_ms * (1.0 - _ROUNDING)))


def slots_until_deadline(tables: LoadingTables) -> float:
    """The whole slots before the deadline, T in the paper."""
    return float(np.floor(tables.limit_ms / tables.slot_ms * (1.0 + _ROUNDING)))


def slotted_visits(tables: LoadingTables, clusters: list[list[int]], *, literal: bool) -> Visits:
    """Visits that serve the most users when each visit takes whole slots.

    Raises PlanError when the slots are so short that the tables would not fit in memory.
    """
    slots = slots_until_deadline(tables)
    if slots * len(tables.asked) > ENTRIES_MAX:
        raise PlanError(
            f"slot_ms: {slots:.2g} slots until the deadline are too many for a slotted method: "
            "take longer slots, or dp, which has none"
        )
    horizon = int(slots)
    solved = [_solve(tables, models, horizon, literal) for models in clusters]
    return _combine(solved, horizon)


@dataclass(frozen=True, slots=True)
class _Cluster:
    """The tables of one cluster; column t is for t slots."""

    models: list[int]  # (M,) in loading order
    last: Ints  # (M, T + 1) most users served within t slots when model m is loaded last
    count: Ints  # (M, T + 1) how many of them model m serves
    slots: Ints  # (M, T + 1) how many slots the visit to model m takes
    previous: Ints  # (M, T + 1) which model was loaded before; M if the device was cold

    def most(self) -> Ints:
        """The most users served within t slots, g_m(I_m, t) in the paper: (T + 1,)."""
        most: Ints = self.last.max(axis=0, initial=0)
        return most

    def visits(self, t: int) -> Visits:
        """The visits that serve `most()[t]` users, in order; that number must not be 0."""
        visits: Visits = []
        m = int(self.last[:, t].argmax())
        while m < len(self.models):
            visits.append((self.models[m], int(self.count[m, t])))
            m, t = int(self.previous[m, t]), t - int(self.slots[m, t])
        return visits[::-1]


def _solve(tables: LoadingTables, models: list[int], horizon: int, literal: bool) -> _Cluster:
    """Solve one cluster by (15), (18) and (19)."""
    shape = (len(models), horizon + 1)
    cluster = _Cluster(
        models=models,
        last=np.full(shape, _UNREACHABLE),
        count=np.zeros(shape, dtype=np.int64),
        slots=np.zeros(shape, dtype=np.int64),
        previous=np.full(shape, len(models)),
    )
    most = np.zeros(horizon + 1, dtype=np.int64)  # g(m, .) of the models so far
    sources: list[tuple[int, Ints]] = [(len(models), most)]  # possible predecessors; first, none
    for m, model in enumerate(models):
        for previous, served in sources:
            row = tables.cold if previous == len(models) else models[previous]
            _extend(tables, cluster, m, previous, served, tables.load_ms[row, model])
        raised = cluster.last[m] > most
        sources.append(
            (m, np.where(raised, cluster.last[m], _UNREACHABLE) if literal else cluster.last[m])
        )
        most = np.maximum(most, cluster.last[m])
    return cluster


def _extend(
    tables: LoadingTables, cluster: _Cluster, m: int, previous: int, served: Ints, load_ms: float
) -> None:
    """Try 1, 2, .. users of model m after `served[t]` users, with `previous` loaded before."""
    model = cluster.models[m]
    horizon = len(served) - 1
    width = len(tables.queue[model])
    slots = slots_of(tables, load_ms + tables.serve_ms[model, : width + 1])
    for k in range(1, width + 1):
        if slots[k] > horizon:
            break
        taken = int(slots[k])
        users = served[: horizon + 1 - taken] + k
        better = users > cluster.last[m, taken:]
        for table, value in (
            (cluster.last, users[better]),
            (cluster.count, k),
            (cluster.slots, taken),
            (cluster.previous, previous),
        ):
            table[m, taken:][better] = value


def _combine(clusters: list[_Cluster], horizon: int) -> Visits:
    """Divide the slots among the clusters, last cluster first: (20) and Algorithm 1."""
    most = np.zeros(horizon + 1, dtype=np.int64)  # f(m, t)
    given: list[Ints] = []  # slots of each cluster if t are left for it and those before it
    for cluster in clusters:
        alone = cluster.most()
        better = most.copy()
        slots = np.zeros(horizon + 1, dtype=np.int64)
        for k in range(1, int(alone[-1]) + 1):
            taken = int(np.searchsorted(alone, k))  # the fewest slots for k users
            users = most[: horizon + 1 - taken] + alone[taken]
            gains = users > better[taken:]
            better[taken:][gains] = users[gains]
            slots[taken:][gains] = taken
        most = better
        given.append(slots)
    visits: Visits = []
    left = horizon
    for cluster, slots in zip(reversed(clusters), reversed(given), strict=True):
        taken = int(slots[left])
        if taken:
            visits = cluster.visits(taken) + visits
        left -= taken
    return visits

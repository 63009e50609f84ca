"""The least time to serve each number of users when models may only be loaded in a given order.

The result is exact for the order, without slots: models may be skipped, and the state names the
model that was really loaded last. One order is optimal if clusters are nested (Corollary 1), so
this is then the whole solver; otherwise it scores the orders that a search proposes.
"""

from __future__ import annotations

import numpy as np

from edged.planner.loading.tables import Floats, Ints, LoadingTables

Visits = list[tuple[int, int]]  # (model, users served), in the order run


def least_ms(tables: LoadingTables, orders: Ints, users_max: int) -> Floats:
    """The least ms to serve k users with the m-th model of the order last.

    The table is (N, M + 1, users_max + 1). `orders` (N, M) holds model indices, none twice in one
    order. Entry [:, 0] is the cold device, which has served nobody; an entry is inf if its state
    cannot be reached.
    H[m, k] = min over s < m, q >= 1 of H[s, k - q] + load(s, m) + serve(m, q).
    """
    count, length = orders.shape
    least = np.full((count, length + 1, users_max + 1), np.inf)
    least[:, 0, 0] = 0.0
    before = np.concatenate([np.full((count, 1), tables.cold), orders], axis=1)
    queued = np.array([len(queue) for queue in tables.queue], dtype=np.int64)
    for m in range(1, length + 1):
        model = before[:, m]
        load = tables.load_ms[before[:, :m], model[:, None]]  # (N, m)
        loaded = (least[:, :m] + load[:, :, None]).min(axis=1)  # (N, users_max + 1)
        served = least[:, m]
        for q in range(1, min(int(queued[model].max(initial=0)), users_max) + 1):
            serve = tables.serve_ms[model, q]
            np.minimum(
                served[:, q:], loaded[:, : users_max + 1 - q] + serve[:, None], out=served[:, q:]
            )
    return least


def best_visits(tables: LoadingTables, order: list[int]) -> Visits:
    """Visits along `order` that serve the most users by the deadline and then end the earliest."""
    least = _along(tables, order)
    users = int(np.flatnonzero(least.min(axis=0) <= tables.limit_ms)[-1])
    return _trace(tables, order, least, users)


def visits_of(tables: LoadingTables, order: list[int], users: int) -> Visits:
    """The fastest visits along `order` that serve `users` users, or as many as it can."""
    least = _along(tables, order)
    return _trace(tables, order, least, min(users, least.shape[1] - 1))


def _along(tables: LoadingTables, order: list[int]) -> Floats:
    """The table `least_ms` of one order, up to all users of its models."""
    users_max = sum(len(tables.queue[i]) for i in order)
    least: Floats = least_ms(tables, np.array([order], dtype=np.int64), users_max)[0]
    return least


def _trace(tables: LoadingTables, order: list[int], least: Floats, count: int) -> Visits:
    """The visits behind the least time for `count` users, traced from the last one backwards."""
    before = np.array([tables.cold, *order])
    visits: Visits = []
    m = int(least[:, count].argmin())
    while count:
        model = int(before[m])
        loaded = least[:m] + tables.load_ms[before[:m], model][:, None]
        q = np.arange(1, min(count, len(tables.queue[model])) + 1)
        total = loaded[:, count - q] + tables.serve_ms[model, q]  # (m, Q)
        m, best = divmod(int(total.argmin()), len(q))
        visits.append((model, best + 1))
        count -= best + 1
    return visits[::-1]

"""Greedy-plus: search for a loading order; how many users each model serves is exact along it.

Only the order is heuristic. Two steps alternate: shorten the order of the models in use
(`tour.shorter`), and count users along it (`order.least_ms`), which also says which models are in
use. When they change nothing more, single models are inserted or moved, and many such orders are
scored at a time. An order is better when it serves more users or, if equal, when it needs less
time for one user more. Nested clusters need no search: `BlockSharing.order` is optimal for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edged.planner.loading.greedy import greedy_visits
from edged.planner.loading.order import Visits, best_visits, least_ms, visits_of
from edged.planner.loading.structure import BlockSharing
from edged.planner.loading.tables import Ints, LoadingTables
from edged.planner.loading.tour import shorter

STATES_MAX = 5e6  # states that scoring single moves may evaluate: about 20 ms
_ORDERS_AT_ONCE = 64  # orders that are scored together


def greedy_plus_visits(tables: LoadingTables, sharing: BlockSharing) -> Visits:
    """Visits along the best order found; the best there is when the clusters are nested."""
    if sharing.nested:
        return best_visits(tables, sharing.order)
    return best_visits(tables, search_order(tables, start_orders(tables, sharing)))


def start_orders(tables: LoadingTables, sharing: BlockSharing) -> list[list[int]]:
    """Three orders of all requested models: greedy, nearest neighbour, and by cluster."""
    greedy = [model for model, _ in greedy_visits(tables, slotted=False)]
    return [_nearest(tables, greedy), _nearest(tables, []), sharing.order]


def search_order(tables: LoadingTables, starts: list[list[int]]) -> list[int]:
    """The best order found from any of `starts`, each of which lists all requested models."""
    found = _best_of(tables, np.array([shorter(tables, order) for order in starts]), tables.users)
    found = _settle(tables, found)
    work = STATES_MAX
    improved = True
    while improved and found.users < tables.users:
        improved = False
        for orders in _neighbours(_in_use(tables, found), tables.asked):
            tried = _best_of(tables, orders, min(found.users + 2, tables.users))
            if tried.key < found.key:
                found = _settle(tables, _best_of(tables, np.array([tried.order]), tables.users))
                improved = True
                break
            work -= orders.size * orders.shape[1] * (found.users + 2) / 2
            if work < 0:
                break
    return found.order


@dataclass(frozen=True, slots=True)
class _Found:
    """An order, the users that it serves, and the time that one user more would take."""

    order: list[int]
    users: int
    more_ms: float

    @property
    def key(self) -> tuple[int, float]:
        """The sort key: smaller is better."""
        return -self.users, self.more_ms


def _best_of(tables: LoadingTables, orders: Ints, users_max: int) -> _Found:
    """The best of (N, M) orders, counting no more than `users_max` users."""
    least = least_ms(tables, orders, users_max).min(axis=1)
    users = np.where(least <= tables.limit_ms, np.arange(users_max + 1), 0).max(axis=1)
    more_ms = least[np.arange(len(least)), np.minimum(users + 1, users_max)]
    best = int(np.lexsort((more_ms, -users))[0])
    return _Found(orders[best].tolist(), int(users[best]), float(more_ms[best]))


def _in_use(tables: LoadingTables, found: _Found) -> list[int]:
    """The models, in order, that the fastest way to serve one user more loads."""
    users = min(found.users + 1, tables.users)
    return [model for model, _ in visits_of(tables, found.order, users)]


def _settle(tables: LoadingTables, found: _Found) -> _Found:
    """Shorten the order of the models in use and count again, until that gains nothing."""
    while True:
        order = shorter(tables, _in_use(tables, found))
        again = _best_of(tables, np.array([order]), tables.users)
        if again.key >= found.key:
            return found
        found = again


def _neighbours(used: list[int], asked: list[int]) -> Iterator[Ints]:
    """Orders one move away, in groups: another model inserted, then one of `used` moved."""
    length = len(used)
    added = [model for model in asked if model not in used]
    put = [[*used[:at], model, *used[at:]] for at in range(length + 1) for model in added]
    for first in range(0, len(put), _ORDERS_AT_ONCE):
        yield np.array(put[first : first + _ORDERS_AT_ONCE])
    for at in range(length):
        rest = used[:at] + used[at + 1 :]
        moved = [[*rest[:to], used[at], *rest[to:]] for to in range(length) if to != at]
        if moved:
            yield np.array(moved)


def _nearest(tables: LoadingTables, head: list[int]) -> list[int]:
    """`head`, then the other requested models, each time the one that loads the fastest."""
    order = list(head)
    left = [model for model in tables.asked if model not in head]
    while left:
        load_ms = tables.load_ms[order[-1] if order else tables.cold, left]
        order.append(left.pop(int(load_ms.argmin())))
    return order

"""What every row of every node is worth at given prices of the shared limits, all at once.

At prices of the uplinks, the edges' compute and the cloud link the fleet falls apart: each client
solves a fractional knapsack (its own compute) for each of its rows against each row of its edge.
The sum is a Lagrangian bound on F, and shows which rows no better plan can use. Knows no LP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from edged.planner.fleet.assignment import Prices
from edged.planner.fleet.problem import Array, Bools, FleetProblem, Ints, Mode
from edged.planner.fleet.rows import AssignmentTables, Rows

BLOCK = 50_000  # numbers in an array at a time: they stay in the cache


class ClientGroup(NamedTuple):
    """Some clients, and how many rows they and their edges have before the padding, at most."""

    clients: Ints
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class Worth:
    """The Lagrangian at one set of prices: its value is `constant` + Σ_e `edge`[e, j_e] +
    Σ_c `client`[c, r_c, j_e(c)] for client rows r and edge rows j; with several scenarios, the
    mean. What is asked of `client` is found part by part: fresh memory costs more than numbers."""

    scenarios: tuple[tuple[FleetProblem, Prices], ...]
    tables: AssignmentTables
    edge: Array  # (E, J), -inf for padding
    constant: float

    def _values(self) -> Iterator[tuple[ClientGroup, Array]]:
        """The parts of `client`, less most of the padding: (C', R', J')."""
        rows, edges = self.tables.clients, self.tables.edges
        for part in _parts(rows, edges, self.scenarios[0][0].edge_of):
            each = [
                knapsacks(p, rows, part, _offload_values(p, edges, q, part))
                for p, q in self.scenarios
            ]
            values = each[0] if len(each) == 1 else np.mean(each, axis=0)
            values -= rows.cost[part.clients, : part.rows, None]
            yield part, values

    @cached_property
    def client(self) -> Array:
        """(C, R, J); padding is worth no more than the best row."""
        client = np.full((*self.tables.clients.cost.shape, self.edge.shape[1]), -np.inf)
        for part, values in self._values():
            client[part.clients, : part.rows, : part.columns] = values
        return client

    @cached_property
    def _best(self) -> tuple[Array, Ints]:
        """(C, J) the most that a client makes of its edge's row, and its row that does; anything
        for padding."""
        shape = (len(self.tables.clients.cost), self.edge.shape[1])
        most, row = np.zeros(shape), np.zeros(shape, dtype=np.int64)
        for part, values in self._values():
            best = values.argmax(axis=1)
            row[part.clients, : part.columns] = best
            most[part.clients, : part.columns] = np.take_along_axis(values, best[:, None], 1)[:, 0]
        return most, row

    def response(self, edge_of: Ints) -> tuple[Ints, Ints]:
        """(C,) and (E,) the rows that are worth most together."""
        edge = self.scores(edge_of).argmax(axis=1)
        return self._best[1][np.arange(len(edge_of)), edge[edge_of]], edge

    def scores(self, edge_of: Ints) -> Array:
        """(E, J) the most that an edge and its clients make with the edge's row j."""
        total: Array = self.edge.copy()
        np.add.at(total, edge_of, self._best[0])
        return total

    def bound(self, edge_of: Ints) -> float:
        """No choice of rows is worth more."""
        return self.constant + float(self.scores(edge_of).max(axis=1).sum())

    def reach(self, edge_of: Ints) -> Array:
        """(E, J) the bound on all choices with a given row of one edge."""
        scores = self.scores(edge_of)
        best = scores.max(axis=1)
        # All but one edge at their best
        reach: Array = self.constant + float(best.sum()) - best[:, None] + scores
        return reach

    def client_reach(self, edge_of: Ints) -> Array:
        """(C, R) the same with a given row of one client, -inf for padding."""
        rest = self.reach(edge_of)[edge_of] - self._best[0]  # (C, J) without the client itself
        reach = np.full(self.tables.clients.cost.shape, -np.inf)
        for part, values in self._values():
            values += rest[part.clients, None, : part.columns]
            reach[part.clients, : part.rows] = values.max(axis=2)
        reach[~self.tables.clients.real] = -np.inf
        return reach


def worth(
    scenarios: Sequence[FleetProblem], tables: AssignmentTables, prices: Sequence[Prices]
) -> Worth:
    """Price all rows of all nodes, the mean over scenarios of load with prices of their own. The
    rows' own loading costs are taken off."""
    edges = tables.edges
    left = np.maximum(1.0 - edges.setup, 0.0)  # of the compute, after setup times
    own = np.zeros(edges.cost.shape)
    for p, q in zip(scenarios, prices, strict=True):
        own += (q.edge_compute * p.edge_gflops)[:, None] * left
        own += (q.uplink * p.uplink_mb_s)[:, None]
    return Worth(
        tuple(zip(scenarios, prices, strict=True)),
        tables,
        np.where(edges.real, own / len(scenarios) - edges.cost, -np.inf),
        float(np.mean([q.cloud * p.cloud_mb_s for p, q in zip(scenarios, prices, strict=True)])),
    )


def _parts(rows: Rows, edges: Rows, edge_of: Ints) -> list[ClientGroup]:
    """All clients, those with tables of like length together, BLOCK numbers a part if possible."""
    columns = edges.count[edge_of]
    order = np.lexsort((rows.count, columns))
    sizes = zip(rows.count[order].tolist(), columns[order].tolist(), strict=True)
    parts, start, most = [], 0, (0, 0)
    for number, size in enumerate(sizes):
        wider = (max(most[0], size[0]), max(most[1], size[1]))
        if number > start and (number + 1 - start) * wider[0] * wider[1] > BLOCK:
            parts.append(ClientGroup(order[start:number], *most))
            start, wider = number, size
        most = wider
    return [*parts, ClientGroup(order[start:], *most)]


def _offload_values(p: FleetProblem, edges: Rows, prices: Prices, part: ClientGroup) -> Array:
    """(T, C', J') the best a client makes of offloading all of a task, net of prices."""
    of = p.edge_of[part.clients]
    work = edges.work[:, :, : part.columns].take(of, axis=1)
    accuracy = edges.accuracy[:, :, : part.columns].take(of, axis=1)
    weight, load = p.weight[part.clients].T[:, :, None], p.load[part.clients].T[:, :, None]
    input_mb = p.input_mb[:, None, None]
    uplink = input_mb * prices.uplink[of][:, None]
    edge = weight * accuracy - load * (uplink + work * prices.edge_compute[of][:, None])
    edge[work == 0] = -np.inf
    cloud = weight * p.cloud_accuracy[:, None, None] - load * (uplink + input_mb * prices.cloud)
    best: Array = np.maximum(edge, cloud)
    return best


def knapsacks(p: FleetProblem, rows: Rows, part: ClientGroup, offload: Array) -> Array:
    """(C', R', J) max Σ_t y A + (1 - y) v over local shares y with Σ_t y λ w <= β, for some of the
    clients; `offload` (T, C', J) is v.

    Where a row cannot ask for more compute than the client has, each task takes the better of A
    and v. Elsewhere the local gains A - v above 0 fill the compute.
    """
    clients, first = part.clients, slice(part.rows)
    work, limit = rows.work[:, clients, first], p.client_gflops[clients]
    idle = _idle(p.mode, work > 0)
    accuracy = rows.accuracy[:, clients, first]
    local = np.where(work > 0, p.weight[clients].T[:, :, None] * accuracy, idle)
    size = p.load[clients].T[:, :, None] * work  # (T, C', R') GFLOP/s
    most = _better(local, offload)
    client, row = np.nonzero(size.sum(axis=0) > limit[:, None])
    for some in _blocks(len(client), len(offload) * offload.shape[2]):
        c, r = client[some], row[some]
        without = np.maximum(offload.take(c, axis=1), idle[:, c, r, None])
        gain = np.maximum(local[:, c, r, None] - without, 0.0)
        most[c, r] = fill(gain, size[:, c, r, None], limit[c, None]) + without.sum(axis=0)
    return most


def _idle(mode: Mode, served: Bools) -> Array:
    """(T, C', R') what a share that no node serves counts: 0, or -inf where that is not allowed."""
    allowed = (mode is Mode.DROP) | ((mode is Mode.NULL) & ~served)
    return np.where(allowed, 0.0, -np.inf)


def _better(local: Array, offload: Array) -> Array:
    """(C', R', J) Σ_t max(local (T, C', R'), offload (T, C', J))."""
    total: Array = np.maximum(local[0, :, :, None], offload[0, :, None])
    one = np.empty_like(total)
    for a, b in zip(local[1:], offload[1:], strict=True):
        total += np.maximum(a[:, :, None], b[:, None], out=one)
    return total


def _blocks(count: int, size: int) -> Iterator[slice]:
    """Slices of 0..count, so that the arrays of `size` numbers for each make up BLOCK."""
    step = max(1, BLOCK // size)
    return (slice(start, start + step) for start in range(0, count, step))


def fill(gain: Array, size: Array, limit: Array) -> Array:
    """The most that fractional knapsacks hold: gains (T, ..) and, broadcast against them, sizes
    (T, ..) and limits (..).

    It is the least of α limit + Σ max(0, gain - α size) over α, at 0 or at a gain per size.
    """
    density = gain / np.where(size > 0, size, 1.0)
    best: Array = gain.sum(axis=0)
    left = np.empty_like(gain)  # one buffer: fresh arrays cost more than the arithmetic
    for price in density:
        np.multiply(price, size, out=left)
        np.maximum(np.subtract(gain, left, out=left), 0.0, out=left)
        np.minimum(best, price * limit + left.sum(axis=0), out=best)
    return best

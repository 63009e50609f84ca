"""What every row of every node is worth at given prices of the shared limits, all at once.

Once the uplinks, the edges' compute and the cloud link have prices, the fleet falls apart: each
client solves a fractional knapsack (its own compute) for each of its rows against each row of its
edge. The sum is a Lagrangian bound on F, and shows which rows no better plan can use. Knows no LP.
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

BLOCK = 50_000  # numbers of an array that are computed at a time, so that they stay in the cache


class ClientGroup(NamedTuple):
    """Clients whose tables have similar lengths."""

    clients: Ints
    rows: int  # the most rows that one of them has, without padding
    columns: int  # the most rows that an edge of theirs has, without padding


@dataclass(frozen=True, eq=False)
class Worth:
    """The Lagrangian at one set of prices; the mean, if there are several scenarios.

    Its value is `constant` + Σ_e `edge`[e, j_e] + Σ_c `client`[c, r_c, j_e(c)], r being the client
    rows and j the edge rows. Methods compute `client` group by group and keep none of it: to
    allocate memory for all of it takes longer than the arithmetic.
    """

    scenarios: tuple[tuple[FleetProblem, Prices], ...]
    tables: AssignmentTables
    edge: Array  # (E, J), -inf for padding
    constant: float

    def _values(self) -> Iterator[tuple[ClientGroup, Array]]:
        """The values `client` by groups of clients, without most of the padding: (C', R', J')."""
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
        """The values (C, R, J); padding is worth no more than the best row."""
        client = np.full((*self.tables.clients.cost.shape, self.edge.shape[1]), -np.inf)
        for part, values in self._values():
            client[part.clients, : part.rows, : part.columns] = values
        return client

    @cached_property
    def _best(self) -> tuple[Array, Ints]:
        """The highest value of a client for each row of its edge, and the client's row: (C, J).

        Entries of padding are undefined.
        """
        shape = (len(self.tables.clients.cost), self.edge.shape[1])
        most, row = np.zeros(shape), np.zeros(shape, dtype=np.int64)
        for part, values in self._values():
            best = values.argmax(axis=1)
            row[part.clients, : part.columns] = best
            most[part.clients, : part.columns] = np.take_along_axis(values, best[:, None], 1)[:, 0]
        return most, row

    def response(self, edge_of: Ints) -> tuple[Ints, Ints]:
        """The client rows (C,) and edge rows (E,) that are worth most together."""
        edge = self.scores(edge_of).argmax(axis=1)
        return self._best[1][np.arange(len(edge_of)), edge[edge_of]], edge

    def scores(self, edge_of: Ints) -> Array:
        """The highest value of an edge and its clients with the edge's row j, (E, J)."""
        total: Array = self.edge.copy()
        np.add.at(total, edge_of, self._best[0])
        return total

    def bound(self, edge_of: Ints) -> float:
        """No choice of rows is worth more."""
        return self.constant + float(self.scores(edge_of).max(axis=1).sum())

    def reach(self, edge_of: Ints) -> Array:
        """The bound on all choices with a given row of one edge, (E, J)."""
        scores = self.scores(edge_of)
        best = scores.max(axis=1)
        # All edges but one have their best row.
        reach: Array = self.constant + float(best.sum()) - best[:, None] + scores
        return reach

    def client_reach(self, edge_of: Ints) -> Array:
        """The bound on all choices with a given row of one client, (C, R); -inf for padding."""
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
    """Price all rows of all nodes, less the rows' loading costs.

    The value is the mean over scenarios of load, each with its own prices.
    """
    edges = tables.edges
    left = np.maximum(1.0 - edges.setup, 0.0)  # share of the compute that setup times leave
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
    """All clients, grouped by the length of their tables, with at most BLOCK numbers a group."""
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
    """The highest value of offloading all of a client's task, net of prices: (T, C', J')."""
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
    """max Σ_t y A + (1 - y) v over local shares y with Σ_t y λ w <= β, (C', R', J).

    `part` says for which clients; `offload` (T, C', J) is v. If a row cannot need more compute than
    the client has, each task takes the better of A and v. Otherwise the compute is filled by the
    local gains A - v above 0.
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
    """The value of a share that no node serves, (T, C', R'): 0, or -inf if the mode forbids it."""
    allowed = (mode is Mode.DROP) | ((mode is Mode.NULL) & ~served)
    return np.where(allowed, 0.0, -np.inf)


def _better(local: Array, offload: Array) -> Array:
    """Σ_t max(local (T, C', R'), offload (T, C', J)): (C', R', J)."""
    total: Array = np.maximum(local[0, :, :, None], offload[0, :, None])
    one = np.empty_like(total)
    for a, b in zip(local[1:], offload[1:], strict=True):
        total += np.maximum(a[:, :, None], b[:, None], out=one)
    return total


def _blocks(count: int, size: int) -> Iterator[slice]:
    """Slices of 0..count of about BLOCK numbers each, where one index stands for `size` numbers."""
    step = max(1, BLOCK // size)
    return (slice(start, start + step) for start in range(0, count, step))


def fill(gain: Array, size: Array, limit: Array) -> Array:
    """The highest gain that fractional knapsacks hold.

    Gains are (T, ..), sizes (T, ..) and limits (..), which broadcast. By duality it is the least of
    α limit + Σ max(0, gain - α size) over α, which lies at α = 0 or at a gain per size.
    """
    density = gain / np.where(size > 0, size, 1.0)
    best: Array = gain.sum(axis=0)
    left = np.empty_like(gain)  # reused: allocating arrays costs more than the arithmetic
    for price in density:
        np.multiply(price, size, out=left)
        np.maximum(np.subtract(gain, left, out=left), 0.0, out=left)
        np.minimum(best, price * limit + left.sum(axis=0), out=best)
    return best

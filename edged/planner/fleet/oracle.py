"""What every row of every node is worth at given prices of the shared limits, all at once.

At prices of the uplinks, the edges' compute and the cloud link the fleet falls apart: each client
solves a fractional knapsack (its own compute) for each of its rows against each row of its edge.
The sum is a Lagrangian bound on F, and shows which rows no better plan can use. Knows no LP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.planner.fleet.assignment import Prices
from edged.planner.fleet.problem import Array, Bools, FleetProblem, Ints, Mode
from edged.planner.fleet.rows import Rows, Tables

BLOCK = 8_000_000  # numbers in the largest array at a time: 64 MB


@dataclass(frozen=True, slots=True, eq=False)
class Worth:
    """The Lagrangian at one set of prices: its value is `constant` + Σ_e `edge`[e, j_e] +
    Σ_c `client`[c, r_c, j_e(c)] for client rows r and edge rows j."""

    client: Array  # (C, R, J)
    edge: Array  # (E, J)
    constant: float

    def scores(self, edge_of: Ints) -> Array:
        """(E, J) the most that an edge and its clients make with the edge's row j."""
        total: Array = self.edge.copy()
        np.add.at(total, edge_of, self.client.max(axis=1))
        return total

    def bound(self, edge_of: Ints) -> float:
        """No choice of rows is worth more."""
        return self.constant + float(self.scores(edge_of).max(axis=1).sum())

    def reach(self, edge_of: Ints) -> tuple[Array, Array]:
        """(C, R) and (E, J) the bound on all choices with a given row of one node."""
        scores = self.scores(edge_of)
        best = scores.max(axis=1)
        others = self.constant + float(best.sum()) - best  # (E,) all but one edge
        reach = others[:, None] + scores
        rest = reach[edge_of] - self.client.max(axis=1)  # (C, J) without the client itself
        return (rest[:, None, :] + self.client).max(axis=2), reach


def worth(problem: FleetProblem, tables: Tables, prices: Prices) -> Worth:
    """Price all rows of all nodes. The rows' own loading costs are taken off."""
    p, edges = problem, tables.edges
    left = np.maximum(1.0 - edges.setup, 0.0)  # of the compute, after setup times
    compute = (prices.edge_compute * p.edge_gflops)[:, None] * left
    own = compute + (prices.uplink * p.uplink_mb_s)[:, None] - edges.cost
    profit = knapsacks(p, tables.clients, _offload_values(p, edges, prices))
    return Worth(profit - tables.clients.cost[:, :, None], own, prices.cloud * p.cloud_mb_s)


def _offload_values(p: FleetProblem, edges: Rows, prices: Prices) -> Array:
    """(T, C, J) the best a client makes of offloading all of a task, net of prices."""
    of = p.edge_of
    weight, load = p.weight.T[:, :, None], p.load.T[:, :, None]
    uplink = p.input_mb[:, None, None] * prices.uplink[of][None, :, None]
    compute = edges.work[:, of] * prices.edge_compute[of][None, :, None]
    edge = weight * edges.accuracy[:, of] - load * (uplink + compute)
    edge[~edges.served[:, of]] = -np.inf
    link = p.input_mb[:, None, None] * prices.cloud
    cloud = weight * p.cloud_accuracy[:, None, None] - load * (uplink + link)
    best: Array = np.maximum(edge, cloud)
    return best


def knapsacks(p: FleetProblem, rows: Rows, offload: Array) -> Array:
    """(C, R, J) max Σ_t y A + (1 - y) v over local shares y with Σ_t y λ w <= β.

    The local gains A - v above 0 fill the client's compute by gain per GFLOP. In the dual,
    min over α of α β + Σ max(0, gain - α λ w), the minimum lies at 0 or at a gain per GFLOP.
    """
    tasks, _, count = offload.shape
    width = max(1, BLOCK // (tasks * rows.z.shape[0] * rows.z.shape[1]))
    blocks = [
        _block(p, rows, offload[:, :, start : start + width]) for start in range(0, count, width)
    ]
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=2)


def _block(p: FleetProblem, rows: Rows, offload: Array) -> Array:
    size = p.load.T[:, :, None] * rows.work  # (T, C, R) GFLOP/s
    served = rows.served[:, :, :, None]
    gain = np.empty((*size.shape, offload.shape[2]))  # (T, C, R, J)
    rest = np.zeros((size.shape[1], 1, offload.shape[2]))
    for task, elsewhere in enumerate(offload):
        local = (p.weight[:, task, None] * rows.accuracy[task])[:, :, None]
        without = _without(p.mode, served[task], elsewhere[:, None, :])
        np.maximum(np.subtract(local, without, out=gain[task]), 0.0, out=gain[task])
        if p.mode is not Mode.DROP:
            gain[task] *= served[task]
        rest = rest + without
    filled = gain.sum(axis=0)
    # Only a client whose row could ask for more compute than there is has a knapsack to fill.
    client, row = np.nonzero(size.sum(axis=0) > p.client_gflops[:, None])
    filled[client, row] = fill(
        gain[:, client, row], size[:, client, row, None], p.client_gflops[client, None]
    )
    most: Array = filled + rest
    return most


def _without(mode: Mode, served: Bools, elsewhere: Array) -> Array:
    """What the share that is not served locally makes; dropping scores 0 where it is allowed."""
    if mode is Mode.STRICT:
        return elsewhere
    dropping = np.maximum(elsewhere, 0.0)
    return dropping if mode is Mode.DROP else np.where(served, elsewhere, dropping)


def fill(gain: Array, size: Array, limit: Array) -> Array:
    """The most that fractional knapsacks hold: gains (T, ..) and, broadcast against them, sizes
    (T, ..) and limits (..)."""
    density = gain / np.where(size > 0, size, 1.0)
    best: Array = gain.sum(axis=0)
    left = np.empty_like(gain)  # one buffer: fresh arrays cost more than the arithmetic
    for price in density:
        np.multiply(price, size, out=left)
        np.maximum(np.subtract(gain, left, out=left), 0.0, out=left)
        np.minimum(best, price * limit + left.sum(axis=0), out=best)
    return best

"""The offloading LP (17): the best flows for given models, as one HiGHS object that is kept.

Knows no method: it is asked about assignments and tells flows, value and prices. Between two
solves only costs, bounds and coefficients change, so each solve starts from the last basis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edged.planner.fleet.assignment import NONE, Assignment, Flows, Prices, value_of
from edged.planner.fleet.highs import INFINITY, Model, Solver
from edged.planner.fleet.problem import Array, FleetProblem, Ints, Mode

MOST = 1e7  # a load this many times a limit is not served from it: its share would be noise
PENALTY = 100.0  # accuracy lost by a query that must be served and is not; far above any price


@dataclass(frozen=True, slots=True, eq=False)
class Surrogate:
    """Coefficients of row (29), (E, T): ν (θ λ + ψ) stands in for ν 1{λ > 0}."""

    theta: Array
    psi: Array


class OffloadingLp:
    """The LP of one problem. With `cloud_price` the cloud link is unlimited and paid for instead.

    Where queries must be served (modes null and strict) the LP is elastic: what it cannot serve
    it reports in `Flows.unserved`, at PENALTY each, so that prices point the way.
    """

    def __init__(self, problem: FleetProblem, cloud_price: float | None = None) -> None:
        p = self.problem = problem
        self._scale = float(p.n_clients)  # keeps costs near 1, above HiGHS's tolerances
        self._cost = p.weight * self._scale
        self._cloud_price = cloud_price
        model = Model()
        shape = p.load.shape
        cloud_cost = self._cost * p.cloud_accuracy
        if cloud_price is not None:
            cloud_cost = cloud_cost - cloud_price * self._scale * p.load * p.input_mb
        self._client_limit = _or_one(p.client_gflops)
        self._edge_limit = _or_one(p.edge_gflops)
        self._uplink_limit = _or_one(p.uplink_mb_s)
        self._cloud_limit = p.cloud_mb_s or 1.0
        traffic = p.load * p.input_mb
        self._up = traffic / self._uplink_limit[p.edge_of, None]
        self._out = traffic / self._cloud_limit
        may_leave = (self._up <= MOST) & ((self._out <= MOST) | (cloud_price is not None))
        self._local = model.columns(p.load.size, upper=0.0).reshape(shape)
        self._edge = model.columns(p.load.size, upper=0.0).reshape(shape)
        self._cloud = model.columns(
            p.load.size, upper=may_leave.ravel(), cost=cloud_cost.ravel()
        ).reshape(shape)
        self._unserved = None
        if p.mode is not Mode.DROP:
            fine = -PENALTY * self._cost if p.mode is Mode.STRICT else 0.0
            self._unserved = model.columns(p.load.size, cost=np.ravel(fine)).reshape(shape)
        self._add_rows(model)
        # The columns are all boxed: dual simplex starts at once, presolve costs more than it saves.
        self._solver = Solver(model, presolve="off")
        self._z = Assignment(np.full(shape, NONE), np.full((p.n_edges, p.n_tasks), NONE))
        self._surrogate: Surrogate | None = None

    def _add_rows(self, model: Model) -> None:
        """Every row is divided by its limit. Entries of 1.0 hold a place for a model to set."""
        p = self.problem
        share = np.arange(p.load.size).reshape(p.load.shape)
        client, edge = np.arange(p.n_clients)[:, None], p.edge_of[:, None]
        flows = [(share, flow, 1.0) for flow in (self._local, self._edge, self._cloud)]
        if self._unserved is not None:
            flows.append((share, self._unserved, 1.0))
        at_least = -INFINITY if p.mode is Mode.DROP else 1.0
        model.rows("share", p.load.size, *flows, lower=at_least, upper=1.0)
        self._client_row = model.rows(
            "(9)", p.n_clients, (client, self._local, 1.0), upper=np.sign(p.client_gflops)
        )
        self._edge_row = model.rows(
            "(10)", p.n_edges, (edge, self._edge, 1.0), upper=np.sign(p.edge_gflops)
        )
        up = np.minimum(self._up, MOST)
        terms = [(edge, flow, up) for flow in (self._edge, self._cloud)]
        self._uplink_row = model.rows("(11)", p.n_edges, *terms, upper=np.sign(p.uplink_mb_s))
        self._cloud_row = model.rows(
            "(12)",
            1,
            (0, self._cloud, np.minimum(self._out, MOST)),
            upper=np.sign(p.cloud_mb_s) if self._cloud_price is None else INFINITY,
        )

    def solve(self, z: Assignment, surrogate: Surrogate | None = None) -> Flows:
        """The best flows under `z`. With `surrogate` row (29) takes the place of (28)."""
        self._set_clients(z.client)
        self._set_edges(z.edge, surrogate)
        self._z, self._surrogate = z, surrogate
        solution = self._solver.solve()
        values = np.clip(solution.values, 0.0, 1.0)
        local, edge, cloud = (values[columns] for columns in (self._local, self._edge, self._cloud))
        unserved = np.zeros_like(local)
        if self._unserved is not None:
            must = self.problem.mode is Mode.STRICT or z.client != NONE
            unserved = np.where(must, values[self._unserved], 0.0)
        duals = np.maximum(solution.duals / self._scale, 0.0)
        paid = float(duals[self._cloud_row[0]]) / self._cloud_limit
        return Flows(
            local,
            edge,
            cloud,
            unserved,
            value_of(self.problem, z, local, edge, cloud),
            Prices(
                uplink=duals[self._uplink_row] / self._uplink_limit,
                edge_compute=duals[self._edge_row] / self._edge_limit,
                cloud=paid if self._cloud_price is None else self._cloud_price,
            ),
        )

    def _set_clients(self, z: Ints) -> None:
        p = self.problem
        client, task = np.nonzero(z != self._z.client)
        if not len(client):
            return
        model = z[client, task]
        use = p.load[client, task] * p.work[model] / self._client_limit[client]
        served = (model != NONE) & (use <= MOST)
        columns = self._local[client, task]
        accuracy = np.where(served, p.client_accuracy[p.edge_of[client], model, task], 0.0)
        self._solver.set_costs(columns, self._cost[client, task] * accuracy)
        self._solver.set_column_bounds(columns, np.zeros(len(columns)), served.astype(float))
        self._solver.set_coefficients(
            self._client_row[client[served]], columns[served], use[served]
        )
        if self._unserved is not None and p.mode is Mode.NULL:
            fine = np.where(model != NONE, -PENALTY * self._cost[client, task], 0.0)
            self._solver.set_costs(self._unserved[client, task], fine)

    def _set_edges(self, z: Ints, surrogate: Surrogate | None) -> None:
        p = self.problem
        changed = (z != self._z.edge) | (surrogate is not self._surrogate)
        if not changed.any():
            return
        client, task = np.nonzero(changed[p.edge_of])
        edge = p.edge_of[client]
        model = z[edge, task]
        use = p.load[client, task] * p.work[model] / self._edge_limit[edge]
        served = (model != NONE) & (use <= MOST) & (self._up[client, task] <= MOST)
        columns = self._edge[client, task]
        accuracy = np.where(served, p.edge_accuracy[edge, model, task], 0.0)
        self._solver.set_costs(columns, self._cost[client, task] * accuracy)
        self._solver.set_column_bounds(columns, np.zeros(len(columns)), served.astype(float))
        if p.setup_s is not None:
            setup = np.where(z != NONE, p.setup_s[z], 0.0) / p.window_s
            if surrogate is not None:
                use = use + p.load[client, task] * (setup * surrogate.theta)[edge, task]
                setup = setup * surrogate.psi
            # An edge whose setup times alone fill the window serves nothing.
            left = np.maximum(1.0 - setup.sum(axis=1), 0.0)
            self._solver.set_row_bounds(self._edge_row, np.full(p.n_edges, -INFINITY), left)
        self._solver.set_coefficients(self._edge_row[edge[served]], columns[served], use[served])


def _or_one(limit: Array) -> Array:
    """Divisors that bring limits to 1; a limit of 0 stays 0."""
    return np.where(limit > 0, limit, 1.0)


def serve(lps: Sequence[OffloadingLp], z: Assignment) -> tuple[Assignment, list[Flows]]:
    """The flows of each LP under one assignment that all of them share.

    In mode null a client whose models cannot serve what stays local gives up the task that falls
    shortest, until nothing does: the assignment that comes back may serve less.
    """
    flows = [lp.solve(z) for lp in lps]
    if lps[0].problem.mode is not Mode.NULL:
        return z, flows
    while not all(flow.legal for flow in flows):
        short = np.max([flow.unserved for flow in flows], axis=0)
        worst = (short >= short.max(axis=1, keepdims=True)) & (short > 1e-7)
        z = Assignment(np.where(worst, NONE, z.client), z.edge)
        flows = [lp.solve(z) for lp in lps]
    return z, flows

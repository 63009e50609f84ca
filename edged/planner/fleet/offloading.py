"""The offloading LP (17): the best flows for given models, as one HiGHS object that is kept.

An assignment goes in; flows, value and prices come out. Only costs, bounds and coefficients change
between two solves, so each solve starts from the last basis. Knows no method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edged.planner.fleet.assignment import NONE, Assignment, Flows, Prices, accuracy_of, value_of
from edged.planner.fleet.highs import INFINITY, HighsSolver, LinearProgram
from edged.planner.fleet.problem import Array, FleetProblem, Mode

MAX_OVERLOAD = 1e7  # a load above this many times a limit is not served: its share would be noise
# The columns all have two bounds, so dual simplex starts at once and presolve costs more than it
# saves. Rows and costs are scaled already. Perturbed costs only add a second phase. HiGHS's own
# defaults for these three take half as long again. Optima tie, as clients with the same model gain
# the same per MB: these options decide which one is found, and so where an alternating method ends.
SOLVER: dict[str, float | int | str] = {
    "presolve": "off",
    "simplex_scale_strategy": 0,
    "dual_simplex_cost_perturbation_multiplier": 0.0,
}
PENALTY = 100.0  # accuracy lost by a query that must be served and is not; above any price


@dataclass(frozen=True, slots=True, eq=False)
class Surrogate:
    """The coefficients θ and ψ of row (29), (E, T): ν (θ λ + ψ) replaces ν 1{λ > 0}."""

    theta: Array
    psi: Array


@dataclass(frozen=True, slots=True, eq=False)
class _Numbers:
    """The numbers of the LP that depend on the assignment.

    The columns are flows of each (client, task): local, edge, cloud and, where queries must be
    served, unserved.
    """

    costs: Array  # (3 or 4, C, T)
    upper: Array  # (3 or 4, C, T)
    use: Array  # (2, C, T) coefficients of local flows in (9) and of edge flows in (10)
    left: Array  # (E,) share of the edge's compute that setup times leave


class OffloadingLp:
    """The LP of one problem. A `cloud_price` replaces the limit of the cloud link.

    The LP is elastic in modes null and strict, where queries must be served: those that it cannot
    serve cost PENALTY each and are reported in `Flows.unserved`, so prices show what is scarce.
    """

    def __init__(self, problem: FleetProblem, cloud_price: float | None = None) -> None:
        p = self.problem = problem
        self._scale = float(p.n_clients)  # keeps costs near 1, above HiGHS's tolerances
        self._cost = p.weight * self._scale
        self._cloud_price = cloud_price
        self._cloud_cost = self._cost * p.cloud_accuracy
        if cloud_price is not None:
            self._cloud_cost = self._cloud_cost - cloud_price * self._scale * p.load * p.input_mb
        self._client_limit = _or_one(p.client_gflops)
        self._edge_limit = _or_one(p.edge_gflops)
        self._uplink_limit = _or_one(p.uplink_mb_s)
        self._cloud_limit = p.cloud_mb_s or 1.0
        traffic = p.load * p.input_mb
        self._up = traffic / self._uplink_limit[p.edge_of, None]
        self._out = traffic / self._cloud_limit
        # The order is that in which _model adds the rows, after those of the shares.
        size = p.load.size
        self._client_row, self._edge_row, self._uplink_row, (self._cloud_row,) = np.split(
            np.arange(size, size + p.n_clients + 2 * p.n_edges + 1),
            np.cumsum([p.n_clients, p.n_edges, p.n_edges]),
        )
        self._held: tuple[HighsSolver, _Numbers] | None = None

    def solve(self, z: Assignment, surrogate: Surrogate | None = None) -> Flows:
        """The best flows under `z`. If there is a `surrogate`, row (29) replaces (28)."""
        p, wanted = self.problem, self._numbers(z, surrogate)
        if self._held is None:
            self._held = (HighsSolver(self._model(wanted), **SOLVER), wanted)
        else:
            self._held = (self._held[0], self._changed(*self._held, wanted))
        solution = self._held[0].solve()
        flows = np.clip(solution.values, 0.0, 1.0).reshape(-1, *p.load.shape)
        unserved = np.zeros(p.load.shape)
        if p.mode is not Mode.DROP:
            unserved = np.where((p.mode is Mode.STRICT) | (z.client != NONE), flows[3], 0.0)
        duals = np.maximum(solution.duals / self._scale, 0.0)
        paid = float(duals[self._cloud_row]) / self._cloud_limit
        return Flows(
            flows[0],
            flows[1],
            flows[2],
            unserved,
            value_of(p, z, flows[0], flows[1], flows[2]),
            Prices(
                uplink=duals[self._uplink_row] / self._uplink_limit,
                edge_compute=duals[self._edge_row] / self._edge_limit,
                cloud=paid if self._cloud_price is None else self._cloud_price,
            ),
        )

    def _numbers(self, z: Assignment, surrogate: Surrogate | None) -> _Numbers:
        p = self.problem
        edge_z = z.edge[p.edge_of]
        local_use = p.load * p.work[z.client] / self._client_limit[:, None]
        edge_use = p.load * p.work[edge_z] / self._edge_limit[p.edge_of, None]
        local = (z.client != NONE) & (local_use <= MAX_OVERLOAD)
        edge = (edge_z != NONE) & (edge_use <= MAX_OVERLOAD) & (self._up <= MAX_OVERLOAD)
        cloud = (self._up <= MAX_OVERLOAD) & (
            (self._out <= MAX_OVERLOAD) | (self._cloud_price is not None)
        )
        at_client, at_edge = accuracy_of(p, z)
        costs = [self._cost * at_client * local, self._cost * at_edge * edge, self._cloud_cost]
        upper = [local, edge, cloud]
        if p.mode is not Mode.DROP:
            must = (p.mode is Mode.STRICT) | (z.client != NONE)
            costs.append(np.where(must, -PENALTY * self._cost, 0.0))
            upper.append(np.ones_like(local))
        setup = np.zeros(z.edge.shape)
        if p.setup_s is not None:
            setup = np.where(z.edge != NONE, p.setup_s[z.edge], 0.0) / p.window_s
        if surrogate is not None:
            edge_use = edge_use + p.load * (setup * surrogate.theta)[p.edge_of]
            setup = setup * surrogate.psi
        # An edge serves nothing if its setup times alone fill the window.
        left = np.maximum(1.0 - setup.sum(axis=1), 0.0) * np.sign(p.edge_gflops)
        use = np.minimum(np.stack([local_use, edge_use]), MAX_OVERLOAD)
        return _Numbers(np.stack(costs), np.stack(upper).astype(float), use, left)

    def _model(self, numbers: _Numbers) -> LinearProgram:
        """Every row is divided by its limit."""
        p = self.problem
        model = LinearProgram()
        columns = model.columns(
            numbers.costs.size, upper=numbers.upper.ravel(), cost=numbers.costs.ravel()
        ).reshape(numbers.costs.shape)
        local, edge, cloud = columns[:3]
        share = np.arange(p.load.size).reshape(p.load.shape)
        client, edge_of = np.arange(p.n_clients)[:, None], p.edge_of[:, None]
        at_least = -INFINITY if p.mode is Mode.DROP else 1.0
        model.rows("share", p.load.size, (share, columns, 1.0), lower=at_least, upper=1.0)
        compute = np.sign(p.client_gflops)
        model.rows("(9)", p.n_clients, (client, local, numbers.use[0]), upper=compute)
        model.rows("(10)", p.n_edges, (edge_of, edge, numbers.use[1]), upper=numbers.left)
        up = np.minimum(self._up, MAX_OVERLOAD)
        model.rows("(11)", p.n_edges, (edge_of, columns[1:3], up), upper=np.sign(p.uplink_mb_s))
        link = np.sign(p.cloud_mb_s) if self._cloud_price is None else INFINITY
        model.rows("(12)", 1, (0, cloud, np.minimum(self._out, MAX_OVERLOAD)), upper=link)
        return model

    def _changed(self, solver: HighsSolver, now: _Numbers, wanted: _Numbers) -> _Numbers:
        """Tell the solver what differs between `now` and `wanted`.

        The coefficient of a flow that is not served stays as it was: the solver sets coefficients
        one by one, which takes time.
        """
        columns = np.flatnonzero(wanted.costs != now.costs)
        solver.set_costs(columns, wanted.costs.ravel()[columns])
        columns = np.flatnonzero(wanted.upper != now.upper)
        solver.set_column_bounds(columns, np.zeros(len(columns)), wanted.upper.ravel()[columns])
        edges = np.flatnonzero(wanted.left != now.left)
        solver.set_row_bounds(
            self._edge_row[edges], np.full(len(edges), -INFINITY), wanted.left[edges]
        )
        use = np.where(wanted.upper[:2] > 0, wanted.use, now.use)
        kind, client, task = np.nonzero(use != now.use)
        rows = np.where(
            kind == 0, self._client_row[client], self._edge_row[self.problem.edge_of[client]]
        )
        columns = np.ravel_multi_index((kind, client, task), use.shape)
        solver.set_coefficients(rows, columns, use[kind, client, task])
        return replace(wanted, use=use)


def _or_one(limit: Array) -> Array:
    """Divisors that scale limits to 1; a limit of 0 stays 0."""
    return np.where(limit > 0, limit, 1.0)


def serve(lps: Sequence[OffloadingLp], z: Assignment) -> tuple[Assignment, list[Flows]]:
    """The flows of each LP under one assignment that all of them share.

    Mode null: a client whose models cannot serve all that stays local gives up the task with the
    largest unserved share, until everything is served. The returned assignment may serve less.
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

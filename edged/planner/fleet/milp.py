"""The exact method: P1 (13) in flow form as one MILP, and why an instance is infeasible.

Flow form: local flows l_cmt <= z_cmt <= x_cm and served parts g_emt <= z_emt of each edge's load
take the place of the products z·o, so all is linear. If all models have equal work, one model per
task is without loss of generality, and the model has no z. Every row is divided by its limit.
Knows no other method.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from edged.errors import DeadlineExceeded
from edged.planner.fleet.assignment import NONE, Assignment, edge_sums
from edged.planner.fleet.highs import HighsSolver, LinearProgram, Solution, SolverStatus
from edged.planner.fleet.offloading import MAX_OVERLOAD, OffloadingLp
from edged.planner.fleet.outcome import infeasible, plan_of
from edged.planner.fleet.plan import FleetPlan
from edged.planner.fleet.problem import Array, FleetProblem, Ints, Mode

RELATIVE_GAP = 1e-6  # relative to the optimum; two objectives agree if they differ by at most 2e-6


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The columns of the variables.

    Local flows run over the (client, model, task) triples that are supported, have load, and whose
    model fits into the memory; served parts over such (edge, model, task) triples.
    """

    x_client: Ints  # (C, M)
    x_edge: Ints  # (E, M)
    local_of: tuple[Ints, Ints, Ints]
    local: Ints
    z_client: Ints | None  # one for each local flow; None: equal work makes it redundant
    served_of: tuple[Ints, Ints, Ints]
    served: Ints
    z_edge: Ints | None
    edge: Ints  # (C, T) h
    cloud: Ints  # (C, T) q
    dropped: Ints | None  # (C, T) r; None in mode strict


def solve_milp(problem: FleetProblem, time_limit_s: float | None = None) -> FleetPlan:
    """The optimal plan, or the best one found within the time limit, with HiGHS's bound.

    Raises DeadlineExceeded when no plan was found within the limit.
    """
    columns, solution = _run(problem, time_limit_s=time_limit_s)
    if solution.status is SolverStatus.INFEASIBLE:
        return infeasible("milp", culprits(problem))
    if not solution.found:
        raise DeadlineExceeded(f"milp found no plan in {time_limit_s} s; allow more or take price")
    z = _assignment(problem, columns, solution.values)
    # The LP under the optimal z cleans the flows of the MILP's tolerances.
    flows = OffloadingLp(problem).solve(z)
    return plan_of(problem, "milp", z, flows, bound=solution.bound / problem.n_clients)


def feasible_assignment(problem: FleetProblem) -> Assignment | None:
    """Any assignment under which every query can be served as the mode demands."""
    columns, solution = _run(problem, aim=False)
    if solution.status is SolverStatus.INFEASIBLE:
        return None
    return _assignment(problem, columns, solution.values)


def culprits(problem: FleetProblem) -> tuple[str, ...]:
    """The fewest families of constraints without which an infeasible instance has a plan.

    Every single family that suffices is named; if none does, the first pair that does, and so on.
    """
    limits = [name for name in FAMILIES if name in _WHAT and _applies(problem, name)]
    for size in range(1, len(limits) + 1):
        found = [
            left_out
            for left_out in combinations(limits, size)
            if _run(problem, without=left_out, aim=False)[1].status is not SolverStatus.INFEASIBLE
        ]
        if found and size == 1:
            return tuple(f"{name} {_WHAT[name]}" for (name,) in found)
        if found:
            return (" with ".join(f"{name} {_WHAT[name]}" for name in found[0]),)
    return ("(1) no model supports a task that has to be served",)


_WHAT = {
    "(8a)": "memory of clients",
    "(8b)": "memory of edges",
    "(9)": "compute of clients",
    "(10)": "compute of edges",
    "(28)": "batching window of edges",
    "(11)": "uplinks to edges",
    "(12)": "link to the cloud",
}


def _run(
    problem: FleetProblem,
    *,
    without: Collection[str] = (),
    aim: bool = True,
    time_limit_s: float | None = None,
) -> tuple[Columns, Solution]:
    """Build and solve. `without` omits families of rows; `aim` False accepts any feasible point."""
    model = LinearProgram()
    columns = _columns(problem, model, aim, without)
    for name, family in FAMILIES.items():
        if name not in without and _applies(problem, name):
            family(problem, columns, model)
    limit = {} if time_limit_s is None else {"time_limit": time_limit_s}
    solution = HighsSolver(model, mip_rel_gap=RELATIVE_GAP, **limit).solve()
    return columns, solution


def _applies(problem: FleetProblem, name: str) -> bool:
    """Whether the problem has this family: batching edges have row (28) in place of (10)."""
    return name != ("(10)" if problem.batching else "(28)")


def _columns(p: FleetProblem, model: LinearProgram, aim: bool, without: Collection[str]) -> Columns:
    scale = p.n_clients * float(aim)  # keeps costs near 1; 0 accepts any feasible point
    weight = p.weight * scale
    loaded = p.load > 0
    rate = edge_sums(p, p.load)
    supported = (p.client_accuracy > 0)[p.edge_of] & loaded[:, None, :]
    at_edge = (p.edge_accuracy > 0) & (rate > 0)[:, None, :]
    if "(8a)" not in without:
        supported &= (p.client_model_mb <= p.client_mb[:, None])[:, :, None]
    if "(8b)" not in without:
        at_edge &= (p.edge_model_mb <= p.edge_mb[:, None])[:, :, None]
    c, m, t = np.nonzero(supported)
    e, n, s = np.nonzero(at_edge)
    value = p.edge_accuracy[e, n, s] * rate[e, s] * (scale / p.total_load)
    chosen = bool(np.ptp(p.work))

    def shares(cost: Array | float) -> Ints:
        at_most = loaded.ravel().astype(float)
        return model.columns(p.load.size, upper=at_most, cost=cost).reshape(p.load.shape)

    return Columns(
        x_client=model.columns(p.n_clients * p.n_models, integer=True).reshape(p.n_clients, -1),
        x_edge=model.columns(p.n_edges * p.n_models, integer=True).reshape(p.n_edges, -1),
        local_of=(c, m, t),
        local=model.columns(len(c), cost=weight[c, t] * p.client_accuracy[p.edge_of[c], m, t]),
        z_client=model.columns(len(c), integer=True) if chosen or p.mode is Mode.NULL else None,
        served_of=(e, n, s),
        served=model.columns(len(e), cost=value),
        z_edge=model.columns(len(e), integer=True) if chosen or p.batching else None,
        edge=shares(0.0),
        cloud=shares((weight * p.cloud_accuracy).ravel()),
        dropped=None if p.mode is Mode.STRICT else shares(0.0),
    )


def eq_share(p: FleetProblem, v: Columns, model: LinearProgram) -> None:
    """Σ_m l_cmt + h_ct + q_ct (+ r_ct) = 1 for each loaded (c, t)."""
    pair = _numbers(p.load.shape)
    c, _, t = v.local_of
    terms = [(pair[c, t], v.local, 1.0), (pair, v.edge, 1.0), (pair, v.cloud, 1.0)]
    if v.dropped is not None:
        terms.append((pair, v.dropped, 1.0))
    demand = (p.load > 0).ravel().astype(float)
    model.rows("share", p.load.size, *terms, lower=demand, upper=demand)


def eq_1a(p: FleetProblem, v: Columns, model: LinearProgram) -> None:
    """l_cmt <= z_cmt <= x_cm and Σ_m z_cmt <= 1; in mode null Σ_m z_cmt + r_ct <= 1."""
    c, m, t = v.local_of
    each = np.arange(len(c))
    onloaded = v.x_client[c, m]
    if v.z_client is None:
        model.rows("(1a)", len(c), (each, v.local, 1.0), (each, onloaded, -1.0), upper=0.0)
        return
    model.rows("(1a)", len(c), (each, v.local, 1.0), (each, v.z_client, -1.0), upper=0.0)
    model.rows("(1a)", len(c), (each, v.z_client, 1.0), (each, onloaded, -1.0), upper=0.0)
    pair = _numbers(p.load.shape)
    terms: list[tuple[Any, Any, Any]] = [(pair[c, t], v.z_client, 1.0)]
    if p.mode is Mode.NULL:
        terms.append((pair, v.dropped, 1.0))
    model.rows("(1a)", p.load.size, *terms, upper=1.0)


def eq_1b(p: FleetProblem, v: Columns, model: LinearProgram) -> None:
    """g_emt <= z_emt, z_emt <= x_em, Σ_m z_emt <= 1, Λ_et Σ_m g_emt = Σ_c λ_ct h_ct.

    g is at most what the uplink carries of the load Λ that the clients have.
    """
    e, m, t = v.served_of
    each = np.arange(len(e))
    rate = edge_sums(p, p.load)
    traffic = rate * p.input_mb
    most = np.minimum(_part(p.uplink_mb_s[:, None], traffic), 1.0)[e, t]
    shown = v.x_edge[e, m] if v.z_edge is None else v.z_edge
    model.rows("(1b)", len(e), (each, v.served, 1.0), (each, shown, -most), upper=0.0)
    pair = _numbers((p.n_edges, p.n_tasks))
    if v.z_edge is not None:
        model.rows("(1b)", len(e), (each, v.z_edge, 1.0), (each, v.x_edge[e, m], -1.0), upper=0.0)
        model.rows("(1b)", pair.size, (pair[e, t], v.z_edge, 1.0), upper=1.0)
    arriving = (pair[p.edge_of], v.edge, -_part(p.load, rate[p.edge_of]))
    model.rows("flow", pair.size, (pair[e, t], v.served, 1.0), arriving, lower=0.0, upper=0.0)


def _part(amount: Array, of: Array) -> Array:
    """`amount` / `of`, and 1 where `of` is 0."""
    amount, of = np.broadcast_arrays(amount, of)
    return np.divide(amount, of, out=np.ones(of.shape), where=of > 0)


def eq_8a(p: FleetProblem, v: Columns, model: LinearProgram) -> None:
    """Σ_m s_m x_cm <= μ_c."""
    client = np.arange(p.n_clients)[:, None]
    model.rows("(8a)", p.n_clients, (client, v.x_client, p.client_model_mb), upper=p.client_mb)


def eq_8b(p: FleetProblem, v: Columns, model: LinearProgram) -> None:
    """Σ_m s_m x_em <= μ_e."""
    edge = np.arange(p.n_edges)[:, None]
    model.rows("(8b)", p.n_edges, (edge, v.x_edge, p.edge_model_mb), upper=p.edge_mb)


def eq_9(p: FleetProblem, v: Columns, model: LinearProgram) -> None:
    """Σ_mt λ_ct w_m l_cmt <= β_c."""
    c, m, t = v.local_of
    _limited(model, "(9)", p.client_gflops, (c, v.local, p.load[c, t] * p.work[m]))


def eq_10(p: FleetProblem, v: Columns, model: LinearProgram) -> None:
    """Σ_mt w_m Λ_et g_emt <= β_e."""
    _limited(model, "(10)", p.edge_gflops, _edge_compute(p, v))


def eq_28(p: FleetProblem, v: Columns, model: LinearProgram) -> None:
    """Σ_mt (ν_m z_emt + w_m / β_e T_b Λ_et g_emt) <= T_b: z is 1 only where queries come."""
    assert p.setup_s is not None  # _applies saw to it
    e, m, _ = v.served_of
    setup = (e, v.z_edge, p.setup_s[m] / p.window_s * p.edge_gflops[e])
    _limited(model, "(28)", p.edge_gflops, setup, _edge_compute(p, v))


def _edge_compute(p: FleetProblem, v: Columns) -> tuple[Ints, Ints, Array]:
    e, m, t = v.served_of
    return e, v.served, p.work[m] * edge_sums(p, p.load)[e, t]


def eq_11(p: FleetProblem, v: Columns, model: LinearProgram) -> None:
    """Σ_ct λ_ct d_t (h_ct + q_ct) <= κ_e."""
    edge, traffic = p.edge_of[:, None], p.load * p.input_mb
    _limited(model, "(11)", p.uplink_mb_s, (edge, v.edge, traffic), (edge, v.cloud, traffic))


def eq_12(p: FleetProblem, v: Columns, model: LinearProgram) -> None:
    """Σ_ect λ_ct d_t q_ct <= κ_s."""
    traffic = p.load * p.input_mb
    _limited(model, "(12)", np.array([p.cloud_mb_s]), (np.zeros_like(v.cloud), v.cloud, traffic))


def _limited(
    model: LinearProgram, name: str, limit: Array, *terms: tuple[Ints, Ints | None, Array]
) -> None:
    """Add Σ terms <= limit, divided by the limit.

    A coefficient is capped at MAX_OVERLOAD limits: what needs more alone is in no plan anyway.
    """
    unit = np.where(limit > 0, limit, 1.0)
    scaled = [
        (row, column, np.minimum(use / unit[row], MAX_OVERLOAD)) for row, column, use in terms
    ]
    model.rows(name, len(limit), *scaled, upper=np.sign(limit))


FAMILIES: dict[str, Callable[[FleetProblem, Columns, LinearProgram], None]] = {
    "share": eq_share,
    "(1a)": eq_1a,
    "(1b)": eq_1b,
    "(8a)": eq_8a,
    "(8b)": eq_8b,
    "(9)": eq_9,
    "(10)": eq_10,
    "(28)": eq_28,
    "(11)": eq_11,
    "(12)": eq_12,
}


def _assignment(p: FleetProblem, v: Columns, values: Array) -> Assignment:
    """z as arrays. If the model has no z columns, z is the best onloaded model for each task."""
    c, m, t = v.local_of
    shown = values[v.local] > 1e-9 if v.z_client is None else values[v.z_client] > 0.5
    rank = p.client_accuracy[p.edge_of[c], m, t] * shown * (values[v.x_client[c, m]] > 0.5)
    client = _best(rank, (c, t), m, p.load.shape)
    e, m, t = v.served_of
    shown = values[v.served] > 1e-9 if v.z_edge is None else values[v.z_edge] > 0.5
    rank = p.edge_accuracy[e, m, t] * shown * (values[v.x_edge[e, m]] > 0.5)
    return Assignment(client, _best(rank, (e, t), m, (p.n_edges, p.n_tasks)))


def _best(rank: Array, pair: tuple[Ints, Ints], model: Ints, shape: tuple[int, ...]) -> Ints:
    """The model of highest rank above 0 for each pair, else NONE."""
    z = np.full(shape, NONE)
    for i in np.argsort(rank, kind="stable"):
        if rank[i] > 0:
            z[pair[0][i], pair[1][i]] = model[i]
    return z


def _numbers(shape: tuple[int, ...]) -> Ints:
    return np.arange(int(np.prod(shape))).reshape(shape)

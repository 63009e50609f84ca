"""J3O's motivating example (Fig. 1 and 2): one edge, five clients, two tasks, three models.

The paper gives the accuracies (m(B) as printed is m(A) again; we read 10 % on A and 90 % on B),
one model a node and a batching window. Everything else here is a [guess].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edged.planner.fleet.methods import solve
from edged.planner.fleet.plan import FleetPlan
from edged.planner.fleet.problem import FleetProblem

CLIENTS = 5
MODELS = ("m(A)", "m(B)", "m(AB)")
ACCURACY = np.array([[0.9, 0.1], [0.1, 0.9], [0.6, 0.6]])
CLIENT_FACTOR = 0.9  # "compressed and achieve 90 % of their original accuracy"
LOAD = 100.0  # queries/s of all clients together [guess]
WINDOW_S = 1.0  # [guess]
SETUP_S = 0.1  # setup time of a batch, the same for every model [guess]
CLIENT_GFLOPS = 12.0  # a query takes 1 GFLOP, so a client serves 12 of its 20 queries/s [guess]
EDGE_GFLOPS = 90.0  # [guess]
UPLINK = 0.6  # share of the traffic that the uplink carries [guess]
HOT_SHARE = 0.7  # share of task B's queries that one client has in the lower half of Fig. 1
PROPORTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SETUP_COSTS_S = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)

Curves = dict[str, list[float]]


def instance(
    rng: np.random.Generator, proportion: float, *, hot: bool, setup_a_s: float = SETUP_S
) -> FleetProblem:
    """The instance in which task A is `proportion` of the load. Clients have Dirichlet loads."""
    share = rng.dirichlet(np.full(CLIENTS, 20.0))
    of_b = share.copy()
    if hot:
        of_b[1:] *= (1.0 - HOT_SHARE) / of_b[1:].sum()
        of_b[0] = HOT_SHARE
    load = LOAD * np.stack([proportion * share, (1.0 - proportion) * of_b], axis=1)
    return FleetProblem(
        tasks=("A", "B"),
        models=MODELS,
        work=np.ones(3),
        client_model_mb=np.ones(3),
        edge_model_mb=np.ones(3),
        client_accuracy=CLIENT_FACTOR * ACCURACY[None],
        edge_accuracy=ACCURACY[None],
        cloud_accuracy=np.ones(2),
        edge_of=np.zeros(CLIENTS, dtype=np.int64),
        client_mb=np.ones(CLIENTS),
        client_gflops=np.full(CLIENTS, CLIENT_GFLOPS),
        load=load,
        edge_mb=np.ones(1),
        edge_gflops=np.array([EDGE_GFLOPS]),
        uplink_mb_s=np.array([UPLINK * LOAD]),
        cloud_mb_s=0.0,  # two tiers
        input_mb=np.ones(2),
        setup_s=np.array([setup_a_s, SETUP_S, SETUP_S]),
        window_s=WINDOW_S,
    )


def shares(seeds: int) -> dict[str, Curves]:
    """Fig. 1: accuracy, onloading and batch sizes along task A's proportion."""
    return {
        "homogeneous": _along(seeds, PROPORTIONS, lambda rng, p: instance(rng, p, hot=False)),
        "heterogeneous": _along(seeds, PROPORTIONS, lambda rng, p: instance(rng, p, hot=True)),
    }


def setup_costs(seeds: int) -> dict[str, Curves]:
    """Fig. 2: the curves of Fig. 1 along the setup time of m(A)."""
    return {
        f"p_A = {proportion}": _along(
            seeds,
            SETUP_COSTS_S,
            lambda rng, cost, at=proportion: instance(rng, at, hot=False, setup_a_s=cost),
        )
        for proportion in (0.6, 0.8)
    }


def _along(seeds: int, values: tuple[float, ...], make: Any) -> Curves:
    curves: Curves = {}
    for value in values:
        rows = []
        for seed in range(seeds):
            problem = make(np.random.default_rng(seed), value)
            rows.append(_observe(problem))
        for name in rows[0]:
            curves.setdefault(name, []).append(float(np.mean([row[name] for row in rows])))
    return curves


def _observe(problem: FleetProblem) -> dict[str, float]:
    """The figures of the optimal plan that are drawn, and BAJ3O's accuracy."""
    exact, literal = solve(problem, "milp"), solve(problem, "baj3o")
    price = solve(problem, "price")
    assert exact.obj is not None
    assert literal.obj is not None
    assert price.obj is not None
    seen = {"milp": exact.obj, "price": price.obj, "baj3o": literal.obj}
    for number, model in enumerate(MODELS):
        seen[f"edge {model}"] = float(number in exact.x_e[0])
        seen[f"clients {model}"] = float(np.mean([number in held for held in exact.x_c]))
    batch = _batches(problem, exact)
    return seen | {"batch A": batch[0], "batch B": batch[1]}


def _batches(problem: FleetProblem, plan: FleetPlan) -> list[float]:
    """The queries of each task in a window at the edge."""
    at_edge = np.array(plan.o) - np.array(plan.oce)
    sizes: list[float] = ((problem.load * at_edge).sum(axis=0) * problem.window_s).tolist()
    return sizes

"""Random tiny instances, and a brute-force solver: every model, every z, one LP each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highspy
import numpy as np

from edged.planner.fleet.generate import FleetScenario, generate
from edged.planner.fleet.problem import FleetProblem, Mode, read
from edged.planner.fleet.standley import losses

DATA = Path(__file__).parent / "data"
LOSSES = losses()


def example(name: str) -> tuple[FleetProblem, dict[str, Any]]:
    """An instance of the format's examples, and the values expected of it."""
    data = (DATA / f"{name}.json").read_bytes()
    return read(data), json.loads(data)["expected"]


def family(name: str, seed: int, **scenario: Any) -> FleetProblem:
    return generate(name, np.random.default_rng(seed), LOSSES, FleetScenario(**scenario))


def tiny(
    seed: int, mode: Mode, *, equal_work: bool, batching: bool, edges: int = 1
) -> FleetProblem:
    """Two clients, two tasks, three models; nodes hold one or two; limits bind now and then."""
    rng = np.random.default_rng([seed, list(Mode).index(mode), equal_work, batching, edges])
    supports = np.array([[1, 0], [0, 1], [1, 1]])
    accuracy = supports * rng.uniform(0.3, 0.9, size=(edges, 3, 2))
    work = np.full(3, 10.0) if equal_work else rng.uniform(5.0, 20.0, size=3)
    load = rng.uniform(0.5, 10.0, size=(2, 2)) * (rng.random((2, 2)) > 0.1)
    load[0, 0] += 0.5  # keeps the load above 0
    input_mb = rng.uniform(0.2, 1.0, size=2)
    traffic = (load @ input_mb).sum()
    return FleetProblem(
        tasks=("a", "b"),
        models=("0", "1", "01"),
        work=work,
        client_model_mb=np.full(3, 20.0),
        edge_model_mb=np.full(3, 80.0) if equal_work else rng.uniform(60.0, 100.0, size=3),
        client_accuracy=accuracy * rng.uniform(0.8, 1.0),
        edge_accuracy=accuracy,
        cloud_accuracy=np.array([1.0, 0.95]),
        edge_of=np.arange(2) % edges,
        client_mb=rng.choice([10.0, 25.0, 45.0], size=2, p=[0.1, 0.7, 0.2]),
        client_gflops=rng.uniform(10.0, 150.0, size=2),
        load=load,
        edge_mb=rng.choice([90.0, 170.0] if edges == 1 else [90.0], size=edges),
        edge_gflops=rng.uniform(30.0, 200.0, size=edges),
        uplink_mb_s=rng.uniform(0.2, 0.9, size=edges) * traffic / edges,
        cloud_mb_s=float(rng.uniform(0.1, 0.6) * traffic),
        input_mb=input_mb,
        mode=mode,
        setup_s=rng.uniform(0.05, 0.3, size=3) if batching else None,
        window_s=0.5 if batching else 1.0,
    )


def brute_force(p: FleetProblem) -> float | None:
    """The optimum of P1, or None if nothing is feasible. Uses no theorem and no planner code."""
    clients, edges, tasks = len(p.edge_of), len(p.edge_mb), len(p.input_mb)
    choices = [
        list(_assignments(p.client_accuracy[p.edge_of[c]], p.client_model_mb, p.client_mb[c]))
        for c in range(clients)
    ] + [
        list(_assignments(p.edge_accuracy[e], p.edge_model_mb, p.edge_mb[e])) for e in range(edges)
    ]
    best: float | None = None
    for z in itertools.product(*choices):
        value = _lp(p, z[:clients], z[clients:], tasks)
        if value is not None and (best is None or value > best):
            best = value
    return best


def _assignments(accuracy: Any, size: Any, memory: float) -> Iterator[tuple[int | None, ...]]:
    """Every z of a node over every set of models that fits."""
    models, tasks = accuracy.shape
    for z in itertools.product([None, *range(models)], repeat=tasks):
        used = {m for m in z if m is not None}
        if sum(size[m] for m in used) <= memory and all(
            m is None or accuracy[m, t] > 0 for t, m in enumerate(z)
        ):
            yield z


def _lp(p: FleetProblem, zc: Any, ze: Any, tasks: int) -> float | None:
    """The best flows (l, h, q, r) of each (client, task) under one z."""
    pairs = [(c, t) for c in range(len(zc)) for t in range(tasks) if p.load[c, t] > 0]
    n = len(pairs)
    cost, upper = np.zeros(4 * n), np.ones(4 * n)
    rows = {("client", c): np.zeros(4 * n) for c in range(len(zc))}
    rows |= {(kind, e): np.zeros(4 * n) for kind in ("edge", "up") for e in range(len(ze))}
    rows["cloud", 0] = np.zeros(4 * n)
    total = p.load.sum()
    for i, (c, t) in enumerate(pairs):
        e, lam = p.edge_of[c], p.load[c, t]
        local, h, q, r = i, n + i, 2 * n + i, 3 * n + i
        cost[q] = lam / total * p.cloud_accuracy[t]
        upper[r] = float(p.mode is Mode.DROP or (p.mode is Mode.NULL and zc[c][t] is None))
        upper[local], upper[h] = float(zc[c][t] is not None), float(ze[e][t] is not None)
        if zc[c][t] is not None:
            cost[local] = lam / total * p.client_accuracy[e, zc[c][t], t]
            rows["client", c][local] = lam * p.work[zc[c][t]]
        if ze[e][t] is not None:
            cost[h] = lam / total * p.edge_accuracy[e, ze[e][t], t]
            rows["edge", e][h] = lam * p.work[ze[e][t]]
        rows["up", e][[h, q]] = lam * p.input_mb[t]
        rows["cloud", 0][q] = lam * p.input_mb[t]
    limits = {("client", c): p.client_gflops[c] for c in range(len(zc))}
    limits |= {("up", e): p.uplink_mb_s[e] for e in range(len(ze))} | {("cloud", 0): p.cloud_mb_s}
    for e, z in enumerate(ze):
        window = 1.0
        if p.setup_s is not None:
            window -= sum(p.setup_s[m] for m in z if m is not None) / p.window_s
        if window < 0:
            return None  # (28): the batches' setup alone takes longer than the window
        limits["edge", e] = p.edge_gflops[e] * window
    share = np.tile(np.eye(n), 4)
    matrix = np.stack([*rows.values(), *share])
    lower = np.array([-np.inf] * len(rows) + [1.0] * n)
    at_most = np.array([limits[key] for key in rows] + [1.0] * n)
    return _maximum(cost, upper, matrix, lower, at_most)


def _maximum(cost: Any, upper: Any, matrix: Any, lower: Any, at_most: Any) -> float | None:
    """max cost·x, 0 <= x <= upper, lower <= matrix x <= at_most; None if there is no such x.

    It solves by HiGHS, anew each time: scipy's linprog takes four times as long at this size.
    """
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = matrix.shape
    lp.col_cost_, lp.col_lower_, lp.col_upper_ = cost, np.zeros(len(cost)), upper
    lp.row_lower_, lp.row_upper_ = lower, at_most
    lp.sense_ = highspy.ObjSense.kMaximize
    entries = [np.flatnonzero(row) for row in matrix]
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.cumsum([0, *map(len, entries)])
    lp.a_matrix_.index_ = np.concatenate(entries)
    lp.a_matrix_.value_ = np.concatenate([row[at] for row, at in zip(matrix, entries, strict=True)])
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.passModel(lp)
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    return float(solver.getInfo().objective_function_value)

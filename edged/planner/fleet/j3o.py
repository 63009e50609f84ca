"""J3O and BAJ3O as printed: Algorithm 1 (alternate) and Algorithm 2 (greedy with multipliers)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.planner.fleet.offloading import NONE, Assignment, OffloadingLp
from edged.planner.fleet.problem import Array, FleetProblem, Ints

TOLERANCE = 1e-5
ROUNDS = 20
STEPS = 20
STEP = 0.5
VIOLATION = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Nodes:
    reward: Array  # (N, M, T)
    use: Array  # (N, M, T) share of the node's compute
    supported: Array
    size: Array  # (N, M)
    memory: Array  # (N,)


def client_nodes(p: FleetProblem, o: Array) -> Nodes:
    acc = p.client_accuracy[p.edge_of]
    local = p.weight * (1 - o)
    lam = p.load * (1 - o) / np.maximum(p.client_gflops, 1e-9)[:, None]
    return Nodes(
        local[:, None, :] * acc,
        lam[:, None, :] * p.work[None, :, None] * (acc > 0),
        acc > 0,
        np.broadcast_to(p.client_model_mb, (p.n_clients, p.n_models)),
        p.client_mb,
    )


def edge_nodes(p: FleetProblem, o: Array, oce: Array) -> Nodes:
    lam = np.zeros((p.n_edges, p.n_tasks))
    np.add.at(lam, p.edge_of, p.load * (o - oce))
    acc = p.edge_accuracy
    use = lam[:, None, :] * p.work[None, :, None] / p.edge_gflops[:, None, None]
    return Nodes(
        lam[:, None, :] / p.total_load * acc,
        use * (acc > 0),
        acc > 0,
        np.broadcast_to(p.edge_model_mb, (p.n_edges, p.n_models)),
        p.edge_mb,
    )


def greedy(nodes: Nodes, alpha: Array) -> Array:
    """Sets (N, M) bool by Lagrangian gain per MB."""
    value = nodes.reward - alpha[:, None, None] * nodes.use
    n, m, t = value.shape
    chosen = np.zeros((n, m), bool)
    best = np.zeros((n, t))
    free = nodes.memory.copy()
    rows = np.arange(n)
    while rows.size:
        gain = np.maximum(value[rows] - best[rows][:, None, :], 0).sum(axis=2) / nodes.size[rows]
        gain[chosen[rows]] = -1
        pick = gain.argmax(axis=1)
        ok = (nodes.size[rows, pick] <= free[rows] + 1e-9) & (gain[np.arange(rows.size), pick] >= 0)
        rows, pick = rows[ok], pick[ok]
        chosen[rows, pick] = True
        free[rows] -= nodes.size[rows, pick]
        best[rows] = np.maximum(best[rows], value[rows, pick])
    return chosen


def serve(nodes: Nodes, chosen: Array, alpha: Array) -> Ints:
    value = np.where(
        chosen[:, :, None] & nodes.supported,
        nodes.reward - alpha[:, None, None] * nodes.use,
        -np.inf,
    )
    z = value.argmax(axis=1)
    ok = np.take_along_axis(value, z[:, None, :], 1)[:, 0] > -np.inf
    return np.where(ok, z, NONE)


def use_of(nodes: Nodes, z: Ints, alpha: Array) -> Array:
    r = np.take_along_axis(nodes.reward, np.maximum(z, 0)[:, None, :], 1)[:, 0]
    u = np.take_along_axis(nodes.use, np.maximum(z, 0)[:, None, :], 1)[:, 0]
    on = (z != NONE) & (r - alpha[:, None] * u > 0)
    return np.where(on, u, 0).sum(axis=1)


def take(nodes: Nodes, rows) -> Nodes:
    return Nodes(
        nodes.reward[rows],
        nodes.use[rows],
        nodes.supported[rows],
        nodes.size[rows],
        nodes.memory[rows],
    )


def greedy_lr(nodes: Nodes, price_scale: float) -> Ints:
    n = len(nodes.memory)
    alpha = np.zeros(n)
    z = np.full((n, nodes.reward.shape[2]), NONE)
    live = np.arange(n)
    for step in range(1, STEPS + 1):
        part = take(nodes, live)
        a = alpha[live]
        zz = serve(part, greedy(part, a), a)
        z[live] = zz
        violation = use_of(part, zz, a) - 1.0
        alpha[live] = np.maximum(a + STEP / np.sqrt(step) * violation * price_scale, 0)
        live = live[violation >= VIOLATION]
        if not live.size:
            break
    return z


def f_at(p, z, o, oce):
    tasks = np.arange(p.n_tasks)
    of = p.edge_of[:, None]
    ac = np.where(z.client != NONE, p.client_accuracy[of, z.client, tasks], 0)
    ez = z.edge[p.edge_of]
    ae = np.where(ez != NONE, p.edge_accuracy[of, ez, tasks], 0)
    return float((p.weight * ((1 - o) * ac + (o - oce) * ae + oce * p.cloud_accuracy)).sum())


def j3o(p: FleetProblem, trace=None):
    lp = OffloadingLp(p)
    traffic = np.zeros(p.n_edges)
    np.add.at(traffic, p.edge_of, p.load @ p.input_mb)
    o = np.repeat(
        np.minimum(1, p.uplink_mb_s / np.maximum(traffic, 1e-12))[p.edge_of][:, None], p.n_tasks, 1
    )
    oce = np.zeros_like(o)
    z = None
    best = -np.inf
    for k in range(ROUNDS):
        # α has the unit of reward per share of compute: a node's whole reward
        new = []
        for nodes in (client_nodes(p, o), edge_nodes(p, o, oce)):
            scale = nodes.reward.max(axis=1).sum(axis=1).mean()
            new.append(greedy_lr(nodes, scale))
        cand = Assignment(*new)
        if z is None or f_at(p, cand, o, oce) > f_at(p, z, o, oce):
            z = cand
        flows = lp.solve(z)
        o, oce = flows.edge + flows.cloud, flows.cloud
        if trace is not None:
            trace.append(flows.value)
        if flows.value - best < TOLERANCE:
            break
        best = flows.value
    return z, flows, k + 1

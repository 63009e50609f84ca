"""Alternating optimisation (Algorithm 1): J3O, BAJ3O and the baselines of section VI.

All share one loop and differ in how they choose what each node holds. The code follows the paper
to the letter where the paper is explicit. `fixed_step` mends one fault of Algorithm 2, that the
multiplier of an overloaded node drives every gain to 0, by judging each node on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from edged.planner.fleet import nodes
from edged.planner.fleet.assignment import NONE, Assignment, Flows, accuracy_of, edge_sums
from edged.planner.fleet.nodes import Tier
from edged.planner.fleet.offloading import OffloadingLp, Surrogate, serve
from edged.planner.fleet.oracle import fill
from edged.planner.fleet.problem import Array, FleetProblem, Ints
from edged.planner.fleet.rows import Rows, tables

DELTA = 1e-5  # δ of Algorithm 1 [guess]
ROUNDS = 20  # N_max of Algorithm 1 [guess]
EPSILON = 0.01  # ε of the surrogate x / (x + ε), as a share of an edge's mean task load [guess]
EXHAUSTIVE_TASKS = 8  # an edge with at most this many tasks tries every subset of them


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """The offloading rates o and oce of each client and task, both (C, T)."""

    o: Array
    oce: Array


@dataclass(frozen=True, slots=True, eq=False)
class Alternated:
    """The best assignment that the loop found, its flows, and F after each round in `values`."""

    z: Assignment
    flows: Flows
    values: tuple[float, ...]


# Line 4 of Algorithm 1: chooses what the nodes of a tier hold. The arguments are the tier, the rows
# that its nodes could take, and their last assignment.
Onload = Callable[[Tier, Rows | None, Ints], Ints]


def alternate(problem: FleetProblem, onload: Onload, *, needs_rows: bool = False) -> Alternated:
    """Algorithm 1 with `onload` in place of line 4, and row (29) in the LP where batches form.

    `needs_rows` says that `onload` reads the table of all useful assignments. Mode strict returns
    the last round that serves every query.
    """
    lp = OffloadingLp(problem)
    table = tables(problem) if needs_rows else None
    rows = (None, None) if table is None else (table.clients, table.edges)
    rates = first_rates(problem)
    shape = problem.load.shape
    z = Assignment(np.full(shape, NONE), np.full((problem.n_edges, problem.n_tasks), NONE))
    best: tuple[Assignment, Flows] | None = None
    values: list[float] = []
    for _ in range(ROUNDS):
        surrogate = surrogate_at(problem, rates)
        tiers = (
            nodes.client_tier(problem, rates.o),
            nodes.edge_tier(problem, rates.o - rates.oce, surrogate),
        )
        new = Assignment(onload(tiers[0], rows[0], z.client), onload(tiers[1], rows[1], z.edge))
        if not values or _value_at(problem, new, rates) > _value_at(problem, z, rates):
            z = new
        if surrogate is None:
            served, (flows,) = serve([lp], z)
        else:
            served, flows = z, lp.solve(z, surrogate)
        values.append(flows.value)
        gained = flows.value - (best[1].value if best else -np.inf)
        if best is None or (flows.legal, gained) > (best[1].legal, 0.0):
            best = (served, flows)
        if gained < DELTA:
            break
        rates = Rates(flows.offloaded, flows.cloud)
    assert best is not None
    if problem.batching:  # row (29) does not imply (28), so the last LP uses (28) itself
        best = best_active_sets(lp, *best)
    return Alternated(*best, tuple(values))


def first_rates(p: FleetProblem) -> Rates:
    """Line 1: o grows with the load until the uplink is full; nothing goes to the cloud."""
    traffic = edge_sums(p, p.load @ p.input_mb)
    carried = np.divide(p.uplink_mb_s, traffic, out=np.ones_like(traffic), where=traffic > 0)
    o = np.broadcast_to(np.minimum(carried, 1.0)[p.edge_of, None], p.load.shape)
    return Rates(o, np.zeros_like(o))


def surrogate_at(p: FleetProblem, rates: Rates) -> Surrogate | None:
    """The tangent of f(x) = x / (x + ε) at the edges' present loads; None without batching."""
    if not p.batching:
        return None
    load = edge_sums(p, p.load * (rates.o - rates.oce))
    mean = edge_sums(p, p.load).mean(axis=1, keepdims=True)
    epsilon = np.maximum(EPSILON * mean, 1e-9)
    return Surrogate(epsilon / (load + epsilon) ** 2, (load / (load + epsilon)) ** 2)


def _value_at(p: FleetProblem, z: Assignment, rates: Rates) -> float:
    """F (2) at the given rates, compute limits ignored (lines 5 to 8)."""
    client, edge = accuracy_of(p, z)
    each = (1 - rates.o) * client + (rates.o - rates.oce) * edge + rates.oce * p.cloud_accuracy
    return float((p.weight * each).sum())


def best_active_sets(lp: OffloadingLp, z: Assignment, flows: Flows) -> tuple[Assignment, Flows]:
    """Search, edge by edge, which tasks it serves: once these are fixed, (28) is linear.

    The search starts from the tasks that `flows` serves at the edges.
    """
    problem = lp.problem
    running = edge_sums(problem, flows.edge * problem.load) > 0
    best_z, (best,) = serve([lp], Assignment(z.client, np.where(running, z.edge, NONE)))
    for edge in range(problem.n_edges):
        for kept in _subsets(np.flatnonzero(z.edge[edge] != NONE), best_z.edge[edge] != NONE):
            tasks = best_z.edge.copy()
            tasks[edge] = NONE
            tasks[edge, kept] = z.edge[edge, kept]
            served, (tried,) = serve([lp], Assignment(z.client, tasks))
            if (tried.legal, tried.value) > (best.legal, best.value):
                best_z, best = served, tried
    return best_z, best


def _subsets(tasks: Ints, running: Array) -> list[Ints]:
    """All subsets of the tasks; where those are too many, the ones one task away from `running`."""
    if len(tasks) <= EXHAUSTIVE_TASKS:
        return [tasks[np.array(m, dtype=bool)] for m in product((0, 1), repeat=len(tasks))]
    toggled = [running ^ (np.arange(len(running)) == task) for task in tasks]
    return [np.flatnonzero(mask) for mask in toggled]


def literal_step(tier: Tier, rows: Rows | None, last: Ints) -> Ints:
    """Algorithm 2 as printed."""
    return nodes.greedy_lr(tier)[0]


def fixed_step(tier: Tier, rows: Rows | None, last: Ints) -> Ints:
    """The best assignment of each node: of all steps of Algorithm 2, the greedy set and `last`."""
    free = np.zeros(len(last))
    plain = nodes.choose(tier, nodes.greedy(tier, free), free)
    candidates = np.stack([*nodes.greedy_lr(tier)[1], plain, last])
    earned = np.stack([nodes.earned(tier, z) for z in candidates])
    picked: Ints = candidates[earned.argmax(axis=0), np.arange(len(last))]
    return picked


def greedy_step(tier: Tier, rows: Rows | None, last: Ints) -> Ints:
    """Greedy-AO: models by gain per MB within memory and compute, (8) and (9) of problem (14)."""
    free = np.zeros(len(last))
    return nodes.choose(tier, nodes.greedy(tier, free, within_compute=True), free)


def best_step(tier: Tier, rows: Rows | None, last: Ints) -> Ints:
    """OPT-AO: the best of all assignments within memory and compute."""
    assert rows is not None
    node = np.arange(len(last))[:, None]
    served = rows.served
    reward = np.stack(
        [np.where(on, tier.reward[node, rows.z[:, :, t], t], 0.0) for t, on in enumerate(served)]
    )
    use = np.stack(
        [np.where(on, tier.use[node, rows.z[:, :, t], t], 0.0) for t, on in enumerate(served)]
    )
    tasks, count, width = reward.shape
    earned = fill(reward.reshape(tasks, -1), use.reshape(tasks, -1), np.ones(count * width))
    return rows.pick(earned.reshape(count, width).argmax(axis=1))


def random_step(rng: np.random.Generator) -> Onload:
    """Rand-AO: models in random order, each held if it still fits."""

    def onload(tier: Tier, rows: Rows | None, last: Ints) -> Ints:
        held = np.zeros(tier.reward.shape[:2], dtype=bool)
        for node, memory in enumerate(tier.memory_mb):
            free = memory
            for model in rng.permutation(len(tier.model_mb)):
                if tier.model_mb[model] <= free:
                    held[node, model] = True
                    free -= tier.model_mb[model]
        return nodes.choose(tier, held, np.zeros(len(held)))

    return onload

"""The onloading subproblem (14), (16) for all nodes of a tier, and Algorithm 2.

A tier is the clients or the edges. Once the offloading rates are fixed its nodes are independent,
and each picks models for the queries that stay with it. Knows no LP.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.planner.fleet.assignment import NONE, edge_sums
from edged.planner.fleet.offloading import Surrogate
from edged.planner.fleet.oracle import fill
from edged.planner.fleet.problem import Array, Bools, FleetProblem, Ints

STEPS_MAX = 30  # L_max of Algorithm 2 [guess]
FIRST_STEP = 1.0  # η_l = FIRST_STEP / sqrt(l); multipliers in units of a node's reward [guess]
VIOLATION_MAX = 1e-3  # ε of Algorithm 2, as a share of the node's compute [guess]
_SLACK_MB = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Tier:
    """N nodes; model m serving task t earns `reward` and takes `use` of the node's compute."""

    reward: Array  # (N, M, T), in units of F
    use: Array  # (N, M, T); 1 is the whole compute of the node
    supported: Bools  # (N, M, T)
    model_mb: Array  # (M,)
    memory_mb: Array  # (N,)

    def of(self, nodes: Ints) -> Tier:
        return Tier(
            self.reward[nodes],
            self.use[nodes],
            self.supported[nodes],
            self.model_mb,
            self.memory_mb[nodes],
        )


def client_tier(p: FleetProblem, offloaded: Array) -> Tier:
    """The clients, which serve the shares 1 - o that do not leave them; `offloaded` is o (C, T)."""
    rate = p.load * (1.0 - offloaded)
    accuracy = p.client_accuracy[p.edge_of]
    gflop = rate[:, None, :] * p.work[:, None]
    return _tier(
        accuracy, rate / p.total_load, gflop, p.client_gflops, p.client_model_mb, p.client_mb
    )


def edge_tier(p: FleetProblem, edge_share: Array, surrogate: Surrogate | None) -> Tier:
    """The edges, which serve the shares o - oce, (C, T). If they batch, the use is that of (29)."""
    rate = edge_sums(p, p.load * edge_share)
    gflop = rate[:, None, :] * p.work[:, None]
    tier = _tier(
        p.edge_accuracy, rate / p.total_load, gflop, p.edge_gflops, p.edge_model_mb, p.edge_mb
    )
    if surrogate is None or p.setup_s is None:
        return tier
    batches = (surrogate.theta * rate + surrogate.psi)[:, None, :]
    setup = p.setup_s[:, None] / p.window_s * batches
    return Tier(tier.reward, tier.use + setup, tier.supported, tier.model_mb, tier.memory_mb)


def _tier(
    accuracy: Array, weight: Array, gflop: Array, gflops: Array, model_mb: Array, memory_mb: Array
) -> Tier:
    limit = np.where(gflops > 0, gflops, 1e-9)[:, None, None]  # a node without compute serves none
    supported = accuracy > 0
    return Tier(weight[:, None, :] * accuracy, gflop / limit, supported, model_mb, memory_mb)


def greedy(tier: Tier, alpha: Array, *, within_compute: bool = False) -> Bools:
    """The models held, (N, M): chosen by Lagrangian gain per MB until the best one does not fit.

    It must fit into the memory and, with `within_compute`, its tasks into the compute. A model of
    gain 0 is held too while there is memory, as the paper prints it.
    """
    value = np.maximum(tier.reward - alpha[:, None, None] * tier.use, 0.0)
    held = np.zeros(value.shape[:2], dtype=bool)
    free = tier.memory_mb + _SLACK_MB
    live = np.arange(len(free))
    best = np.zeros((len(free), 1, value.shape[2]))
    asked = np.zeros((len(free), value.shape[2]))
    size = np.maximum(tier.model_mb, _SLACK_MB)  # avoids division by 0: a model may take no memory
    while live.size:
        gain = np.maximum(value - best, 0.0).sum(axis=2) / size
        gain[held[live]] = -1.0
        model = gain.argmax(axis=1)
        row = np.arange(live.size)
        asked = np.where(value[row, model] > best[:, 0], tier.use[live, model], asked)
        fits = (tier.model_mb[model] <= free) & (gain[row, model] >= 0)
        if within_compute:
            fits &= asked.sum(axis=1) <= 1.0 + VIOLATION_MAX
        live, model, row = live[fits], model[fits], row[fits]
        held[live, model] = True
        value, free, asked = value[row], free[row] - tier.model_mb[model], asked[row]
        best = np.maximum(best[row], value[np.arange(live.size), model][:, None, :])
    return held


def choose(tier: Tier, held: Bools, alpha: Array) -> Ints:
    """The held model of highest Lagrangian value for each task, (N, T): z of Algorithm 2."""
    value = tier.reward - alpha[:, None, None] * tier.use
    value = np.where(held[:, :, None] & tier.supported, value, -np.inf)
    z = value.argmax(axis=1)
    return np.where(_at(value, z) > -np.inf, z, NONE)


def greedy_lr(tier: Tier) -> tuple[Ints, list[Ints]]:
    """Algorithm 2: the last assignment (N, T), and the assignments of all steps.

    The multiplier of a node rises while its tasks need more compute than it has: by
    FIRST_STEP / sqrt(l) times the relative violation, in units of the node's whole reward.
    """
    unit = tier.reward.max(axis=1).sum(axis=1)
    alpha = np.zeros(len(unit))
    live = np.arange(len(unit))
    last = np.full((len(unit), tier.reward.shape[2]), NONE)
    path = []
    for step in range(1, STEPS_MAX + 1):
        part, price = tier.of(live), alpha[live]
        last[live] = choose(part, greedy(part, price), price)
        path.append(last.copy())
        violation = _asked(part, last[live], price) - 1.0
        alpha[live] = np.maximum(price + FIRST_STEP / np.sqrt(step) * violation * unit[live], 0.0)
        live = live[violation >= VIOLATION_MAX]
        if not live.size:
            break
    return last, path


def earned(tier: Tier, z: Ints) -> Array:
    """The reward of assignments (N, T) within the compute of each node, (N,).

    Tasks that do not fit are dropped, those of the least reward per compute first.
    """
    served = z != NONE
    reward = np.where(served, _at(tier.reward, z), 0.0).T
    use = np.where(served, _at(tier.use, z), 0.0).T
    return fill(reward, use, np.ones(len(z)))


def _asked(tier: Tier, z: Ints, alpha: Array) -> Array:
    """The compute that the tasks with a positive Lagrangian value need, (N,)."""
    use = _at(tier.use, z)
    worth = _at(tier.reward, z) - alpha[:, None] * use > 0
    asked: Array = np.where((z != NONE) & worth, use, 0.0).sum(axis=1)
    return asked


def _at(values: Array, z: Ints) -> Array:
    """The `values` (N, M, T) of the assigned models, (N, T); undefined where z is NONE."""
    picked: Array = values[np.arange(len(z))[:, None], z, np.arange(z.shape[1])]
    return picked

"""First prices for a search: the duals of an LP in which memory is unlimited.

Each node has the best model for every task, even if they do not fit together. Knows no tables and
no search.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edged.planner.fleet.assignment import NONE, Assignment, Prices, edge_sums
from edged.planner.fleet.offloading import OffloadingLp, Surrogate
from edged.planner.fleet.problem import Array, FleetProblem, Ints


def ideal_prices(lp: OffloadingLp) -> Prices:
    """The duals of the shared rows under the best models."""
    p = lp.problem
    z = Assignment(_best_on_clients(p), _best_models(p.edge_accuracy, p.edge_model_mb, p.edge_mb))
    return lp.solve(z, _proportional(p) if p.batching else None).prices


def pooled(p: FleetProblem) -> FleetProblem:
    """The fleet with the clients of each edge merged into one.

    The merged client has only as much compute as each client could use for its own load: otherwise
    idle clients would lend theirs to busy ones.
    """
    z = _best_on_clients(p)
    wanted = (p.load * np.where(z != NONE, p.work[z], 0.0)).sum(axis=1)
    memory = np.zeros(p.n_edges)
    np.maximum.at(memory, p.edge_of, p.client_mb)
    return replace(
        p,
        edge_of=np.arange(p.n_edges),
        client_mb=memory,
        client_gflops=edge_sums(p, np.minimum(wanted, p.client_gflops)),
        load=edge_sums(p, p.load),
    )


def _best_on_clients(p: FleetProblem) -> Ints:
    return _best_models(p.client_accuracy[p.edge_of], p.client_model_mb, p.client_mb)


def _best_models(accuracy: Array, size: Array, memory: Array) -> Ints:
    """The most accurate model of each task that fits alone, (N, T); accuracy is (N, M, T)."""
    fits = (size <= memory[:, None])[:, :, None]
    possible = np.where(fits, accuracy, 0.0)
    return np.where(possible.max(axis=1) > 0, possible.argmax(axis=1), NONE)


def _proportional(p: FleetProblem) -> Surrogate:
    """Setup times that grow with the share λ_et / Λ_et of a task's load that the edge serves.

    This is the largest linear function that is nowhere above 1{λ_et > 0} of (28).
    """
    load = edge_sums(p, p.load)
    return Surrogate(1.0 / np.where(load > 0, load, np.inf), np.zeros_like(load))

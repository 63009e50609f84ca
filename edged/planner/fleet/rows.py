"""Tables of the assignments of all nodes: which model serves each task, and what that is worth.

A row is one assignment of one node, found by candidates.py. Knows no loads and no prices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edged.planner.fleet.assignment import NONE
from edged.planner.fleet.candidates import (
    MAX_TASKS,
    Models,
    Partitions,
    candidates,
    over_models,
    partitions_of,
)
from edged.planner.fleet.problem import Array, Bools, FleetProblem, Ints, Mode


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Assignments of N nodes, R each.

    Short tables are padded at the end with rows that serve nothing and must not be chosen.
    `accuracy` and `work` have the tasks first, because the loops run over tasks.
    """

    z: Ints  # (N, R, T)
    accuracy: Array  # (T, N, R)
    work: Array  # (T, N, R), 0 where nothing serves
    setup: Array  # (N, R)
    cost: Array  # (N, R)
    count: Ints  # (N,) number of rows that are not padding

    @property
    def served(self) -> Bools:
        """Whether a row serves a task, (T, N, R)."""
        served: Bools = self.work > 0
        return served

    @property
    def real(self) -> Bools:
        """Whether a row is not padding, (N, R)."""
        real: Bools = np.arange(self.z.shape[1]) < self.count[:, None]
        return real

    def pick(self, row: Ints) -> Ints:
        """The assignments (N, T) of the chosen rows (N,)."""
        chosen: Ints = self.z[np.arange(len(row)), row]
        return chosen

    def find(self, z: Ints, otherwise: Ints) -> Ints:
        """The rows (N,) of assignments (N, T); `otherwise` (N,) where the table has none."""
        same = (self.z == z[:, None, :]).all(axis=2)
        return np.where(same.any(axis=1), same.argmax(axis=1), otherwise)

    def cost_of(self, row: Ints) -> float:
        """The loading costs of the chosen rows (N,), summed."""
        return float(self.cost[np.arange(len(row)), row].sum())

    def of(self, nodes: Ints) -> Rows:
        """The rows of the nodes (N',)."""
        return Rows(
            self.z[nodes],
            self.accuracy.take(nodes, axis=1),
            self.work.take(nodes, axis=1),
            self.setup[nodes],
            self.cost[nodes],
            self.count[nodes],
        )

    def keep(self, kept: Ints) -> Rows:
        """Only the rows `kept` (N, R'), in that order: padding last."""
        node = np.arange(len(kept))[:, None]
        return Rows(
            self.z[node, kept],
            np.take_along_axis(self.accuracy, kept[None], axis=2),
            np.take_along_axis(self.work, kept[None], axis=2),
            self.setup[node, kept],
            self.cost[node, kept],
            np.minimum(self.count, kept.shape[1]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class AssignmentTables:
    """The rows of all clients and edges. `complete`: no useful assignment is missing."""

    clients: Rows
    edges: Rows
    complete: bool


def tables(
    problem: FleetProblem, client_cost: Array | None = None, edge_cost: Array | None = None
) -> AssignmentTables:
    """The rows of every node; `*_cost` (C or E, M) is the objective lost by loading a model."""
    p = problem
    partitions = partitions_of(p.n_tasks) if p.n_tasks <= MAX_TASKS else None
    setup = np.zeros(p.n_models) if p.setup_s is None else p.setup_s / p.window_s
    no_setup = np.zeros(p.n_models)
    no_cost = np.zeros(p.n_models)
    at_edge = [
        Models(accuracy, p.work, p.client_model_mb, no_setup, no_cost, p.mode is Mode.NULL)
        for accuracy in p.client_accuracy
    ]
    clients = [at_edge[edge] for edge in p.edge_of.tolist()]
    if client_cost is not None:
        clients = [replace(c, cost=cost) for c, cost in zip(clients, client_cost, strict=True)]
    edges = [
        Models(
            p.edge_accuracy[edge], p.work, p.edge_model_mb, setup,
            no_cost if edge_cost is None else edge_cost[edge], p.batching,
        )
        for edge in range(p.n_edges)
    ]  # fmt: skip
    of_client, clients_complete = _rows(clients, p.client_mb.tolist(), partitions)
    of_edge, edges_complete = _rows(edges, p.edge_mb.tolist(), partitions)
    return AssignmentTables(of_client, of_edge, clients_complete and edges_complete)


def envelope(problem: FleetProblem) -> AssignmentTables:
    """One row a node that is at least as good as any assignment.

    Bounds use it where the tables are not complete. Each task has the best accuracy and the least
    work that any model offers it.
    """
    p = problem
    clients = _envelope(p.client_accuracy[p.edge_of], p.work, p.client_model_mb, p.client_mb)
    edges = _envelope(p.edge_accuracy, p.work, p.edge_model_mb, p.edge_mb)
    return AssignmentTables(clients, edges, complete=False)


def _envelope(accuracy: Array, work: Array, size: Array, memory: Array) -> Rows:
    offers = (accuracy > 0) & (size <= memory[:, None])[:, :, None]  # (N, M, T)
    best = np.where(offers, accuracy, 0.0).max(axis=1)
    least = np.where(offers, work[:, None], np.inf).min(axis=1)
    served = offers.any(axis=1)
    nothing = np.zeros((len(memory), 1))
    z = np.where(served, 0, NONE)[:, None, :]
    work = np.where(served, least, 0.0).T[:, :, None]
    return Rows(z, best.T[:, :, None], work, nothing, nothing, np.ones(len(memory), dtype=np.int64))


def _stack(tables: list[Ints], libraries: Sequence[Models]) -> Rows:
    """Tables of different lengths as one padded array, with the accuracy and costs of each row."""
    nodes, tasks = len(tables), tables[0].shape[1]
    z = np.full((nodes, max(len(table) for table in tables), tasks), NONE)
    for number, table in enumerate(tables):
        z[number, : len(table)] = table
    accuracy = np.stack([library.accuracy for library in libraries])
    served = z != NONE
    node = np.arange(nodes)[:, None, None]
    value = np.where(served, accuracy[node, z, np.arange(tasks)], 0.0)
    work = np.where(served, libraries[0].work[z], 0.0)
    return Rows(
        z,
        np.ascontiguousarray(np.moveaxis(value, 2, 0)),
        np.ascontiguousarray(np.moveaxis(work, 2, 0)),
        np.where(served, libraries[0].setup[z], 0.0).sum(axis=2),
        over_models(z, np.stack([library.cost for library in libraries])),
        np.array([len(table) for table in tables]),
    )


def _rows(
    libraries: Sequence[Models], memory_mb: Sequence[float], partitions: list[Partitions] | None
) -> tuple[Rows, bool]:
    """The rows of each node, and whether no useful row is missing.

    Nodes with the same models are handled together.
    """
    alike: dict[tuple[bytes, bytes], list[int]] = {}
    for node, library in enumerate(libraries):
        alike.setdefault((library.accuracy.tobytes(), library.cost.tobytes()), []).append(node)
    found: list[Ints] = []
    owners: list[Models] = []
    place = np.zeros(len(libraries), dtype=np.int64)  # position of each node's table in `found`
    complete = True
    for nodes in alike.values():
        sizes = {memory_mb[node] for node in nodes}
        by_memory, whole = candidates(libraries[nodes[0]], sizes, partitions)
        complete &= whole
        at = {mb: len(found) + number for number, mb in enumerate(by_memory)}
        place[nodes] = [at[memory_mb[node]] for node in nodes]
        found += by_memory.values()
        owners += [libraries[nodes[0]]] * len(by_memory)
    return _stack(found, owners).of(place), complete

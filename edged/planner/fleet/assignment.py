"""What a plan decides, as arrays: models, flows and the value of both. Knows no solver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.planner.fleet.problem import Array, FleetProblem, Ints

NONE = -1  # in an assignment: no model serves the task (the spelling of the JSON format)


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """Which model serves a task: `client` (C, T) and `edge` (E, T), NONE where no model does.

    A node holds the models that serve one of its tasks. On a batching edge every task with a
    model has its setup time reserved.
    """

    client: Ints
    edge: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """What one more unit of a shared limit is worth: (E,) per MB/s, (E,) per GFLOP/s, per MB/s."""

    uplink: Array
    edge_compute: Array
    cloud: float


@dataclass(frozen=True, slots=True, eq=False)
class Flows:
    """Shares of each (client, task), all (C, T): served locally, at the edge, in the cloud.

    `value` is F. `unserved` (C, T) is the share that had to be served and was not: zeros in mode
    drop, and in a plan that null or strict mode allows.
    """

    local: Array
    edge: Array
    cloud: Array
    unserved: Array
    value: float
    prices: Prices

    @property
    def offloaded(self) -> Array:
        """(C, T) o."""
        return self.edge + self.cloud

    @property
    def legal(self) -> bool:
        return bool(self.unserved.max(initial=0.0) <= 1e-7)


def value_of(
    problem: FleetProblem, z: Assignment, local: Array, edge: Array, cloud: Array
) -> float:
    """F (2) of flows (C, T) under an assignment."""
    at_client, at_edge = accuracy_of(problem, z)
    served = at_client * local + at_edge * edge + problem.cloud_accuracy * cloud
    return float((problem.weight * served).sum())


def accuracy_of(problem: FleetProblem, z: Assignment) -> tuple[Array, Array]:
    """A^c_t (4) and A^e_t (6) as each client sees them, both (C, T); 0 where no model serves."""
    tasks = np.arange(problem.n_tasks)
    of = problem.edge_of[:, None]
    client = np.where(z.client != NONE, problem.client_accuracy[of, z.client, tasks], 0.0)
    edge_z = z.edge[problem.edge_of]
    edge = np.where(edge_z != NONE, problem.edge_accuracy[of, edge_z, tasks], 0.0)
    return client, edge


def edge_sums(problem: FleetProblem, values: Array) -> Array:
    """Sum `values` (C, ...) over the clients of each edge: (E, ...)."""
    total = np.zeros((problem.n_edges, *values.shape[1:]))
    np.add.at(total, problem.edge_of, values)
    return total

"""What a plan decides, as arrays: models, flows and the value of both. Knows no solver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.planner.fleet.problem import Array, FleetProblem, Ints

NONE = -1  # entry of an assignment where no model serves the task, as in the JSON format


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
    """The gain in F from one more unit of each shared limit."""

    uplink: Array  # (E,), F per MB/s
    edge_compute: Array  # (E,), F per GFLOP/s
    cloud: float  # F per MB/s


@dataclass(frozen=True, slots=True, eq=False)
class Flows:
    """The shares of each client's task that are served locally, at the edge and in the cloud.

    All shares are (C, T). `unserved` is the share that had to be served and was not: it is 0 in
    mode drop, and in every plan that mode null or strict allows. `value` is F.
    """

    local: Array
    edge: Array
    cloud: Array
    unserved: Array
    value: float
    prices: Prices

    @property
    def offloaded(self) -> Array:
        """The share o that leaves the client, (C, T)."""
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

"""The plan that an assignment and its flows make. Knows no method."""

from __future__ import annotations

from typing import Any

import numpy as np

from edged.planner.fleet.assignment import NONE, Assignment, Flows, value_of
from edged.planner.fleet.plan import FleetPlan, PlanStatus
from edged.planner.fleet.problem import Array, Bools, FleetProblem, Ints


def plan_of(
    problem: FleetProblem,
    method: str,
    z: Assignment,
    flows: Flows,
    *,
    bound: float | None = None,
    iterations: int = 1,
) -> FleetPlan:
    """The plan of an assignment and its flows. Tasks without load get no model."""
    loaded = problem.load > 0
    edge_loaded = np.zeros(z.edge.shape, dtype=bool)
    np.logical_or.at(edge_loaded, problem.edge_of, loaded)
    z = Assignment(np.where(loaded, z.client, NONE), np.where(edge_loaded, z.edge, NONE))
    local, edge, cloud, dropped = _shares(flows, loaded)
    value = value_of(problem, z, local, edge, cloud)
    plan = FleetPlan(
        method=method,
        status=PlanStatus.FEASIBLE,
        obj=value,
        iterations=iterations,
        x_c=_held(z.client),
        x_e=_held(z.edge),
        z_c=_tuples(z.client),
        z_e=_tuples(z.edge),
        o=_tuples(edge + cloud),
        oce=_tuples(cloud),
        r=_tuples(dropped),
    )
    return plan if bound is None else plan.with_bound(bound)


def infeasible(method: str, culprits: tuple[str, ...]) -> FleetPlan:
    """The answer to an instance that no plan satisfies."""
    return FleetPlan(method=method, status=PlanStatus.INFEASIBLE, culprits=culprits)


def _shares(flows: Flows, loaded: Bools) -> tuple[Array, Array, Array, Array]:
    """The local, edge, cloud and dropped shares: 1 in sum, exactly; 0 where there is no load."""
    local, edge, cloud = (
        np.where(loaded & (flow > 1e-9), flow, 0.0)
        for flow in (flows.local, flows.edge, flows.cloud)
    )
    total = local + edge + cloud
    over = np.maximum(total, 1.0)
    whole = np.abs(total - 1.0) < 1e-7  # nothing was dropped, by the LP's tolerance
    over = np.where(whole & (total > 0), total, over)
    local, edge, cloud = local / over, edge / over, cloud / over
    dropped = np.where(loaded & ~whole, 1.0 - (local + edge + cloud), 0.0)
    return local, edge, cloud, np.maximum(dropped, 0.0)


def _held(z: Ints) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sorted({m for m in row if m != NONE})) for row in z.tolist())


def _tuples(array: Array | Ints) -> Any:
    """Tuples of tuples of the array's own type."""
    return tuple(tuple(row) for row in array.tolist())

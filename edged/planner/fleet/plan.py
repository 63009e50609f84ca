"""A fleet plan: what every method returns, in the fields of the JSON format.

Knows no method. Verification is in verify.py and shares no code with what makes plans.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec
import numpy as np

from edged.planner.fleet import verify
from edged.planner.fleet.assignment import NONE, Assignment, Flows, value_of
from edged.planner.fleet.problem import Array, Bools, FleetProblem, Ints
from edged.typeinfo import describe

OPTIMAL_GAP = 1e-6  # relative; the MILP's own tolerance


class Status(str, Enum):
    """OPTIMAL: within 1e-6 of the bound. INFEASIBLE: proven; `culprits` say why."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which models each node holds, which of them serves each task, and where queries go.

    `z` and `x` index models; -1 in `z`: none. `o` is the share of a client's traffic that leaves
    it, `oce` the share served in the cloud, `r` the share dropped. `obj` is F (2), the mean
    accuracy over all queries; no plan exceeds `bound`. An infeasible plan has no nodes.
    """

    method: str
    status: Status
    obj: float | None = None
    bound: float | None = None
    gap: float | None = None  # (bound - obj) / bound
    iterations: int = 0
    culprits: tuple[str, ...] = ()
    x_c: tuple[tuple[int, ...], ...] = ()
    x_e: tuple[tuple[int, ...], ...] = ()
    z_c: tuple[tuple[int, ...], ...] = ()
    z_e: tuple[tuple[int, ...], ...] = ()
    o: tuple[tuple[float, ...], ...] = ()
    oce: tuple[tuple[float, ...], ...] = ()
    r: tuple[tuple[float, ...], ...] = ()

    def violations(self, problem: FleetProblem) -> tuple[str, ...]:
        """Each violated constraint by its equation, where and by how much; none if it is right."""
        return verify.violations(problem, self)

    def verify(self, problem: FleetProblem) -> None:
        """Raise PlanError naming every violated constraint."""
        verify.check(problem, self)

    def with_bound(self, bound: float) -> FleetPlan:
        """The plan with an upper bound, no less than its value: they may cross by rounding."""
        assert self.obj is not None, "an infeasible plan has no bound; this is a bug"
        bound = max(bound, self.obj)
        gap = (bound - self.obj) / bound if bound > 0 else 0.0
        status = Status.OPTIMAL if gap <= OPTIMAL_GAP else Status.FEASIBLE
        return msgspec.structs.replace(self, bound=bound, gap=gap, status=status)

    def assignment(self) -> Assignment:
        """The plan's z as arrays, to plan again from."""
        return Assignment(np.array(self.z_c, dtype=np.int64), np.array(self.z_e, dtype=np.int64))


def plan_of(
    problem: FleetProblem,
    method: str,
    z: Assignment,
    flows: Flows,
    *,
    bound: float | None = None,
    iterations: int = 1,
) -> FleetPlan:
    """The plan of an assignment and its flows. A task without load gets no model."""
    loaded = problem.load > 0
    edge_loaded = np.zeros(z.edge.shape, dtype=bool)
    np.logical_or.at(edge_loaded, problem.edge_of, loaded)
    z = Assignment(np.where(loaded, z.client, NONE), np.where(edge_loaded, z.edge, NONE))
    local, edge, cloud, dropped = _shares(flows, loaded)
    value = value_of(problem, z, local, edge, cloud)
    plan = FleetPlan(
        method=method,
        status=Status.FEASIBLE,
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
    return FleetPlan(method=method, status=Status.INFEASIBLE, culprits=culprits)


def _shares(flows: Flows, loaded: Bools) -> tuple[Array, Array, Array, Array]:
    """Local, edge, cloud and dropped shares that add up to 1 exactly, 0 where there is no load."""
    local, edge, cloud = (
        np.where(loaded & (flow > 1e-9), flow, 0.0)
        for flow in (flows.local, flows.edge, flows.cloud)
    )
    total = local + edge + cloud
    over = np.maximum(total, 1.0)
    whole = np.abs(total - 1.0) < 1e-7  # the LP's tolerance: nothing was dropped
    over = np.where(whole & (total > 0), total, over)
    local, edge, cloud = local / over, edge / over, cloud / over
    dropped = np.where(loaded & ~whole, 1.0 - (local + edge + cloud), 0.0)
    return local, edge, cloud, np.maximum(dropped, 0.0)


def _held(z: Ints) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sorted({m for m in row if m != NONE})) for row in z.tolist())


def _tuples(array: Array | Ints) -> Any:
    """Tuples of tuples of the array's own type."""
    return tuple(tuple(row) for row in array.tolist())


describe(FleetPlan)

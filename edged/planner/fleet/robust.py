"""Loads are estimates, and change: plans for intervals of load, and plans that follow a load.

These are open questions of J3O (its section VII). Models move slowly and flows quickly: a plan for
an interval of loads fixes the models, and the LP finds the flows for the actual load. Samples are
drawn from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edged.errors import PlanError
from edged.planner.fleet.assignment import Assignment
from edged.planner.fleet.offloading import OffloadingLp, serve
from edged.planner.fleet.outcome import plan_of
from edged.planner.fleet.plan import FleetPlan
from edged.planner.fleet.price import Effort, Found, SearchStart, search
from edged.planner.fleet.problem import Array, FleetProblem

MB_PER_GB = 1000.0


@dataclass(frozen=True, slots=True)
class Hedged:
    """A plan for an interval of loads."""

    plan: FleetPlan  # its flows are for the load in the middle
    expected: float  # mean of F over the samples that it was made for, each with its best flows
    expected_bound: float  # no choice of models has a higher mean


@dataclass(frozen=True, slots=True)
class Replanned:
    """A plan made from a previous one."""

    plan: FleetPlan
    loaded_mb: float  # what the nodes must load to follow it
    net: float  # its objective less the cost of loading
    net_bound: float  # no plan has a higher net objective


def hedge(
    problem: FleetProblem, spread: float, samples: int, rng: np.random.Generator, effort: Effort
) -> Hedged:
    """The models with the best mean accuracy when each load is anywhere in λ (1 ± spread)."""
    scenarios = [problem.with_load(load) for load in sample_loads(problem, spread, samples, rng)]
    found = _legal(search(scenarios, effort))
    z, (flows,) = serve([OffloadingLp(problem)], found.z)
    plan = plan_of(problem, "price", z, flows, iterations=found.solves)
    return Hedged(plan, found.objective, found.bound)


def plan_for_most(problem: FleetProblem, spread: float, effort: Effort) -> FleetPlan:
    """Models and flows that hold for every load up to λ (1 + spread).

    Each row of P1 grows with the load, so flows that fit the upper end fit all loads below. `obj`
    is F at the load λ itself.
    """
    _check_spread(spread)
    found = _legal(search([problem.with_load(problem.load * (1.0 + spread))], effort))
    return plan_of(problem, "price", found.z, found.flows[0], iterations=found.solves)


def replan(
    problem: FleetProblem, previous: FleetPlan, cost_per_gb: float, effort: Effort
) -> Replanned:
    """The best plan when loading a model costs `cost_per_gb` of accuracy, for all nodes alike.

    Models that a node holds in `previous` cost nothing. Raises PlanError if `previous` has other
    nodes or models than the problem.
    """
    _check_nodes(problem, previous)
    if not (np.isfinite(cost_per_gb) and cost_per_gb >= 0):
        raise PlanError(f"switching cost: must be a finite number >= 0, got {cost_per_gb}")
    per_mb = cost_per_gb / MB_PER_GB
    start = SearchStart(
        client_cost=_to_load(previous.x_c, per_mb * problem.client_model_mb),
        edge_cost=_to_load(previous.x_e, per_mb * problem.edge_model_mb),
    )
    found = _legal(search([problem], effort, start))
    plan = plan_of(problem, "price", found.z, found.flows[0], iterations=found.solves)
    loaded = loaded_mb(problem, previous, plan)
    return Replanned(plan, loaded, (plan.obj or 0.0) - per_mb * loaded, found.bound)


def loaded_mb(problem: FleetProblem, previous: FleetPlan, plan: FleetPlan) -> float:
    """MB that the nodes must load to go from one plan to the next."""
    pairs = (
        (previous.x_c, plan.x_c, problem.client_model_mb),
        (previous.x_e, plan.x_e, problem.edge_model_mb),
    )
    return sum(
        float(size[model])
        for before, after, size in pairs
        for old, new in zip(before, after, strict=True)
        for model in set(new) - set(old)
    )


def follow(problem: FleetProblem, plan: FleetPlan) -> FleetPlan:
    """The models of a plan with the best flows for the load of `problem`: no model is loaded.

    Raises PlanError if the plan has other nodes or models than the problem.
    """
    _check_nodes(problem, plan)
    z, (flows,) = serve([OffloadingLp(problem)], plan.assignment())
    return plan_of(problem, plan.method, z, flows)


def accuracies(problem: FleetProblem, z: Assignment, loads: Sequence[Array]) -> list[float]:
    """F under each load (C, T) with the best flows for it."""
    found = []
    for load in loads:
        _, (flows,) = serve([OffloadingLp(problem.with_load(load))], z)
        found.append(flows.value)
    return found


def sample_loads(
    problem: FleetProblem, spread: float, samples: int, rng: np.random.Generator
) -> list[Array]:
    """Loads (C, T) drawn uniformly and independently from λ (1 ± spread)."""
    _check_spread(spread)
    if samples < 1:
        raise PlanError(f"samples: must be >= 1, got {samples}")
    factors = rng.uniform(1.0 - spread, 1.0 + spread, size=(samples, *problem.load.shape))
    return [problem.load * factor for factor in factors]


def _check_spread(spread: float) -> None:
    if not 0.0 <= spread <= 1.0:
        raise PlanError(f"spread: must be from 0 to 1, got {spread}")


def _check_nodes(problem: FleetProblem, plan: FleetPlan) -> None:
    for name, nodes in (("x_c", problem.n_clients), ("x_e", problem.n_edges)):
        held = getattr(plan, name)
        if len(held) != nodes or any(not 0 <= m < problem.n_models for row in held for m in row):
            raise PlanError(f"{name}: the previous plan is of a fleet with other nodes or models")


def _to_load(held: Sequence[Sequence[int]], cost: Array) -> Array:
    """The cost (models,) of each model for each node, (nodes, models); 0 if the node holds it."""
    to_load = np.tile(cost, (len(held), 1))
    for node, models in enumerate(held):
        to_load[node, list(models)] = 0.0
    return to_load


def _legal(found: Found) -> Found:
    if not found.legal:
        raise PlanError("mode: no plan found that serves every query; take mode drop or null")
    return found

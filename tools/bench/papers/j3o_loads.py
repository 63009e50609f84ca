"""Two open questions of J3O (its section VII): loads that are estimates, and loads that drift.

Intervals: models are fixed for loads anywhere in λ (1 ± spread), flows follow the actual load.
Drift: every load makes a random walk; a new plan is made at each step, at some price of loading
models.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edged.planner.fleet import robust
from edged.planner.fleet.generate import FleetScenario, generate
from edged.planner.fleet.methods import solve
from edged.planner.fleet.plan import FleetPlan
from edged.planner.fleet.price import EFFORTS
from edged.planner.fleet.problem import FleetProblem
from edged.planner.fleet.standley import losses

FAMILY = "hard"
SPREADS = (0.2, 0.4, 0.6, 0.8, 1.0)
PLANNED_FOR = 16  # samples that the hedged plan is made for
JUDGED_BY = 25  # other samples that the plans are judged by
STEPS = 20
WALK = 0.2  # standard deviation of a step of log λ
COSTS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1)  # accuracy that each loaded GB costs
EFFORT = EFFORTS["full"]


def interval(seeds: int, spread: float) -> dict[str, float]:
    """The mean accuracy of each kind of plan, and of a new plan for each load.

    Also the share of the loads under which the flows of the nominal plan break a limit.
    """
    found = [_interval(seed, spread) for seed in range(seeds)]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def _interval(seed: int, spread: float) -> dict[str, float]:
    problem = _instance(seed)
    nominal = solve(problem, "price")
    hedged = robust.hedge(problem, spread, PLANNED_FOR, np.random.default_rng([seed, 1]), EFFORT)
    most = robust.plan_for_most(problem, spread, EFFORT)
    loads = robust.sample_loads(problem, spread, JUDGED_BY, np.random.default_rng([seed, 2]))
    plans = {"nominal": nominal, "hedged": hedged.plan, "for the most": most}
    result = {
        name: float(np.mean(robust.accuracies(problem, plan.assignment(), loads)))
        for name, plan in plans.items()
    }
    anew = [solve(problem.with_load(load), "price").obj or 0.0 for load in loads]
    result["anew each time"] = float(np.mean(anew))
    result["nominal flows break a limit"] = _broken(problem, nominal, loads)
    result["flows for the most break a limit"] = _broken(problem, most, loads)
    return result


def _broken(problem: FleetProblem, plan: FleetPlan, loads: list[Any]) -> float:
    """The share of the loads under which the plan's own flows violate (9) to (12)."""
    limits = ("(9)", "(10)", "(11)", "(12)")
    broken = [
        any(line.startswith(limits) for line in plan.violations(problem.with_load(load)))
        for load in loads
    ]
    return float(np.mean(broken))


def drift(seeds: int) -> dict[str, dict[str, float]]:
    """Each policy's mean accuracy, MB loaded a step, and share of the steps that load anything."""
    policies: dict[str, float | None] = {f"{cost:g}": cost for cost in COSTS}
    policies["never"] = None
    result = {}
    for name, cost in policies.items():
        walks = [_walk(seed, cost) for seed in range(seeds)]
        accuracy, loaded = (np.array([walk[i] for walk in walks]) for i in (0, 1))
        result[name] = {
            "accuracy": float(accuracy.mean()),
            "mb_a_step": float(loaded.mean()),
            "steps_that_load": float((loaded > 0).mean()),
        }
    return result


def _walk(seed: int, cost: float | None) -> tuple[list[float], list[float]]:
    """The accuracy and MB loaded at each step; `cost` None keeps the first plan's models."""
    problem = _instance(seed)
    rng = np.random.default_rng([seed, 3])
    plan = solve(problem, "price")
    accuracy, loaded = [], []
    load = problem.load
    for _ in range(STEPS):
        load = load * np.exp(rng.normal(0.0, WALK, size=load.shape))
        load = load * (problem.total_load / load.sum())
        now = problem.with_load(load)
        if cost is None:
            after = robust.follow(now, plan)
        else:
            after = robust.replan(now, plan, cost, EFFORT).plan
        loaded.append(robust.loaded_mb(now, plan, after))
        accuracy.append(after.obj or 0.0)
        plan = after
    return accuracy, loaded


def _instance(seed: int) -> FleetProblem:
    return generate(FAMILY, np.random.default_rng(seed), losses(), FleetScenario())

"""Plans for loads that are not known, and plans that follow a load without thrashing."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edged.errors import PlanError
from edged.planner.fleet import robust
from edged.planner.fleet.assignment import NONE
from edged.planner.fleet.methods import solve
from edged.planner.fleet.plan import FleetPlan
from edged.planner.fleet.price import EFFORTS
from edged.planner.fleet.problem import FleetProblem
from tests.planner.fleet.helpers import family

FULL = EFFORTS["full"]


@pytest.fixture(scope="module")
def problem() -> FleetProblem:
    return family("hard", 6, clients=12, tasks=4)


@pytest.fixture(scope="module")
def nominal(problem: FleetProblem) -> FleetPlan:
    return solve(problem, "price")


def _drifted(problem: FleetProblem, seed: int, by: float) -> FleetProblem:
    (load,) = robust.sample_loads(problem, by, 1, np.random.default_rng(seed))
    return problem.with_load(load)


def test_a_hedged_plan_is_better_on_average(problem: FleetProblem, nominal: FleetPlan) -> None:
    """It is compared with the plan for the load in the middle, on the samples it was made for."""
    hedged = robust.hedge(problem, 0.6, 8, np.random.default_rng(1), FULL)
    hedged.plan.verify(problem)
    loads = robust.sample_loads(problem, 0.6, 8, np.random.default_rng(1))
    ours = np.mean(robust.accuracies(problem, hedged.plan.assignment(), loads))
    theirs = np.mean(robust.accuracies(problem, nominal.assignment(), loads))
    assert ours == pytest.approx(hedged.expected, abs=1e-9)
    assert ours > theirs
    assert hedged.expected <= hedged.expected_bound


def test_no_spread_is_the_plan_itself(problem: FleetProblem, nominal: FleetPlan) -> None:
    hedged = robust.hedge(problem, 0.0, 2, np.random.default_rng(1), FULL)
    assert hedged.expected == pytest.approx(nominal.obj)
    assert hedged.plan.obj == pytest.approx(hedged.expected)


def test_a_plan_for_most_fits_every_smaller_load(problem: FleetProblem, nominal: FleetPlan) -> None:
    """Its shares hold for every load; those of the nominal plan break limits."""
    most = robust.plan_for_most(problem, 0.4, FULL)
    most.verify(problem)
    broken = 0
    for seed in range(6):
        drifted = _drifted(problem, seed, 0.4)
        assert _limits_broken(most, drifted) == []
        broken += bool(_limits_broken(nominal, drifted))
    assert broken == 6
    assert most.obj is not None
    assert nominal.obj is not None
    assert most.obj < nominal.obj


def _limits_broken(plan: FleetPlan, problem: FleetProblem) -> list[str]:
    """The limits that are violated if the shares stay as they are; (2) changes with the load."""
    return [line for line in plan.violations(problem) if not line.startswith(("(2)", "bound"))]


def test_small_changes_of_load_move_no_model(problem: FleetProblem, nominal: FleetPlan) -> None:
    moved_free = 0.0
    for seed in range(4):
        drifted = _drifted(problem, seed, 0.03)
        costly = robust.replan(drifted, nominal, 0.02, FULL)
        costly.plan.verify(drifted)
        assert costly.loaded_mb == 0.0
        assert costly.plan.obj >= 0.999 * robust.replan(drifted, nominal, 0.0, FULL).plan.obj
        moved_free += robust.loaded_mb(drifted, nominal, solve(drifted, "price"))
    assert moved_free > 0


def test_the_price_of_loading_trades_accuracy_for_quiet(
    problem: FleetProblem, nominal: FleetPlan
) -> None:
    """The load has drifted: the net value is within its bound, and higher costs load less."""
    drifted = problem.with_load(problem.load[::-1].copy())
    stay = robust.follow(drifted, nominal)
    stay.verify(drifted)
    steps = [robust.replan(drifted, nominal, cost, FULL) for cost in (0.0, 0.05, 0.3, 100.0)]
    for step in steps:
        assert step.net <= step.net_bound + 1e-9
        assert step.net >= stay.obj - 1e-6
    loaded = [step.loaded_mb for step in steps]
    accuracy = [step.plan.obj for step in steps]
    assert loaded == sorted(loaded, reverse=True)
    assert accuracy == sorted(accuracy, reverse=True)
    assert loaded[0] > 0.0 == loaded[-1]
    assert accuracy[0] == pytest.approx(solve(drifted, "price").obj, rel=2e-3)


def test_following_a_load_keeps_the_models(problem: FleetProblem, nominal: FleetPlan) -> None:
    drifted = _drifted(problem, 1, 0.3)
    kept = robust.follow(drifted, nominal)
    assert (kept.z_c, kept.z_e) == (nominal.z_c, nominal.z_e)
    assert robust.loaded_mb(drifted, nominal, kept) == 0.0
    assert NONE == -1  # the value in the JSON format


def test_what_cannot_be_is_said(problem: FleetProblem, nominal: FleetPlan) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(PlanError, match=r"spread: must be from 0 to 1, got 1.5"):
        robust.hedge(problem, 1.5, 4, rng, FULL)
    with pytest.raises(PlanError, match=r"samples: must be >= 1, got 0"):
        robust.hedge(problem, 0.5, 0, rng, FULL)
    with pytest.raises(PlanError, match=r"switching cost: must be a finite number >= 0, got -1"):
        robust.replan(problem, nominal, -1, FULL)
    with pytest.raises(PlanError, match=r"x_c: the previous plan is of a fleet with other nodes"):
        robust.replan(problem, msgspec.structs.replace(nominal, x_c=()), 0.1, FULL)

"""Each constraint of the paper: a plan that violates it gets an error with its number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from edged.errors import PlanError
from edged.planner.fleet.methods import solve
from edged.planner.fleet.plan import FleetPlan, PlanStatus
from edged.planner.fleet.problem import FleetProblem, Mode
from tests.planner.fleet.helpers import family


@pytest.fixture(scope="module")
def problem() -> FleetProblem:
    return family("hard", 1, clients=9, tasks=3)


@pytest.fixture(scope="module")
def plan(problem: FleetProblem) -> FleetPlan:
    return solve(problem, "price")


def _set(rows: Any, row: int, column: int, value: Any) -> Any:
    changed = [list(r) for r in rows]
    changed[row][column] = value
    return tuple(map(tuple, changed))


def _broken(plan: FleetPlan, **fields: Any) -> FleetPlan:
    return msgspec.structs.replace(plan, **fields)


def _unused_model(p: FleetProblem, plan: FleetPlan) -> FleetPlan:
    model = plan.x_c[0][0]
    return _broken(plan, x_c=(tuple(m for m in plan.x_c[0] if m != model), *plan.x_c[1:]))


BREAKS: dict[str, tuple[str, Callable[[FleetProblem, FleetPlan], FleetPlan]]] = {
    "a model that serves is not onloaded": ("(1a) client 0", _unused_model),
    "an edge model that serves is not onloaded": (
        "(1b) edge",
        lambda p, plan: _broken(plan, x_e=((),) * p.n_edges),
    ),
    "a model lacks the task": (
        "(1a) client 0, task 0: model 1 lacks",
        lambda p, plan: _broken(plan, z_c=_set(plan.z_c, 0, 0, 1)),
    ),
    "local share without a model": (
        "is served locally without a model",
        lambda p, plan: _broken(plan, z_c=((-1,) * p.n_tasks,) * p.n_clients),
    ),
    "edge share without a model": (
        "is served at the edge without a model",
        lambda p, plan: _broken(plan, z_e=((-1,) * p.n_tasks,) * p.n_edges),
    ),
    "memory of a client": (
        "(8a) client 0: 300 MB",
        lambda p, plan: (
            _broken(plan, x_c=(tuple(range(p.n_models)), *plan.x_c[1:])[:9])
            if p.n_models == 15
            else _broken(plan, x_c=((0, 1, 2, 3, 4, 5), *plan.x_c[1:]))
        ),
    ),
    "memory of an edge": (
        "(8b) edge 0",
        lambda p, plan: _broken(plan, x_e=(tuple(range(p.n_models)), *plan.x_e[1:])),
    ),
    "more in the cloud than offloaded": (
        "(13c) client 0, task 0",
        lambda p, plan: _broken(plan, o=_set(plan.o, 0, 0, 0.0), oce=_set(plan.oce, 0, 0, 0.5)),
    ),
    "not a share": ("(13f)", lambda p, plan: _broken(plan, o=_set(plan.o, 0, 0, 1.5))),
    "more than all": (
        "(13f)",
        lambda p, plan: _broken(plan, o=_set(plan.o, 0, 0, 0.8), r=_set(plan.r, 0, 0, 0.8)),
    ),
    "an objective that the flows do not make": (
        "(2): obj is 0.99",
        lambda p, plan: _broken(plan, obj=0.99, bound=None),
    ),
    "a bound below the plan": (
        "bound 0.1 is below",
        lambda p, plan: _broken(plan, bound=0.1),
    ),
    "rows missing": ("z_c: 8 rows", lambda p, plan: _broken(plan, z_c=plan.z_c[1:])),
    "entries missing": (
        "o[0]: 2 entries",
        lambda p, plan: _broken(plan, o=(plan.o[0][1:], *plan.o[1:])),
    ),
    "an index out of range": (
        "z_e[0]: an index is out of range",
        lambda p, plan: _broken(plan, z_e=_set(plan.z_e, 0, 0, 99)),
    ),
}


def test_a_good_plan_passes(problem: FleetProblem, plan: FleetPlan) -> None:
    plan.verify(problem)
    assert plan.violations(problem) == ()


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_plan_is_told_which_constraint(
    name: str, problem: FleetProblem, plan: FleetPlan
) -> None:
    message, broken = BREAKS[name]
    if name == "memory of a client":
        message = "(8a) client 0: 120 MB"
    found = broken(problem, plan).violations(problem)
    assert any(message in line for line in found), found
    with pytest.raises(PlanError, match=r"^the plan violates ") as error:
        broken(problem, plan).verify(problem)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "equation"),
    [
        ("client_gflops", "(9) client"),
        ("edge_gflops", "(10) edge"),
        ("uplink_mb_s", "(11) edge"),
        ("cloud_mb_s", "(12) cloud link"),
    ],
)
def test_a_limit_that_shrank_is_violated(
    field: str, equation: str, problem: FleetProblem, plan: FleetPlan
) -> None:
    less = replace(problem, **{field: getattr(problem, field) * 0.2})
    found = plan.violations(less)
    assert found
    assert all(line.startswith(equation) for line in found), found


def test_the_batching_row_counts_setup_times() -> None:
    problem = family("hard", 1, clients=9, tasks=3, batching=True)
    plan = solve(problem, "price")
    plan.verify(problem)
    assert problem.setup_s is not None
    slower = replace(problem, setup_s=problem.setup_s * 10)
    assert any(line.startswith("(28) edge") for line in plan.violations(slower))


@pytest.mark.parametrize("mode", [Mode.NULL, Mode.STRICT])
def test_dropping_is_a_matter_of_the_mode(
    mode: Mode, problem: FleetProblem, plan: FleetPlan
) -> None:
    assert np.array(plan.r).max() > 0.01  # mode drop made a difference
    assert any(
        f"is dropped, mode {mode.value} forbids it" in line
        for line in plan.violations(replace(problem, mode=mode))
    )


def test_an_infeasible_plan_must_say_why() -> None:
    problem = family("hard", 1, clients=3)
    assert (
        FleetPlan(method="milp", status=PlanStatus.INFEASIBLE, culprits=("(9)",)).violations(
            problem
        )
        == ()
    )
    assert FleetPlan(method="milp", status=PlanStatus.INFEASIBLE).violations(problem) != ()

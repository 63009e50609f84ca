"""The exact method against brute force and the format's examples; what makes P1 infeasible."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edged.errors import DeadlineExceeded
from edged.planner.fleet.methods import MethodOptions, solve
from edged.planner.fleet.plan import PlanStatus
from edged.planner.fleet.problem import FleetProblem, Mode
from tests.planner.fleet.helpers import brute_force, example, family, tiny

TOLERANCE = 2e-6  # twice the MILP's relative gap


@pytest.mark.slow
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("equal_work", [True, False])
@pytest.mark.parametrize("batching", [False, True])
def test_milp_equals_brute_force(mode: Mode, equal_work: bool, batching: bool) -> None:
    """Eight instances of one edge and one of two for each of twelve kinds: 108 in all."""
    feasible = 0
    for seed in range(9):
        edges = 2 if seed == 8 else 1
        problem = tiny(seed, mode, equal_work=equal_work, batching=batching, edges=edges)
        plan = solve(problem, "milp")
        optimum = brute_force(problem)
        if optimum is None:
            assert plan.status is PlanStatus.INFEASIBLE, seed
            continue
        feasible += 1
        assert plan.obj == pytest.approx(optimum, rel=TOLERANCE), seed
        assert plan.status is PlanStatus.OPTIMAL
        plan.verify(problem)
    assert feasible >= (1 if mode is Mode.STRICT else 9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["j3o_city_0", "j3o_hard_0", "j3o_hardhet_0", "baj3o_hard_0"])
def test_milp_reaches_the_optima_of_the_format(name: str) -> None:
    problem, expected = example(name)
    plan = solve(problem, "milp")
    assert plan.obj == pytest.approx(expected["milp"], rel=TOLERANCE)
    plan.verify(problem)


@pytest.mark.parametrize("method", ["milp", "price", "j3o"])
def test_an_infeasible_instance_names_the_family_to_blame(method: str) -> None:
    problem, _ = example("j3o_strict_0")
    plan = solve(problem, method)
    assert plan.status is PlanStatus.INFEASIBLE
    assert plan.culprits == ("(9) compute of clients",)
    assert plan.obj is None
    assert plan.x_c == ()
    relaxed = replace(problem, client_gflops=problem.client_gflops * 100)
    assert solve(relaxed, "milp").status is PlanStatus.OPTIMAL


NONE_OF_IT = 1e-3
PLENTY = 1e6
MEMORY = "(8a) memory of clients"
CLOUD = "(12) link to the cloud"


@pytest.mark.parametrize(
    ("scarce", "blamed"),
    [
        (("uplink_mb_s", "client_gflops"), ("(9) compute of clients", "(11) uplinks to edges")),
        (("uplink_mb_s", "client_mb"), (MEMORY, "(11) uplinks to edges")),
        (("client_mb", "cloud_mb_s", "edge_mb"), (MEMORY, "(8b) memory of edges", CLOUD)),
        (("client_mb", "cloud_mb_s", "edge_gflops"), (MEMORY, "(10) compute of edges", CLOUD)),
        (
            ("client_mb", "client_gflops", "cloud_mb_s", "uplink_mb_s", "edge_mb"),
            ("(8a) memory of clients with (9) compute of clients",),
        ),
    ],
)
def test_every_limit_that_would_do_is_blamed(
    scarce: tuple[str, ...], blamed: tuple[str, ...]
) -> None:
    assert solve(_all_plenty_but(scarce), "milp").culprits == blamed


def test_the_batching_window_is_blamed() -> None:
    problem = replace(
        _all_plenty_but(("client_mb", "cloud_mb_s")), setup_s=np.full(3, 1.0), window_s=0.5
    )
    blamed = (MEMORY, "(28) batching window of edges", CLOUD)
    assert solve(problem, "milp").culprits == blamed


def _all_plenty_but(scarce: tuple[str, ...]) -> FleetProblem:
    limits = {
        "client_mb": 2, "client_gflops": 2, "edge_mb": 1, "edge_gflops": 1, "uplink_mb_s": 1
    }  # fmt: skip
    base = family("hard", 1, clients=2, edges=1, tasks=2, mode=Mode.STRICT, load=20.0)
    assert solve(_set(base, limits, ()), "milp").status is PlanStatus.OPTIMAL
    return _set(base, limits, scarce)


def _set(base: FleetProblem, limits: dict[str, int], scarce: tuple[str, ...]) -> FleetProblem:
    values = {
        name: np.full(size, NONE_OF_IT if name in scarce else PLENTY)
        for name, size in limits.items()
    }
    return replace(base, **values, cloud_mb_s=NONE_OF_IT if "cloud_mb_s" in scarce else PLENTY)


def test_a_time_limit_that_leaves_no_plan_says_so() -> None:
    with pytest.raises(DeadlineExceeded, match=r"milp found no plan in 0.0 s"):
        solve(family("hard", 2), "milp", MethodOptions(time_limit_s=0.0))

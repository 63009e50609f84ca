"""The default method: near the optimum, never above it, and a bound that holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edged.errors import Unsupported
from edged.planner.fleet import price
from edged.planner.fleet.generate import FAMILIES
from edged.planner.fleet.methods import METHODS, MethodOptions, solve
from edged.planner.fleet.plan import PlanStatus
from edged.planner.fleet.price import EFFORTS, search
from edged.planner.fleet.problem import Mode
from tests.planner.fleet.helpers import example, family, tiny

KINDS = {
    "taskonomy": {"clients": 15},
    "domainnet": {"clients": 15},
    "cityscape": {},
    "hard": {"clients": 15, "tasks": 4},
    "hardhet": {"tasks": 4},
    "hard, batching": {"clients": 12, "tasks": 4, "batching": True},
    "hardhet, batching": {"clients": 12, "tasks": 4, "batching": True},
    "hard, null": {"clients": 12, "tasks": 3, "mode": Mode.NULL},
    "hardhet, null": {"clients": 12, "tasks": 3, "mode": Mode.NULL},
    "hard, strict": {
        "clients": 12,
        "tasks": 3,
        "mode": Mode.STRICT,
        "load": 300.0,
        "chi_cloud": 0.3,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_price_is_near_the_optimum_and_its_bound_holds(kind: str) -> None:
    """The 20-seed sweeps at full size are `python -m tools.bench planners-fleet`."""
    ratios = {effort: [] for effort in EFFORTS}
    for seed in range(2):
        problem = family(kind.partition(",")[0], seed, **KINDS[kind])
        optimum = solve(problem, "milp").obj
        if optimum is None:  # mode strict
            assert solve(problem, "price").status is PlanStatus.INFEASIBLE
            continue
        for effort, found in ratios.items():
            plan = solve(problem, "price", MethodOptions(effort=effort))
            plan.verify(problem)
            assert plan.obj <= optimum * (1 + 2e-6)
            assert plan.bound >= optimum * (1 - 2e-6)
            assert plan.gap == pytest.approx((plan.bound - plan.obj) / plan.bound)
            found.append(plan.obj / optimum)
    assert min(ratios["full"]) >= 0.98
    assert np.mean(ratios["full"]) >= 0.995
    assert np.mean(ratios["quick"]) >= (0.97 if "," in kind else 0.99)


@pytest.mark.slow
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("batching", [False, True])
def test_value_and_bound_enclose_the_optimum_of_tiny_instances(mode: Mode, batching: bool) -> None:
    for seed in range(8):
        problem = tiny(seed, mode, equal_work=bool(seed % 2), batching=batching, edges=1 + seed % 2)
        exact, plan = solve(problem, "milp"), solve(problem, "price")
        plan.verify(problem)
        if exact.obj is None:
            assert plan.status is PlanStatus.INFEASIBLE
            assert plan.culprits == exact.culprits
            continue
        assert plan.obj <= exact.obj + 2e-6
        assert plan.bound >= exact.obj - 2e-6


@pytest.mark.parametrize("name", ["j3o_city_0", "j3o_hard_0", "j3o_hardhet_0", "baj3o_hard_0"])
def test_the_examples_of_the_format(name: str) -> None:
    problem, expected = example(name)
    assert solve(problem, "price").obj >= 0.998 * expected["milp"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_feasible_and_deterministic(method: str) -> None:
    problem = family("hardhet", 5, clients=8, tasks=3, batching=True)
    first, second = (
        solve(problem, method, MethodOptions(rng=np.random.default_rng(7))) for _ in range(2)
    )
    assert first == second
    first.verify(problem)
    assert first.method == method
    assert first.iterations >= 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", [Mode.DROP, Mode.NULL])
def test_tables_that_are_not_complete_still_bound(mode: Mode) -> None:
    """Nine tasks are too many for partitions, so the tables come from a beam search.

    The bound comes from nodes that are better than any real node.
    """
    problem = family("hard", 0, clients=4, tasks=9, edges=2, mode=mode)
    plan, exact = solve(problem, "price"), solve(problem, "milp")
    plan.verify(problem)
    assert plan.bound is not None
    assert plan.obj is not None
    assert exact.obj is not None
    assert plan.bound >= exact.obj
    assert plan.obj >= 0.95 * exact.obj


def test_tables_too_large_to_price_all_still_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounds price the promising rows; the polish prices all, or none above a second limit."""
    problem = family("hard", 0, clients=9, tasks=4)
    optimum = solve(problem, "milp").obj
    assert optimum is not None
    for too_many, far_too_many in ((1, 10**9), (1, 1)):
        monkeypatch.setattr(price, "ROUND_CELLS_MAX", too_many)
        monkeypatch.setattr(price, "BOUND_CELLS_MAX", far_too_many)
        monkeypatch.setattr(price, "FIRST_EDGE_ROWS", 4)
        found = price.search([problem], EFFORTS["full"])
        assert found.bound >= optimum * (1 - 2e-6)
        assert found.objective >= 0.98 * optimum


def test_the_gap_is_small_with_many_clients() -> None:
    """At most as many clients as there are shared rows are split between two sets of models."""
    plan = solve(family("hard", 1, clients=90, edges=3, load=6000.0), "price")
    assert plan.gap is not None
    assert plan.gap < 0.003


@pytest.mark.parametrize(("name", "seed"), [("cityscape", 2), ("hard", 2), ("hardhet", 1)])
def test_a_quick_search_ends_when_its_plan_is_proven_close_enough(name: str, seed: int) -> None:
    """The size of fleet and load at which `python -m tools.bench` compares times with the MILP."""
    quick, own = EFFORTS["quick"], FAMILIES[name]
    load = own.load * 150 / own.clients
    problem = family(name, seed, clients=150, edges=6, load=load)
    found = search([problem], quick)
    assert 0 < (found.bound - found.objective) / found.bound <= quick.close_enough
    on = search([problem], replace(quick, close_enough=0.0))
    assert on.solves > found.solves
    assert on.objective <= found.bound
    assert found.objective <= on.bound


def test_scenarios_share_their_models() -> None:
    problem = family("hard", 2, clients=8, tasks=3)
    scenarios = [problem, problem.with_load(problem.load[::-1].copy())]
    found = search(scenarios, EFFORTS["full"])
    assert len(found.flows) == 2
    mean = np.mean([flow.value for flow in found.flows])
    assert found.objective == pytest.approx(mean)
    assert found.objective <= found.bound
    alone = [search([s], EFFORTS["full"]) for s in scenarios]
    assert found.objective <= np.mean([a.bound for a in alone]) + 1e-9


def test_without_highs_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "highspy", None)
    with pytest.raises(Unsupported, match=r"pip install 'edged\[plan\]'"):
        solve(family("hard", 0, clients=3), "price")


def test_loads_of_many_orders_of_magnitude_are_solved() -> None:
    """HiGHS's dual simplex gives up on this instance, from the last basis and from scratch."""
    problem = family("domainnet", 13)
    plan = solve(problem, "price", MethodOptions(effort="quick"))
    plan.verify(problem)
    assert plan.obj >= 0.98 * plan.bound

"""`exact` against enumeration of every sequence of batches, and against the format's examples."""

from __future__ import annotations

import msgspec
import pytest

from edged.errors import PlanError
from edged.planner.loading.methods import METHODS, solve
from edged.planner.loading.plan import Method
from edged.planner.loading.problem import FamilyName, LoadingProblem
from tests.planner.loading.helpers import brute_force, example, paper_size, small

# Names in the `expected` of an example -> the method that must give that value exactly.
HARD = {"exact": "exact", "dp_exact": "dp"}
# These follow from the method and its tie rules, which are those of the examples.
SOFT = {
    "dp_slot": "dp-slotted", "dp_paper": "dp-paper", "greedy": "greedy",
    "greedy_cont": "greedy-continuous", "gen_plus": "greedy-plus", "indep": "independent",
}  # fmt: skip


@pytest.mark.parametrize("family", ["small-bls", "small-general"])
def test_exact_is_the_best_of_all_schedules(family: FamilyName) -> None:
    partial = 0
    for seed in range(70):
        setting = {"users": 3 + seed % 4, "models": 2 + seed % 3, "deadline_ms": 30.0 + seed}
        problem = small(family, seed, **setting)
        served, makespan_ms = brute_force(problem)
        plan = solve(problem, "exact")
        assert plan.served == served, seed
        assert plan.makespan_ms == pytest.approx(makespan_ms, rel=1e-9), seed
        plan.verify(problem)
        partial += 0 < served < len(problem.users)
    assert partial >= 20  # not merely nobody or everybody


@pytest.mark.parametrize("name", ["pl_bls_000", "pl_bls_070", "pl_gen_000", "pl_paper_bls_0"])
def test_the_examples_come_out(name: str) -> None:
    problem, expected = example(name)
    for key, method in (HARD | SOFT).items():
        if key in expected:
            plan = solve(problem, method)
            plan.verify(problem)
            assert plan.served == expected[key], method
    if "makespan_exact_ms" in expected:
        plan = solve(problem, "exact")
        assert plan.makespan_ms == pytest.approx(expected["makespan_exact_ms"], rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_to_every_equation(method: Method) -> None:
    for seed in range(12):
        for problem in (small("small-bls", seed), paper_size("bls", seed, deadline_ms=300.0)):
            if method == "exact" and len(problem.models) > 10:
                continue
            plan = solve(problem, method)
            plan.verify(problem)
            assert plan.method == method
            assert plan.bound is not None
            assert plan.bound >= solve(problem, "dp").served


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("without", ["users", "users and models", "time"])
def test_nothing_to_serve_is_an_empty_plan(method: Method, without: str) -> None:
    changes: dict[str, dict[str, object]] = {
        "users": {"users": ()},
        "users and models": {"users": (), "models": (), "block_bytes": ()},
        "time": {"deadline_ms": 0.0},
    }
    problem = msgspec.structs.replace(small("small-bls", 1), **changes[without])
    plan = solve(problem, method)
    plan.verify(problem)
    assert (plan.served, plan.makespan_ms, plan.batches, plan.bound) == (0, 0.0, (), 0)


def test_exact_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(PlanError, match=r"method exact: .* states are too many .* greedy-plus"):
        solve(paper_size("general", 0), "exact")


def test_an_unknown_method_is_told_the_known_ones() -> None:
    with pytest.raises(PlanError, match=r"method: must be one of exact, dp, .*, got 'best'"):
        solve(small("small-bls", 0), "best")


def test_the_default_method_follows_the_structure() -> None:
    nested: LoadingProblem = small("small-bls", 0)
    assert solve(nested).method == "dp"
    assert solve(small("small-general", 0)).method == "greedy-plus"

"""J3O to the letter, its flaws as the paper has them, and the other alternating methods."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from edged.planner.fleet import alternate, nodes
from edged.planner.fleet.assignment import NONE, Assignment, Flows, edge_sums
from edged.planner.fleet.methods import MethodOptions, solve
from edged.planner.fleet.offloading import OffloadingLp
from edged.planner.fleet.problem import Array, FleetProblem, Mode
from tests.planner.fleet.helpers import example, family


@pytest.mark.parametrize("seed", range(3))
def test_the_objective_never_falls(seed: int) -> None:
    values = alternate.alternate(family("taskonomy", seed), alternate.literal_step).values
    assert len(values) >= 2
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(values))


def _tier(load: float) -> nodes.Tier:
    """One node with room for one of two models, each for a task; the second is far better."""
    accuracy = np.array([[0.2, 0.0], [0.0, 0.9]])
    rate = np.array([load, load])
    return nodes.Tier(
        reward=(accuracy * rate / 10)[None],
        use=((accuracy > 0) * rate / 5.0)[None],
        supported=(accuracy > 0)[None],
        model_mb=np.array([20.0, 20.0]),
        memory_mb=np.array([25.0]),
    )


def test_a_node_within_its_compute_takes_the_best_model() -> None:
    z, path = nodes.greedy_lr(_tier(load=4.0))
    assert z.tolist() == [[NONE, 1]]
    assert len(path) == 1


def test_an_overloaded_node_ends_with_model_0() -> None:
    """A flaw: the multiplier rises until every gain is 0, and the tie loads the first model."""
    tier = _tier(load=40.0)
    last, path = nodes.greedy_lr(tier)
    assert last.tolist() == [[0, NONE]]
    assert path[0].tolist() == [[NONE, 1]]
    fixed = alternate.fixed_step(tier, None, np.full((1, 2), NONE))
    assert fixed.tolist() == [[NONE, 1]]
    assert nodes.earned(tier, fixed)[0] > nodes.earned(tier, last)[0]


def test_the_greedy_set_stops_at_the_first_that_does_not_fit() -> None:
    """A flaw: models are taken by gain per MB, and a smaller model is not tried next."""
    tier = replace(_tier(4.0), model_mb=np.array([20.0, 30.0]))
    assert not nodes.greedy(tier, np.zeros(1)).any()


def test_greedy_ao_holds_nothing_that_asks_for_too_much_compute() -> None:
    for load, expected in ((4.0, [[NONE, 1]]), (40.0, [[NONE, NONE]])):
        last = np.full((1, 2), NONE)
        assert alternate.greedy_step(_tier(load), None, last).tolist() == expected


def test_mending_the_trap_helps() -> None:
    problems = [family("hard", seed, clients=15) for seed in range(4)]
    literal, fixed, best = (
        np.mean([solve(p, method).obj for p in problems])
        for method in ("j3o", "j3o-fixed", "price")
    )
    assert literal < fixed < best


@pytest.mark.parametrize("name", ["j3o_city_0", "j3o_hard_0", "j3o_hardhet_0"])
def test_full_local_is_as_expected(name: str) -> None:
    problem, expected = example(name)
    plan = solve(problem, "full-local")
    assert plan.obj == pytest.approx(expected["full_local"], rel=1e-9)
    assert np.array(plan.o).max() == 0
    assert set(plan.x_e) == {()}


def test_opt_ao_holds_the_best_set_of_each_node() -> None:
    """Its first round beats the greedy sets at the same fixed offloading, node by node."""
    problem = family("hardhet", 1)
    rates = alternate.first_rates(problem)
    tier = nodes.client_tier(problem, rates.o)
    rows = alternate.tables(problem).clients
    last = np.full(problem.load.shape, NONE)
    best = nodes.earned(tier, alternate.best_step(tier, rows, last))
    for other in (alternate.greedy_step, alternate.literal_step, alternate.fixed_step):
        assert (best >= nodes.earned(tier, other(tier, rows, last)) - 1e-12).all()


def test_random_sets_follow_the_generator() -> None:
    problem = family("hard", 0)
    first, same, other = (
        solve(problem, "rand-ao", MethodOptions(rng=np.random.default_rng(seed))).obj
        for seed in (1, 1, 2)
    )
    assert first == same != other


def test_first_rates_fill_the_uplinks() -> None:
    problem = family("hard", 0, chi_edge=0.4)
    rates = alternate.first_rates(problem)
    assert rates.o == pytest.approx(np.full(problem.load.shape, 0.4))
    assert not rates.oce.any()
    generous = replace(problem, uplink_mb_s=problem.uplink_mb_s * 10)
    assert alternate.first_rates(generous).o.max() == 1.0


def test_the_surrogate_does_not_imply_the_batching_row() -> None:
    """A flaw: flows that row (29) allows can break (28); active sets mend that."""
    problem = family("hard", 3, clients=12, tasks=4, batching=True)
    lp = OffloadingLp(problem)
    z = solve(problem, "baj3o").assignment()
    full = Assignment(z.client, np.argmax(problem.edge_accuracy, axis=1))
    rates = alternate.first_rates(problem)
    for _ in range(4):
        flows = lp.solve(full, alternate.surrogate_at(problem, rates))
        rates = alternate.Rates(flows.offloaded, flows.cloud)
    assert (_window_used(problem, full, flows) > 1.0005).any()
    mended_z, mended = alternate.best_active_sets(lp, full, flows)
    assert (_window_used(problem, mended_z, mended) <= 1 + 1e-6).all()


def _window_used(problem: FleetProblem, z: Assignment, flows: Flows) -> Array:
    """The left side of (28) over T_b, (E,), for models that all support all of their tasks."""
    assert problem.setup_s is not None
    rate = edge_sums(problem, problem.load * flows.edge)
    setup = np.where(rate > 1e-6, problem.setup_s[z.edge], 0.0).sum(axis=1) / problem.window_s
    return setup + (problem.work[z.edge] * rate).sum(axis=1) / problem.edge_gflops


def test_the_best_active_sets_are_at_least_as_good_as_any_one_edge_change() -> None:
    problem = family("hard", 2, clients=9, tasks=3, batching=True)
    plan = solve(problem, "baj3o")
    z = plan.assignment()
    lp = OffloadingLp(problem)
    for edge in range(problem.n_edges):
        for task in np.flatnonzero(z.edge[edge] != NONE):
            fewer = z.edge.copy()
            fewer[edge, task] = NONE
            assert lp.solve(Assignment(z.client, fewer)).value <= plan.obj + 1e-9


@pytest.mark.parametrize("method", ["j3o", "j3o-fixed", "greedy-ao", "opt-ao", "full-local"])
def test_in_mode_null_what_has_a_model_is_served(method: str) -> None:
    problem = family("hard", 1, clients=9, tasks=3, mode=Mode.NULL)
    plan = solve(problem, method)
    plan.verify(problem)
    exact = solve(problem, "milp")
    assert plan.obj is not None
    assert exact.obj is not None
    assert plan.obj <= exact.obj + 2e-6

"""Fleets planned edge by edge: the plan is the same wherever the parts are solved."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edged.errors import Unsupported
from edged.planner.fleet import workers
from edged.planner.fleet.decompose import MANY_EDGES, search_by_edges, split
from edged.planner.fleet.methods import MethodOptions, solve
from edged.planner.fleet.outcome import plan_of
from edged.planner.fleet.price import EFFORTS, search
from edged.planner.fleet.problem import FleetProblem, Mode
from tests.planner.fleet.helpers import family

QUICK = EFFORTS["quick"]


def _fleet(edges: int = MANY_EDGES + 1, **scenario: Any) -> FleetProblem:
    clients = 4 * edges
    return family("hard", 3, clients=clients, edges=edges, tasks=3, load=66.0 * clients, **scenario)


def backwards(function: Callable[[Any], Any], jobs: Sequence[Any]) -> list[Any]:
    """A map that does the last job first, as other processes might."""
    done = {number: function(jobs[number]) for number in reversed(range(len(jobs)))}
    return [done[number] for number in range(len(jobs))]


def test_where_the_parts_are_solved_makes_no_difference() -> None:
    problem = _fleet()
    plan = solve(problem, "price", MethodOptions(effort="quick"))
    assert plan == solve(problem, "price", MethodOptions(effort="quick", run=backwards))
    plan.verify(problem)
    assert plan.obj is not None
    assert plan.bound is not None
    assert plan.obj >= 0.98 * plan.bound


def test_apart_is_about_as_good_as_together() -> None:
    """Both bounds hold for both plans."""
    problem = _fleet(edges=5)
    apart, together = search_by_edges(problem, QUICK), search([problem], QUICK)
    assert apart.objective >= 0.99 * together.objective
    assert apart.bound >= together.objective
    assert together.bound >= apart.objective


@pytest.mark.parametrize("share", [0.0, 0.05, 2.0])
def test_scarce_and_ample_cloud_links(share: float) -> None:
    problem = _fleet(edges=4)
    problem = replace(problem, cloud_mb_s=problem.cloud_mb_s * share)
    found = search_by_edges(problem, QUICK)
    plan_of(problem, "price", found.z, found.flows[0], bound=found.bound).verify(problem)
    assert found.objective >= 0.97 * found.bound


def test_parts_keep_what_is_theirs_and_idle_edges_have_none() -> None:
    problem = _fleet(edges=3)
    load = problem.load.copy()
    load[problem.edge_of == 1] = 0.0
    problem = problem.with_load(load)
    parts = split(problem)
    assert [part.problem.n_clients for part in parts] == [4, 4]
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    assert np.array_equal(parts[1].problem.edge_accuracy[0], problem.edge_accuracy[2])
    found = search_by_edges(problem, QUICK)
    plan = plan_of(problem, "price", found.z, found.flows[0], bound=found.bound)
    assert plan.x_e[1] == ()
    plan.verify(problem)


@pytest.mark.parametrize("mode", [Mode.NULL, Mode.STRICT])
def test_other_modes(mode: Mode) -> None:
    problem = _fleet(mode=mode, client_compute=8.0, chi_edge=0.6)
    plan = solve(problem, "price", MethodOptions(effort="quick"))
    plan.verify(problem)
    assert plan.obj is not None


def test_workers_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with workers.workers("auto") as run:
        assert list(run(abs, [-1, 2])) == [1, 2]
    with pytest.raises(Unsupported, match="Ray is not installed"), workers.workers("ray"):
        pass


ON_RAY = """
from edged.planner.fleet.methods import MethodOptions, solve
from edged.planner.fleet.workers import workers
from tests.planner.fleet.test_decompose import _fleet
problem = _fleet()
plans = []
for place in ("one", "ray"):
    with workers(place) as run:
        plans.append(solve(problem, "price", MethodOptions(effort="quick", run=run)))
assert plans[0] == plans[1]
print("the same plan")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_gives_the_same_plan() -> None:
    """Ray leaves threads and warnings behind, so it runs in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", ON_RAY], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.stdout.strip().endswith("the same plan"), done.stderr

"""The offloading LP that is kept, and the prices of ideal nodes."""

from __future__ import annotations

import numpy as np
import pytest

from edged.planner.fleet.assignment import Assignment
from edged.planner.fleet.ideal import ideal_prices, pooled
from edged.planner.fleet.offloading import PENALTY, OffloadingLp, Surrogate
from edged.planner.fleet.oracle import worth
from edged.planner.fleet.problem import Mode
from edged.planner.fleet.rows import envelope, tables
from tests.planner.fleet.helpers import family


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("batching", [False, True])
def test_what_was_solved_before_does_not_matter(mode: Mode, batching: bool) -> None:
    """Only changes are passed to the solver: costs, bounds, coefficients, compute after setup."""
    problem = family("hardhet", 2, clients=9, tasks=3, mode=mode, batching=batching)
    rows = tables(problem)
    rng = np.random.default_rng(0)
    kept = OffloadingLp(problem)
    shape = (problem.n_edges, problem.n_tasks)
    values = []
    for step in range(8):
        z = Assignment(
            rows.clients.pick(rng.integers(rows.clients.count)),
            rows.edges.pick(rng.integers(rows.edges.count)),
        )
        surrogate = None
        if batching and step % 3 == 1:
            surrogate = Surrogate(rng.random(shape) / 100, rng.random(shape) / 10)
        objectives = [
            flows.value - PENALTY * (problem.weight * flows.unserved).sum()
            for flows in (lp.solve(z, surrogate) for lp in (kept, OffloadingLp(problem)))
        ]
        assert objectives[0] == pytest.approx(objectives[1], abs=1e-6)
        values.append(objectives[0])
    assert np.ptp(values) > 1e-3


@pytest.mark.parametrize("name", ["taskonomy", "hard"])
def test_a_pooled_fleet_could_do_all_that_the_fleet_could(name: str) -> None:
    problem = family(name, 0)
    one = pooled(problem)
    assert one.n_clients == problem.n_edges
    assert one.load.sum(axis=0) == pytest.approx(problem.load.sum(axis=0))
    fleets = (problem, one)
    apart, as_one = (
        worth([p], envelope(p), [ideal_prices(OffloadingLp(p))]).bound(p.edge_of) for p in fleets
    )
    assert apart <= as_one <= 1.1 * apart

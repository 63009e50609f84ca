"""Pricing part by part gives the result of pricing at once, and padding is never chosen."""

from __future__ import annotations

import numpy as np
import pytest

from edged.planner.fleet import oracle
from edged.planner.fleet.assignment import Prices
from edged.planner.fleet.oracle import Worth, worth
from edged.planner.fleet.problem import FleetProblem, Mode
from edged.planner.fleet.rows import tables
from tests.planner.fleet.helpers import family


def _some_prices(problem: FleetProblem, seed: int) -> Prices:
    rng = np.random.default_rng(seed)
    edges = problem.n_edges
    return Prices(rng.random(edges) / 1000, rng.random(edges) / 10_000, float(rng.random()) / 1000)


def _worth(problem: FleetProblem, scenarios: int = 1) -> Worth:
    loads = [problem.load, problem.load[::-1].copy()][:scenarios]
    each = [problem.with_load(load) for load in loads]
    return worth(each, tables(problem), [_some_prices(problem, n) for n in range(scenarios)])


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("scenarios", [1, 2])
def test_the_size_of_the_parts_does_not_matter(
    mode: Mode, scenarios: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = family("hardhet", 0, clients=9, tasks=3, mode=mode)
    at_once = _worth(problem, scenarios)
    whole = at_once.client
    monkeypatch.setattr(oracle, "BLOCK", 1)
    apart = _worth(problem, scenarios)
    counts = apart.tables.clients.count, apart.tables.edges.count[problem.edge_of]
    assert min(counts[0]) < max(counts[0])
    for client, (rows, columns) in enumerate(zip(*counts, strict=True)):
        mine = whole[client, :rows, :columns]
        assert apart.client[client, :rows, :columns] == pytest.approx(mine, abs=1e-15)
    assert apart.bound(problem.edge_of) == pytest.approx(at_once.bound(problem.edge_of), abs=1e-15)


def test_the_best_rows_and_how_far_a_row_reaches() -> None:
    """Both are compared with their definitions, computed from the whole table."""
    problem = family("hard", 1, clients=9, tasks=4)
    pricing, of = _worth(problem), problem.edge_of
    clients, edges = pricing.tables.clients, pricing.tables.edges
    response, best = pricing.response(of)
    assert (best < edges.count).all()
    assert (response < clients.count).all()
    total = pricing.constant + pricing.edge[np.arange(problem.n_edges), best].sum()
    total += pricing.client[np.arange(problem.n_clients), response, best[of]].sum()
    assert total == pytest.approx(pricing.bound(of))
    reach = pricing.reach(of)
    assert reach.max(axis=1) == pytest.approx(np.full(problem.n_edges, pricing.bound(of)))
    of_clients = pricing.client_reach(of)
    assert of_clients.max(axis=1) == pytest.approx(np.full(problem.n_clients, pricing.bound(of)))
    for rows, found in ((edges, reach), (clients, of_clients)):
        padding = np.arange(rows.z.shape[1]) >= rows.count[:, None]
        assert padding.any()
        assert np.isneginf(found[padding]).all()
        assert np.isfinite(found[~padding]).all()

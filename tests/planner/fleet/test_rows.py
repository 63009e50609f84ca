"""Tables of assignments and what they are worth, against enumeration and linear programs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog

from edged.planner.fleet.assignment import NONE, Assignment, Prices
from edged.planner.fleet.offloading import OffloadingLp
from edged.planner.fleet.oracle import fill, worth
from edged.planner.fleet.problem import FleetProblem, Ints, Mode
from edged.planner.fleet.rows import AssignmentTables, envelope, tables
from tests.planner.fleet.helpers import family, tiny


@pytest.mark.parametrize("name", ["hard", "hardhet"])
@pytest.mark.parametrize("batching", [False, True])
def test_no_assignment_is_worth_more_than_the_tables_best(name: str, batching: bool) -> None:
    """The prices of accuracy, work and setup are random; every z that fits is compared."""
    problem = family(name, 3, clients=2, edges=2, tasks=3, batching=batching)
    rng = np.random.default_rng(0)
    rows = tables(problem).edges
    for edge in range(2):
        every = np.array(list(_all_assignments(problem, edge)))
        assert len(every) > 20 * batching
        for _ in range(30):
            gain, per_work, per_setup = rng.random(3), rng.random(), rng.random()
            best = max(_score(problem, edge, z, gain, per_work, per_setup) for z in every)
            tabled = max(_score(problem, edge, z, gain, per_work, per_setup) for z in rows.z[edge])
            assert tabled == pytest.approx(best, abs=1e-12)


def _all_assignments(p: FleetProblem, edge: int) -> list[tuple[int, ...]]:
    options = [NONE, *range(p.n_models)]
    found = []
    for z in itertools.product(options, repeat=p.n_tasks):
        used = {m for m in z if m != NONE}
        fits = sum(p.edge_model_mb[m] for m in used) <= p.edge_mb[edge]
        if fits and all(m == NONE or p.edge_accuracy[edge, m, t] > 0 for t, m in enumerate(z)):
            found.append(z)
    return found


def _score(
    p: FleetProblem, edge: int, z: np.ndarray, gain: np.ndarray, per_work: float, per_setup: float
) -> float:
    """The value of z. A task idles where that is better; setup times are paid if it runs."""
    total = 0.0
    for task, model in enumerate(z):
        if model == NONE:
            continue
        net = gain[task] * (p.edge_accuracy[edge, model, task] - 0.02 * per_work * p.work[model])
        total += max(net, 0.0)
        total -= per_setup * p.setup_s[model] if p.setup_s is not None else 0.0
    return total


def test_tables_hold_only_what_fits_and_is_supported() -> None:
    problem = family("hardhet", 1, clients=6, mode=Mode.NULL, batching=True)
    found = tables(problem)
    assert found.complete
    for rows, accuracy, size, memory in (
        (
            found.clients,
            problem.client_accuracy[problem.edge_of],
            problem.client_model_mb,
            problem.client_mb,
        ),
        (found.edges, problem.edge_accuracy, problem.edge_model_mb, problem.edge_mb),
    ):
        for node, table in enumerate(rows.z):
            for row in table:
                used = {m for m in row.tolist() if m != NONE}
                assert size[list(used)].sum() <= memory[node] + 1e-9
                assert all(accuracy[node, m, t] > 0 for t, m in enumerate(row) if m != NONE)


def test_models_that_are_held_already_cost_nothing() -> None:
    problem = family("hard", 0, clients=3, edges=1, tasks=3)
    cost = np.full((3, problem.n_models), 0.5)
    cost[0, 2] = 0.0
    rows = tables(problem, cost).clients
    for row, paid in zip(rows.z[0], rows.cost[0], strict=True):
        new = {m for m in row.tolist() if m not in (NONE, 2)}
        assert paid == pytest.approx(0.5 * len(new))


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("batching", [False, True])
def test_the_worth_of_rows_bounds_what_the_lp_makes_of_them(mode: Mode, batching: bool) -> None:
    """Weak duality, for every pair of rows of a tiny fleet, at the LP's prices and at others."""
    rng = np.random.default_rng(1)
    for seed in range(4):
        problem = tiny(seed, mode, equal_work=False, batching=batching)
        found = tables(problem)
        lp = OffloadingLp(problem)
        over = envelope(problem)
        for _ in range(12):
            client = rng.integers(found.clients.z.shape[1], size=2)
            edge = rng.integers(found.edges.z.shape[1], size=1)
            z = _assignment(found, client, edge)
            flows = lp.solve(z)
            if not flows.legal:
                continue
            other = Prices(rng.random(1), rng.random(1) / 100, rng.random())
            for prices in (flows.prices, other):
                priced = worth([problem], found, [prices])
                bound = (
                    priced.constant
                    + priced.edge[0, edge[0]]
                    + priced.client[[0, 1], client, edge[0]].sum()
                )
                assert bound >= flows.value - 1e-9
                assert priced.bound(problem.edge_of) >= bound - 1e-12
                loose = replace(problem, mode=Mode.DROP) if mode is Mode.NULL else problem
                assert worth([loose], over, [prices]).bound(problem.edge_of) >= bound - 1e-9
            if mode is Mode.DROP:  # strong duality: the shared prices alone give the LP's value
                tight = worth([problem], found, [flows.prices])
                value = tight.constant + tight.edge[0, edge[0]]
                value += tight.client[[0, 1], client, edge[0]].sum()
                assert value == pytest.approx(flows.value, abs=1e-6)


def _assignment(found: AssignmentTables, client: Ints, edge: Ints) -> Assignment:
    return Assignment(found.clients.pick(client), found.edges.pick(edge))


def test_fractional_knapsacks() -> None:
    rng = np.random.default_rng(2)
    gain, size = rng.random((4, 50)), rng.random((4, 50))
    limit = rng.random(50) * 2
    for n, found in enumerate(fill(gain, size, limit)):
        lp = linprog(-gain[:, n], A_ub=size[None, :, n], b_ub=limit[n : n + 1], bounds=(0, 1))
        assert found == pytest.approx(-lp.fun)
    assert fill(gain, size, np.zeros(50)).max() == pytest.approx(0.0)

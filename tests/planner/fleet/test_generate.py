"""The generators: the tables of the paper, the losses that ship, an instance for each seed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edged.errors import PlanError
from edged.planner.fleet.generate import FAMILIES, FleetScenario, dirichlet_load, generate
from edged.planner.fleet.problem import to_instance
from edged.planner.fleet.standley import losses
from tests.planner.fleet.helpers import LOSSES, family


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_is_an_instance(name: str) -> None:
    first, same, other = (
        msgspec.json.encode(to_instance(family(name, seed))) for seed in (4, 4, 5)
    )
    assert first == same != other


@pytest.mark.parametrize("name", FAMILIES)
def test_links_are_shares_of_the_traffic(name: str) -> None:
    problem = family(name, 2, chi_edge=0.3, chi_cloud=0.1, load=500.0)
    assert problem.total_load == pytest.approx(500.0)
    traffic = problem.load @ problem.input_mb
    assert problem.cloud_mb_s == pytest.approx(0.1 * traffic.sum())
    for edge in range(problem.n_edges):
        assert problem.uplink_mb_s[edge] == pytest.approx(
            0.3 * traffic[problem.edge_of == edge].sum()
        )


def test_taskonomy_is_table_ii_and_iii() -> None:
    problem = family("taskonomy", 0)
    assert (problem.n_clients, problem.n_edges, problem.n_models) == (30, 3, 31)
    assert problem.total_load == pytest.approx(4000.0)
    assert np.bincount(problem.edge_of).tolist() == [10, 10, 10]
    assert set(problem.work) == {9.17}
    assert set(problem.edge_model_mb) == {73.66}
    assert problem.client_model_mb[0] == pytest.approx(73.66 / 4)
    per_edge = {
        tuple(sorted(zip(problem.client_mb[of], problem.client_gflops[of], strict=True)))
        for of in (problem.clients_of(edge) for edge in range(3))
    }
    classes = [(24.0, 500.0), (24.0, 1000.0), (48.0, 1000.0), (48.0, 2000.0), (96.0, 2000.0)]
    assert per_edge == {tuple(sorted(classes * 2))}
    assert problem.edge_mb.tolist() == [512.0, 512.0, 1024.0]


def test_cityscape_is_table_ii_and_iii() -> None:
    problem = family("cityscape", 0)
    assert problem.models == ("0", "1", "2", "01", "02", "12", "012")
    assert problem.work.tolist() == [1130.0, 1130.0, 730.0, 1840.0, 1440.0, 1440.0, 2160.0]
    assert problem.client_model_mb.tolist() == [800, 800, 840, 880, 910, 910, 990]
    assert problem.edge_model_mb.tolist() == [1100, 1100, 1140, 1180, 1220, 1220, 1300]
    supported = problem.edge_accuracy > 0
    lost = problem.edge_accuracy[supported] - problem.client_accuracy[supported]
    assert lost == pytest.approx(np.full(supported.sum(), 0.03))


def test_domainnet_has_31_models_and_all_single_ones() -> None:
    problem = family("domainnet", 1)
    assert (problem.n_models, problem.n_tasks) == (31, 6)
    assert {"0", "1", "2", "3", "4", "5"} <= set(problem.models)


def test_hard_models_serve_at_most_two_tasks() -> None:
    problem = family("hard", 0, tasks=4)
    assert (problem.edge_accuracy > 0).sum(axis=2).max() == 2
    assert not np.array_equal(problem.edge_accuracy[0], problem.edge_accuracy[1])
    assert np.ptp(problem.work) == 0
    assert problem.setup_s is None
    assert np.ptp(family("hardhet", 0).work) > 0


def test_batching_gives_setup_times() -> None:
    problem = family("hard", 0, tasks=3, batching=True)
    assert problem.setup_s is not None
    assert problem.setup_s.tolist() == pytest.approx([0.06] * 3 + [0.09] * 3)
    assert problem.window_s == 0.5
    assert family("hard", 0).setup_s is None


def test_the_losses_are_those_of_the_paper() -> None:
    """31 networks over five tasks; two cells read from the published table."""
    table = losses()
    assert table.tasks == ("s", "d", "n", "k", "t")
    assert len(table.groups) == 31
    assert table.loss[table.groups.index((0, 1, 2, 3, 4))][4] == 0.04395
    assert table.loss[table.groups.index((1,))][1] == 0.1696
    for setting in (1, 2, 3, 4):
        for split in ("test", "val"):
            assert len(losses(setting, split).groups) == 31
    with pytest.raises(PlanError, match=r"^standley: no setting 5 'test'"):
        losses(5)


def test_dirichlet_loads_concentrate_as_asked() -> None:
    """A large parameter spreads the load evenly, a small one piles it up."""
    even, piled = (
        dirichlet_load(np.random.default_rng(0), 100.0, (50, 4), alpha, alpha)
        for alpha in (1e4, 0.01)
    )
    assert even.max() < 0.6
    assert piled.max() > 20.0
    assert even.sum() == pytest.approx(100.0)
    assert piled.sum() == pytest.approx(100.0)


def test_unknown_families_are_named() -> None:
    with pytest.raises(PlanError, match=r"^family: no 'easy'; there are taskonomy, domainnet,"):
        generate("easy", np.random.default_rng(0), LOSSES, FleetScenario())

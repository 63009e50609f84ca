"""The generators: the same seed gives the same instance, with the constants of the paper."""

from __future__ import annotations

from typing import get_args

import msgspec
import numpy as np
import pytest

from edged.planner.loading.generate import FAMILIES, generate
from edged.planner.loading.problem import FamilyName, check, read
from edged.planner.loading.resnet import layer_bytes
from tests.planner.loading.helpers import example, paper_size


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_is_an_instance(family: FamilyName) -> None:
    assert family in get_args(FamilyName)
    first, again, other = (
        generate(family, FAMILIES[family].setting, np.random.default_rng(seed))
        for seed in (5, 5, 6)
    )
    check(first)
    assert first == again != other
    assert read(msgspec.json.encode(first)) == first  # what is written is read


def test_the_layers_are_those_of_the_example() -> None:
    problem, _ = example("pl_paper_bls_0")
    for model in problem.models:
        depth = int(model.name.partition("-")[0].removeprefix("resnet"))
        assert tuple(problem.block_bytes[j] for j in model.blocks) == layer_bytes(depth)


def test_models_are_as_large_as_pytorch_says() -> None:
    """Parameters and buffers of torchvision's models with ten classes, fp32."""
    megabytes = {depth: round(sum(layer_bytes(depth)) / 1e6, 1) for depth in (18, 34, 50)}
    assert megabytes == {18: 44.8, 34: 85.2, 50: 94.3}


@pytest.mark.parametrize("family", ["bls", "general"])
def test_models_share_what_the_setting_says(family: FamilyName) -> None:
    for sharing in (0.75, 0.95):
        problem = paper_size(family, 1, sharing=sharing, models=60)
        own = [
            sum(j in model.blocks for model in problem.models)
            for j in range(len(problem.block_bytes))
        ]
        parts = [
            sum(own[j] > 1 for j in model.blocks) / len(model.blocks) for model in problem.models
        ]
        assert np.mean(parts) == pytest.approx(sharing, abs=0.03)


def test_users_are_spread_evenly_over_the_disc() -> None:
    """Median of log2(1 + SNR) for d uniform in a disc of 250 m and |h|^2 exponential."""
    users = paper_size("bls", 2, users=20_000).users
    draws = np.random.default_rng(0)
    distance = 250 * np.sqrt(draws.random(200_000))
    snr = 5e-9 * draws.exponential(size=200_000) / distance**4 / 10 ** (-20.4)
    expected = np.quantile(np.log2(1 + snr), [0.1, 0.5, 0.9])
    assert np.quantile([u.efficiency for u in users], [0.1, 0.5, 0.9]) == pytest.approx(
        expected, rel=0.03
    )


def test_loading_takes_most_of_a_batch() -> None:
    """Fig. 1: 88.94 % of the time of a batch of 32, on average over the three models."""
    problem = paper_size("bls", 0)
    share = []
    for model in problem.models[:3]:
        load_ms = sum(problem.block_bytes[j] for j in model.blocks) / problem.load.bytes_per_ms
        share.append(load_ms / (load_ms + 32 * model.mu_ms + model.beta_ms))
    assert np.mean(share) == pytest.approx(0.8894, abs=0.01)

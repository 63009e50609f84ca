"""Random instances, small changes to them, and two brute-force solvers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edged.planner.loading.generate import FAMILIES, generate
from edged.planner.loading.problem import FamilyName, LoadingProblem, LoadTime, read

DATA = Path(__file__).parent / "data"


def example(name: str) -> tuple[LoadingProblem, dict[str, Any]]:
    """An instance of the format's examples, and the values expected of it."""
    data = (DATA / f"{name}.json").read_bytes()
    return read(data), json.loads(data)["expected"]


def paper_size(family: FamilyName, seed: int, **setting: Any) -> LoadingProblem:
    """80 users, and 50 or 25 ResNets."""
    usual = msgspec.structs.replace(FAMILIES[family].setting, **setting)
    return generate(family, usual, np.random.default_rng(seed))


def small(family: FamilyName, seed: int, **setting: Any) -> LoadingProblem:
    """A small instance with a random deadline and band; every third load has a fixed cost."""
    rng = np.random.default_rng([seed, 7])
    usual = msgspec.structs.replace(
        FAMILIES[family].setting,
        deadline_ms=float(rng.choice([60, 80, 120, 160, 200])),
        bandwidth_hz=float(rng.choice([10e6, 50e6, 200e6])),
    )
    problem = generate(family, msgspec.structs.replace(usual, **setting), rng)
    if seed % 3 == 0:
        fixed = LoadTime(problem.load.bytes_per_ms, float(rng.choice([1.0, 10.0])))
        problem = msgspec.structs.replace(problem, load=fixed)
    return problem


def without_own_blocks(problem: LoadingProblem, seed: int) -> LoadingProblem:
    """Some models keep nothing but the blocks that they share: the paper has no such models."""
    rng = np.random.default_rng([seed, 11])
    models = tuple(
        msgspec.structs.replace(model, blocks=model.blocks[: model.shared])
        if rng.random() < 0.5
        else model
        for model in problem.models
    )
    return msgspec.structs.replace(problem, models=models)


def brute_force(problem: LoadingProblem) -> tuple[int, float]:
    """Most users served and the least makespan for it, over every sequence of batches there is."""
    best = (0, 0.0)
    stack: list[tuple[frozenset[int], set[int], float]] = [(frozenset(), set(), 0.0)]
    while stack:
        served, resident, now_ms = stack.pop()
        if (-len(served), now_ms) < (-best[0], best[1]):
            best = (len(served), now_ms)
        for batch in _batches(problem, served):
            model = problem.models[problem.users[batch[0]].model]
            end_ms = now_ms + _batch_ms(problem, batch, resident)
            if end_ms <= problem.deadline_ms * (1 + 1e-12):
                stack.append((served | set(batch), set(model.blocks), end_ms))
    return best


def _batches(problem: LoadingProblem, served: frozenset[int]) -> Iterator[tuple[int, ...]]:
    """Every set of users that are not served yet and fit one batch of one model."""
    for i, model in enumerate(problem.models):
        waiting = [k for k, u in enumerate(problem.users) if u.model == i and k not in served]
        for rows in range(1, min(model.b_max, len(waiting)) + 1):
            yield from itertools.combinations(waiting, rows)


def _batch_ms(problem: LoadingProblem, batch: tuple[int, ...], resident: set[int]) -> float:
    """The time of a batch: (1) with (11), (8) and (9)."""
    users = [problem.users[k] for k in batch]
    model = problem.models[users[0].model]
    upload_s = sum(u.upload_bits / (problem.bandwidth_hz * u.efficiency) for u in users)
    missing = sum(problem.block_bytes[j] for j in model.blocks if j not in resident)
    load_ms = problem.load.fixed_ms + missing / problem.load.bytes_per_ms if missing else 0.0
    return 1000 * upload_s + load_ms + model.mu_ms * len(users) + model.beta_ms

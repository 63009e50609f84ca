"""Instances with a few fields changed at random: refused in one line, or planned and verified."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edged.errors import PlanError
from edged.planner.fleet import methods as fleet
from edged.planner.fleet.problem import read as read_fleet
from edged.planner.loading.methods import solve as solve_loading
from edged.planner.loading.problem import read as read_loading

HERE = Path(__file__).parent
ODD = (None, 0, -1, -0.0, 1e-300, 1e300, float("nan"), float("inf"), 2**70, "x", [], {}, True, 0.5)
FACTORS = (0.0, 1e-9, 1e-3, 1e3, 1e9)
SMALL = ("fleet/data/baj3o_hard_0", "fleet/data/j3o_hardhet_0", "fleet/data/j3o_strict_0")


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all parts of `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from _paths(item, (*path, key))


def _changed(rng: random.Random, instance: dict[str, Any]) -> dict[str, Any]:
    """The instance with one to three fields scaled, replaced, doubled or removed."""
    instance = copy.deepcopy(instance)
    for _ in range(rng.randint(1, 3)):
        *path, key = rng.choice(list(_paths(instance)))
        at: Any = instance
        for step in path:
            at = at[step]
        change, is_number = rng.random(), isinstance(at[key], float | int)
        if is_number and change < 0.7:
            at[key] *= rng.choice(FACTORS)
        elif change < 0.8:
            at[key] = rng.choice(ODD)
        elif change < 0.9 and isinstance(at, list):
            at.append(copy.deepcopy(at[key]))
        else:
            del at[key]
    return instance


def _plan_fleet(rng: random.Random, text: str) -> str:
    problem = read_fleet(text)
    known = [m for m, method in fleet.METHODS.items() if problem.batching or m != "baj3o"]
    name = rng.choice(known)
    options = fleet.MethodOptions(rng=np.random.default_rng(0), time_limit_s=20.0)
    fleet.solve(problem, name, options).verify(problem)
    return name


def _plan_loading(rng: random.Random, text: str) -> str:
    problem = read_loading(text)
    name = rng.choice(("greedy", "greedy-continuous", "greedy-plus", "independent", None))
    solve_loading(problem, name).verify(problem)
    return str(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "plan", "count", "kinds"),
    [
        (SMALL, _plan_fleet, 200, len(fleet.METHODS)),
        (("loading/data/pl_bls_000", "loading/data/pl_gen_000"), _plan_loading, 300, 5),
    ],
)
def test_changed_instances_are_refused_or_planned(
    files: tuple[str, ...], plan: Callable[[random.Random, str], str], count: int, kinds: int
) -> None:
    """Warnings count as errors here, such as a division by zero."""
    wholes = [json.loads((HERE / f"{name}.json").read_text())["instance"] for name in files]
    seen: Counter[str] = Counter()
    refusals: list[str] = []
    for seed in range(count):
        rng = random.Random(seed)
        text = json.dumps(_changed(rng, rng.choice(wholes)))
        try:
            seen[plan(rng, text)] += 1
        except PlanError as error:
            refusals.append(str(error))
    assert 0.2 * count < len(refusals) < 0.9 * count
    assert not [line for line in refusals if "\n" in line or line.startswith("the plan violates")]
    assert len(seen) == kinds

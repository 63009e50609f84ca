"""J3O and BAJ3O: Table IV and Fig. 1 to 7, ours beside the printed, and two further questions.

The paper prints numbers only in Table IV; its curves are drawn. It does not give loads, accuracies
of two of three benchmarks, setup times and most constants of Fig. 1 and 2: those used here are
marked [guess] in edged/planner/fleet/generate.py and in j3o_motivation.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edged.planner.fleet import alternate
from edged.planner.fleet.generate import FleetScenario, generate
from edged.planner.fleet.methods import MethodOptions, solve
from edged.planner.fleet.problem import FleetProblem
from edged.planner.fleet.standley import losses
from tools.bench.papers import j3o_loads, j3o_motivation
from tools.bench.papers import j3o_page as page
from tools.bench.papers.pieces import Kept

LOSSES = losses()
# The paper's rows of Table IV, then ours.
METHODS = (
    "greedy-ao", "opt-ao", "rand-ao", "full-local", "milp", "j3o",
    "j3o-fixed", "price quick", "price",
)  # fmt: skip
CURVES = ("milp", "price", "opt-ao", "j3o", "greedy-ao", "rand-ao")
BATCHING_CURVES = ("milp", "price", "baj3o", "opt-ao", "greedy-ao")
SETUP_FACTOR = 4.0  # Fig. 6 and 7: ν = 0.16 s for a model of one task, 0.32 s of three [guess]

Curves = dict[str, list[float]]


class Sweep(NamedTuple):
    """One field of the scenario varies; a part fixes others, and its curves end in its name."""

    family: str
    field: str
    methods: tuple[str, ...]
    batching: bool = False
    parts: Mapping[str, Mapping[str, float]] = {"": {}}


SWEEPS = {
    "4": Sweep("taskonomy", "chi_edge", CURVES),
    "5": Sweep("taskonomy", "client_compute", CURVES),
    "6": Sweep("cityscape", "client_alpha", BATCHING_CURVES, batching=True),
    "7": Sweep(
        "cityscape", "window_s", ("milp", "baj3o"), batching=True,
        parts={f", χ_e = {uplink}": {"chi_edge": uplink} for uplink in (0.5, 0.6, 0.7, 0.8)},
    ),
}  # fmt: skip


def run(out: Path, quick: bool, kept: Kept) -> Iterator[dict[str, Any]]:
    """Table IV and the figures, with the page `j3o.md`."""
    seeds, few = (2, 1) if quick else (20, 10)
    results: dict[str, Any] = {
        "IV": {
            family: kept(f"IV-{family}", partial(_table_iv, family, seeds)) for family in page.NAMES
        },
        "1": kept("1", lambda: j3o_motivation.shares(few)),
        "2": kept("2", lambda: j3o_motivation.setup_costs(few)),
        "3": kept("3", lambda: _convergence(seeds)),
        **{figure: _sweep(figure, few, kept) for figure in page.SWEEPS},
        "intervals": {
            str(spread): kept(f"interval-{spread}", partial(j3o_loads.interval, few, spread))
            for spread in j3o_loads.SPREADS
        },
        "drift": kept("drift", lambda: j3o_loads.drift(few)),
    }
    page.write(out, results, seeds, few)
    for name, result in results.items():
        measured = name == "IV"
        yield {
            "figure": name,
            "label": "measured" if measured else "simulated",
            "seed": seeds if name in ("IV", "3") else few,
            **page.summary(name, result),
        }


def instance(family: str, seed: int, **scenario: Any) -> FleetProblem:
    return generate(family, np.random.default_rng(seed), LOSSES, FleetScenario(**scenario))


def plan_value(problem: FleetProblem, method: str, seed: int) -> tuple[float, float]:
    """F and the processor time in ms. `price quick` is price at effort quick."""
    name, _, effort = method.partition(" ")
    options = MethodOptions(effort=effort or "full", rng=np.random.default_rng(seed))
    started = time.process_time()
    plan = solve(problem, name, options)
    elapsed = 1000.0 * (time.process_time() - started)
    assert plan.obj is not None, "mode drop is always feasible"
    return plan.obj, elapsed


def _table_iv(family: str, seeds: int) -> dict[str, dict[str, float]]:
    """The mean and deviation of the loss 1 - F, the ratio to the optimum and the ms, by method."""
    values: dict[str, list[float]] = {method: [] for method in METHODS}
    times: dict[str, list[float]] = {method: [] for method in METHODS}
    for method in METHODS:  # the first call also loads code
        plan_value(instance(family, 0, clients=3), method, 0)
    for seed in range(seeds):
        problem = instance(family, seed)
        for method in METHODS:
            value, elapsed = plan_value(problem, method, seed)
            values[method].append(value)
            times[method].append(elapsed)
    optimum = np.array(values["milp"])
    return {
        method: {
            "loss": float(np.mean(1.0 - np.array(found))),
            "deviation": float(np.std(found)),
            "ratio": float(np.mean(np.array(found) / optimum)),
            "ms": float(np.mean(times[method])),
        }
        for method, found in values.items()
    }


def _convergence(seeds: int) -> Curves:
    """Fig. 3: the loss after each round of the alternating methods, averaged; the others as one."""
    steps: dict[str, Callable[[int], Any]] = {
        "j3o": lambda seed: alternate.literal_step,
        "greedy-ao": lambda seed: alternate.greedy_step,
        "opt-ao": lambda seed: alternate.best_step,
        "rand-ao": lambda seed: alternate.random_step(np.random.default_rng(seed)),
    }
    rounds = 8
    curves: Curves = {}
    problems = [instance("taskonomy", seed) for seed in range(seeds)]
    for name, step in steps.items():
        found = [
            alternate.alternate(problem, step(seed), needs_rows=name == "opt-ao").values
            for seed, problem in enumerate(problems)
        ]
        held = [[*values, *[max(values)] * rounds][:rounds] for values in found]
        curves[name] = (1.0 - np.mean(held, axis=0)).tolist()
    for name in ("milp", "full-local"):
        loss = 1.0 - np.mean([plan_value(problem, name, 0)[0] for problem in problems])
        curves[name] = [float(loss)] * rounds
    return curves


def _sweep(figure: str, seeds: int, kept: Kept) -> Curves:
    """The mean loss of each curve at each value along the figure's axis."""
    sweep = SWEEPS[figure]
    points = [
        kept(f"{figure}-{value}", partial(_losses, sweep, value, seeds))
        for value in page.SWEEPS[figure][1]
    ]
    return {curve: [point[curve] for point in points] for curve in points[0]}


def _losses(sweep: Sweep, value: float, seeds: int) -> dict[str, float]:
    found = {}
    for name, fixed in sweep.parts.items():
        scenario = {sweep.field: value, "batching": sweep.batching, **fixed}
        problems = [_slow_setup(instance(sweep.family, seed, **scenario)) for seed in range(seeds)]
        for method in sweep.methods:
            values = [plan_value(problem, method, seed)[0] for seed, problem in enumerate(problems)]
            found[f"{method}{name}"] = float(1.0 - np.mean(values))
    return found


def _slow_setup(problem: FleetProblem) -> FleetProblem:
    """The problem with longer setup times: the generator's leave every batching row slack."""
    if problem.setup_s is None:
        return problem
    return replace(problem, setup_s=problem.setup_s * SETUP_FACTOR)

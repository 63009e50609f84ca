"""The fleet planner's figures: distance to the optimum, time against J3O and the MILP, scale.

Times are processor times of this process: two methods are compared in one run, instance by
instance, and other work on the machine does not count. `--only large` measures wall time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from edged.errors import InvalidArgument
from edged.planner.fleet.generate import FAMILIES, FleetScenario, generate
from edged.planner.fleet.methods import MethodOptions, solve
from edged.planner.fleet.plan import FleetPlan
from edged.planner.fleet.problem import FleetProblem, Mode
from edged.planner.fleet.standley import losses
from edged.planner.fleet.workers import keep_scratch, workers
from tools.bench.report import emit

LOSSES = losses()
BASELINES = ("j3o", "j3o-fixed", "opt-ao", "greedy-ao", "rand-ao", "full-local")


def register(commands: Any) -> None:
    parser = commands.add_parser("planners-fleet", help="quality, time and scale of fleet plans")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", default=",".join(PARTS), metavar="A,B", help=", ".join(PARTS))
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    chosen = args.only.split(",")
    if unknown := set(chosen) - PARTS.keys():
        raise InvalidArgument(f"--only: must be of {', '.join(PARTS)}, got {sorted(unknown)[0]!r}")
    keep_scratch()  # the command does the same
    for part in chosen:
        PARTS[part](args.seeds)
    return 0


def instance(family: str, seed: int, **scenario: Any) -> FleetProblem:
    return generate(family, np.random.default_rng(seed), LOSSES, FleetScenario(**scenario))


def timed(problem: FleetProblem, method: str, **options: Any) -> tuple[FleetPlan, float]:
    """A verified plan and the processor time it took, in ms."""
    rng = np.random.default_rng(0)
    started = time.process_time()
    plan = solve(problem, method, MethodOptions(rng=rng, **options))
    elapsed = 1000.0 * (time.process_time() - started)
    plan.verify(problem)
    return plan, elapsed


class Sweep:
    """Ratios to the optimum and times of several runs over the same instances."""

    def __init__(self, runs: dict[str, tuple[str, dict[str, Any]]]) -> None:
        self.runs = runs
        self.ratios: dict[str, list[float]] = {name: [] for name in runs}
        self.times: dict[str, list[float]] = {name: [] for name in ("milp", *runs)}
        self.gaps: dict[str, list[float]] = {name: [] for name in runs}

    def add(self, problem: FleetProblem) -> None:
        """Solve one instance by every method and the MILP. An infeasible instance is skipped."""
        exact, milp_ms = timed(problem, "milp")
        if exact.obj is None:
            return
        self.times["milp"].append(milp_ms)
        for name, (method, options) in self.runs.items():
            plan, elapsed = timed(problem, method, **options)
            assert plan.obj is not None, "the MILP found a plan; this is a bug"
            self.ratios[name].append(plan.obj / exact.obj)
            self.times[name].append(elapsed)
            if plan.gap is not None:
                self.gaps[name].append(plan.gap)

    def figures(self) -> dict[str, Any]:
        """Each method's mean and least ratio, ms, and summed time against j3o and the MILP."""
        figures: dict[str, Any] = {"instances": len(self.times["milp"])}
        figures["milp"] = {"ms": _round(np.mean(self.times["milp"]))}
        for name, ratios in self.ratios.items():
            total = sum(self.times[name])
            figures[name] = {
                "ratio": round(float(np.mean(ratios)), 5),
                "least": round(min(ratios), 5),
                "ms": _round(np.mean(self.times[name])),
                "time_to_milp": round(total / sum(self.times["milp"]), 4),
            }
            if "j3o" in self.times and name != "j3o":
                figures[name]["time_to_j3o"] = round(total / sum(self.times["j3o"]), 2)
            if self.gaps[name]:
                figures[name]["gap"] = round(float(np.mean(self.gaps[name])), 5)
        return figures


PRICE: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("price", {"effort": "full"}),
    "quick": ("price", {"effort": "quick"}),
}


def _families(seeds: int) -> None:
    """Every family of the specification at its own size."""
    for family in FAMILIES:
        sweep = Sweep({**PRICE, **{name: (name, {}) for name in BASELINES}})
        _warm_up(sweep, family)
        for seed in range(seeds):
            sweep.add(instance(family, seed))
        emit("planners-fleet/families", "measured", seed=seeds, family=family, **sweep.figures())


def _batching(seeds: int) -> None:
    """BAJ3O: the hard families and Cityscape3D with row (28)."""
    for family in ("hard", "hardhet", "cityscape"):
        sweep = Sweep({**PRICE, "baj3o": ("baj3o", {}), "j3o": ("j3o", {})})
        _warm_up(sweep, family, batching=True)
        for seed in range(seeds):
            sweep.add(instance(family, seed, batching=True))
        emit("planners-fleet/batching", "measured", seed=seeds, family=family, **sweep.figures())


def _modes(seeds: int) -> None:
    """Null and strict; in strict the loads are light enough for most instances to be feasible."""
    for mode, scenario in (
        (Mode.NULL, {}),
        (Mode.STRICT, {"load": 500.0, "chi_cloud": 0.3}),
    ):
        sweep = Sweep(PRICE)
        for seed in range(seeds):
            sweep.add(instance("hard", seed, clients=15, tasks=4, mode=mode, **scenario))
        emit("planners-fleet/modes", "measured", seed=seeds, mode=mode.value, **sweep.figures())


def _scale(seeds: int) -> None:
    """150 clients and six edges, a load that grows with the clients, and a quarter of the seeds."""
    few = max(1, seeds // 4)
    for family in FAMILIES:
        sweep = Sweep({**PRICE, "j3o": ("j3o", {})})
        _warm_up(sweep, family)
        for seed in range(few):
            sweep.add(_scaled(family, seed, 150, 6))
        emit("planners-fleet/scale", "measured", seed=few, family=family, **sweep.figures())


def _large(seeds: int) -> None:
    """10,000 clients, 300 edges: one process, and Ray if it is installed."""
    del seeds
    problem = _scaled("hard", 0, 10_000, 300)
    plans: dict[str, FleetPlan] = {}
    wall_s: dict[str, float] = {}
    for place in ("one", "auto"):
        with workers(place) as run:
            started = time.perf_counter()
            plans[place] = solve(problem, "price", MethodOptions(run=run))
            wall_s[place] = time.perf_counter() - started
        plans[place].verify(problem)
    plan = plans["one"]
    emit(
        "planners-fleet/large",
        "measured",
        seed=0,
        clients=problem.n_clients,
        edges=problem.n_edges,
        accuracy=plan.obj,
        gap=plan.gap,
        wall_s={place: round(seconds, 1) for place, seconds in wall_s.items()},
        same_plan=plans["one"] == plans["auto"],
    )


def _scaled(family: str, seed: int, clients: int, edges: int) -> FleetProblem:
    own = FAMILIES[family]
    return instance(
        family, seed, clients=clients, edges=edges, load=own.load * clients / own.clients
    )


def _warm_up(sweep: Sweep, family: str, **scenario: Any) -> None:
    """The first call of a method also loads code."""
    problem = instance(family, 0, clients=3, **scenario)
    for method, options in [("milp", {}), *sweep.runs.values()]:
        timed(problem, method, **options)


def _round(value: Any) -> float:
    return round(float(value), 2)


PARTS: dict[str, Callable[[int], None]] = {
    "families": _families,
    "batching": _batching,
    "modes": _modes,
    "scale": _scale,
    "large": _large,
}

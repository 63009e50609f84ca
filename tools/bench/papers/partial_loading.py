"""PartialLoading, Fig. 6 to 9: users served, ours beside what the paper prints.

The paper prints averages of its curves in the text, and the curves only as drawings. It does not
give run times, loading rate, batch limits and requests: those used here are marked [guess] in
edged/planner/loading/generate.py. Spec and Gen are its names for Algorithms 2 and 3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edged.planner.loading.generate import FAMILIES, generate
from edged.planner.loading.greedy import greedy_visits
from edged.planner.loading.methods import solve
from edged.planner.loading.order import Visits, best_visits
from edged.planner.loading.plan import Method
from edged.planner.loading.problem import FamilyName, LoadingProblem
from edged.planner.loading.slotted import slotted_visits
from edged.planner.loading.structure import sharing
from edged.planner.loading.tables import Floats, LoadingTables, tables, without_sharing
from tools.bench.papers import partial_loading_page as page
from tools.bench.papers.pieces import Kept

SWEEPS: dict[str, tuple[str, list[float]]] = {
    "B": ("bandwidth_hz", [10e6, 50e6, 100e6, 200e6, 300e6, 400e6]),
    "K": ("users", [60, 70, 80, 90, 100]),
    "T": ("deadline_ms", [500.0, 600.0, 700.0, 800.0, 900.0]),
    "θ": ("sharing", [0.75, 0.80, 0.85, 0.90, 0.95]),
}
RATES = (1.0e6, 1.2e6, 1.5e6)  # bytes per ms; the second is the generator's
CHANNELS = (5, 10, 20)  # r of Fig. 8
FLOAT_BITS = 128 * 128 * 3 * 32.0  # bits of an image that is uploaded as 32-bit floats

Served = Callable[[LoadingProblem], int]
Curves = dict[str, dict[str, list[float]]]  # sweep -> method -> served ratio at each value


def run(out: Path, quick: bool, kept: Kept) -> Iterator[dict[str, Any]]:
    """Fig. 6 to 9, with the page `partial-loading.md`."""
    seeds = 1 if quick else 20
    small_seeds = 2 if quick else 40
    results = {
        "6": kept("6", lambda: _sweeps("bls", BLS, seeds)),
        "7": kept("7", lambda: _sweeps("general", GENERAL, seeds)),
        "8": kept("8", lambda: _figure_8(seeds)),
        "9": kept("9", lambda: {name: _small(name, small_seeds) for name in ("bls", "general")}),
        "rates": kept(
            "rates", lambda: {f"{rate / 1e6:g} GB/s": _at_rate(rate, seeds) for rate in RATES}
        ),
        "late": kept("late", lambda: _late(seeds)),
    }
    page.write(out, results, seeds, small_seeds)
    for figure in ("6", "7", "8", "9"):
        yield {
            "figure": figure,
            "label": "measured" if figure == "9" else "simulated",
            "seed": small_seeds if figure == "9" else seeds,
            **page.summary(figure, results[figure]),
        }


def _by(method: Method) -> Served:
    return lambda problem: solve(problem, method, certify=False).served


def _independent(problem: LoadingProblem) -> int:
    """The paper's baseline: Algorithm 2, with slots, when nothing is shared (Remark 4)."""
    whole = without_sharing(tables(problem))
    return _users(slotted_visits(whole, [[i] for i in whole.asked], literal=False))


def _users(visits: Visits) -> int:
    return sum(users for _, users in visits)


BLS: dict[str, Served] = {
    "Indep": _independent,
    "Gen": _by("greedy"),
    "Spec": _by("dp-slotted"),
    "dp": _by("dp"),
}
GENERAL: dict[str, Served] = {
    "Indep": _independent,
    "Gen": _by("greedy"),
    "greedy-plus": _by("greedy-plus"),
}


def _sweeps(
    family: FamilyName,
    methods: Mapping[str, Served],
    seeds: int,
    only: str = "BKTθ",
    **fixed: float,
) -> Curves:
    """The served ratio along each sweep, averaged over the seeds."""
    usual = msgspec.structs.replace(FAMILIES[family].setting, **fixed)
    curves: Curves = {}
    for sweep, (field, values) in SWEEPS.items():
        if sweep not in only:
            continue
        curves[sweep] = {name: [] for name in methods}
        for value in values:
            setting = msgspec.structs.replace(usual, **{field: value})
            problems = [
                generate(family, setting, np.random.default_rng(seed)) for seed in range(seeds)
            ]
            for name, served in methods.items():
                ratios = [served(problem) / len(problem.users) for problem in problems]
                curves[sweep][name].append(float(np.mean(ratios)))
    return curves


def _at_rate(bytes_per_ms: float, seeds: int) -> dict[str, Curves]:
    """The curves of both families when blocks are loaded at another rate."""
    return {
        "bls": _sweeps("bls", BLS, seeds, bytes_per_ms=bytes_per_ms),
        "general": _sweeps(
            "general",
            {name: GENERAL[name] for name in ("Indep", "Gen")},
            seeds,
            bytes_per_ms=bytes_per_ms,
        ),
    }


def _figure_8(seeds: int) -> dict[str, Curves]:
    return {
        "bls": _equal_bands("bls", seeds),
        "general": _equal_bands("general", seeds),
        "bls, float": _equal_bands("bls", seeds, upload_bits=FLOAT_BITS),
        "general, float": _equal_bands("general", seeds, upload_bits=FLOAT_BITS),
    }


def _equal_bands(family: FamilyName, seeds: int, **fixed: float) -> Curves:
    """Fig. 8: the same algorithms when every user of a batch gets a band of B / r."""
    best = _by("dp-slotted" if family == "bls" else "greedy")
    methods = {"(12)": best}
    for channels in CHANNELS:
        methods[f"r = {channels}"] = _in_equal_bands(family, channels)
    return _sweeps(family, methods, seeds, only="BK", **fixed)


def _in_equal_bands(family: FamilyName, channels: int) -> Served:
    return lambda problem: _users(_equal_visits(problem, family, channels))


def _equal_visits(problem: LoadingProblem, family: FamilyName, channels: int) -> Visits:
    facts = tables(problem)
    rows_max = np.minimum(facts.rows_max, channels)
    equal = replace(
        facts,
        rows_max=rows_max,
        serve_ms=_serve_slowest_ms(problem, facts, rows_max.tolist(), float(channels)),
    )
    if family == "bls":
        return slotted_visits(equal, sharing(problem, equal).clusters, literal=False)
    return greedy_visits(equal, slotted=True)


def _serve_slowest_ms(
    problem: LoadingProblem, facts: LoadingTables, rows_max: list[int], channels: float
) -> Floats:
    """`LoadingTables.serve_ms` if a batch uploads as long as its slowest user, as in (16) and (7).

    If there are `channels` equal bands, that user has B / channels. (16) itself gives it all of B.
    """
    serve_ms = np.full_like(facts.serve_ms, np.inf)
    for i, (model, upload_ms) in enumerate(zip(problem.models, facts.upload_ms, strict=True)):
        p_ms = np.diff(upload_ms)
        serve_ms[i, 0] = 0.0
        for k in range(1, len(upload_ms)):
            slowest = [min(end, k) - 1 for end in range(rows_max[i], k + rows_max[i], rows_max[i])]
            run_ms = model.mu_ms * k + model.beta_ms * len(slowest)
            serve_ms[i, k] = channels * p_ms[slowest].sum() + run_ms
    return serve_ms


def _late(seeds: int) -> dict[str, dict[str, float]]:
    """The share of the schedules that miss T when their method uses (16), by B in MHz."""
    late: dict[str, dict[str, float]] = {}
    for bandwidth_hz in (10e6, 50e6, 200e6):
        setting = msgspec.structs.replace(FAMILIES["bls"].setting, bandwidth_hz=bandwidth_hz)
        misses = {"Spec": 0, "dp": 0}
        for seed in range(seeds):
            problem = generate("bls", setting, np.random.default_rng(seed))
            facts = tables(problem)
            printed = _serve_slowest_ms(problem, facts, facts.rows_max.tolist(), 1.0)
            believed = replace(facts, serve_ms=printed)
            shared = sharing(problem, facts)
            for method, visits in (
                ("Spec", slotted_visits(believed, shared.clusters, literal=False)),
                ("dp", best_visits(believed, shared.order)),
            ):
                misses[method] += _makespan_ms(facts, visits) > facts.limit_ms
        late[f"{bandwidth_hz / 1e6:g}"] = {m: count / seeds for m, count in misses.items()}
    return late


def _makespan_ms(facts: LoadingTables, visits: Visits) -> float:
    loaded, end_ms = facts.cold, 0.0
    for model, users in visits:
        end_ms += float(facts.load_ms[loaded, model] + facts.serve_ms[model, users])
        loaded = model
    return end_ms


def _small(family: FamilyName, seeds: int) -> dict[str, dict[str, float]]:
    """Fig. 9: each method's served ratio and median ms a plan at 20 users, 5 models, 200 ms."""
    methods: tuple[Method, ...] = ("exact", "dp", "dp-slotted", "greedy-plus", "greedy")
    setting = msgspec.structs.replace(
        FAMILIES[family].setting, users=20, models=5, deadline_ms=200.0
    )
    problems = [generate(family, setting, np.random.default_rng(seed)) for seed in range(seeds)]
    result: dict[str, dict[str, float]] = {}
    for method in methods:
        if family == "general" and method.startswith("dp"):
            continue
        solve(problems[0], method, certify=False)  # the first call also loads code
        served, times_ms = zip(*(_timed(problem, method) for problem in problems), strict=True)
        result[method] = {"served": float(np.mean(served)), "ms": float(np.median(times_ms))}
    return result


def _timed(problem: LoadingProblem, method: Method) -> tuple[float, float]:
    """The served ratio, and the ms of the fastest of three runs, the one least disturbed."""
    times_ms: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        plan = solve(problem, method, certify=False)
        times_ms.append(1000.0 * (time.perf_counter() - started))
    return plan.served / len(problem.users), min(times_ms)

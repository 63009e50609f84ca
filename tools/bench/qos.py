"""The QoS region of SMOOTH's public data: the mixes of two tasks' rates that are held. Simulated.

The profile of swinv2-base (affine in the batch), the latency bound and the 36 mixes of 30 to 180
requests/s for each of two tasks are theirs. Their own system held 21 of the mixes, batches of four
on separate models 12, separate models without batches 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from edged.sim.batching import BatchingForm, Profile
from edged.sim.simulator import simulate
from tools.bench.report import emit, save_figure

RATES = (30, 60, 90, 120, 150, 180)  # requests/s of one task
BOUND_MS = 500.0
PROFILE = Profile((1, 2, 4, 6, 8, 12, 16), (15.9, 13.6, 19.0, 25.9, 33.8, 47.8, 62.0))
PREPARE_MS = 2.6
PUBLISHED = {"SMOOTH": 21, "one model a task, batches of 4": 12, "one model a task": 2}
POLICIES = ("work-conserving", "smooth", "greedy", "static:4", "unbatched")


def register(commands: Any) -> None:
    parser = commands.add_parser("qos", help="the region of loads that is held, simulated")
    parser.add_argument("--seconds", type=float, default=30.0, help="of simulated load")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    held = {
        policy: [
            (first, second)
            for first in RATES
            for second in RATES
            if _p99(first, second, policy, args.seconds, args.seed) <= BOUND_MS
        ]
        for policy in POLICIES
    }
    ours = held["work-conserving"]
    emit(
        "qos",
        "simulated",
        seed=args.seed,
        mixes=len(RATES) ** 2,
        bound_ms=BOUND_MS,
        held={policy: len(mixes) for policy, mixes in held.items()},
        published=PUBLISHED,
        largest_total_held=max(map(sum, ours)),
        ratio=round(len(ours) / PUBLISHED["SMOOTH"], 3),
    )
    if args.plot is not None:
        _plot(set(ours), args.plot)
    return 0


def _p99(first: int, second: int, policy: str, seconds: float, seed: int) -> float:
    """The p99 in ms when both tasks arrive as Poisson processes."""
    rng = np.random.default_rng([seed, first, second])
    arrivals = []
    for task, rate in enumerate((first, second)):
        times = np.cumsum(rng.exponential(1e3 / rate, round(rate * seconds)))
        arrivals += [(float(at), task) for at in times]
    arrivals.sort()
    form = BatchingForm(
        "smooth",
        arrivals_ms=tuple(at for at, _ in arrivals),
        tasks=tuple(task for _, task in arrivals),
        profile=PROFILE,
        t_pre_ms=PREPARE_MS,
    )
    return simulate(form.scenario(policy)).summary()["p99"]


def _plot(held: set[tuple[int, int]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    for first in RATES:
        for second in RATES:
            good = (first, second) in held
            axes.scatter(
                first, second, marker="o" if good else "x", color="tab:green" if good else "tab:red"
            )
    axes.plot([30, 180], [180, 30], color="0.6", label="what SMOOTH held (210 in all)")
    axes.set(
        xlabel="task 1 (requests/s)",
        ylabel="task 2 (requests/s)",
        title="p99 within 500 ms, simulated",
    )
    axes.legend()
    save_figure(figure, path)

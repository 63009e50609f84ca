"""Batching policies beside each other on SMOOTH's Table II: six kinds of arrivals, 1 to 15 users.

Simulated: the daemon's scheduler under a virtual clock. 90 cells; in each, the same arrivals for
every policy and seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from edged.sim.arrivals import KINDS
from edged.sim.scenario import Generated, Scenario, run
from tools.bench.report import emit

POLICIES = ("work-conserving", "greedy", "smooth")
USERS = range(1, 16)

Cells = dict[tuple[str, int], dict[str, dict[str, float]]]


def register(commands: Any) -> None:
    parser = commands.add_parser("policies", help="batching policies on simulated arrivals")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=3000, help="in each run")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="p99 of all cells (SVG, PNG)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    cells = measure(args.seeds, args.requests)
    emit(
        "policies",
        "simulated",
        seed=args.seeds,
        cells=len(cells),
        p99_against_greedy=_compare(cells, "greedy"),
        p99_against_smooth=_compare(cells, "smooth"),
        mean_cut_against_smooth={
            kind: round(_mean_cut(cells, kind, "smooth"), 3) for kind in KINDS
        },
    )
    if args.plot is not None:
        _plot(cells, args.plot)
    return 0


def measure(seeds: int, requests: int) -> Cells:
    """Mean over the seeds of each policy's mean and p99 in ms, by (kind, users)."""
    cells: Cells = {}
    for kind in KINDS:
        for users in USERS:
            cells[kind, users] = {}
            for policy in POLICIES:
                runs = [_summary(kind, users, requests, seed, policy) for seed in range(seeds)]
                cells[kind, users][policy] = {
                    key: float(np.mean([one[key] for one in runs])) for key in ("mean", "p99")
                }
    return cells


def _summary(kind: str, users: int, requests: int, seed: int, policy: str) -> dict[str, float]:
    arrivals = Generated(kind=kind, users=users, requests=requests, seed=seed)
    return run(Scenario("smooth", arrivals=arrivals), policy).summary()


def _compare(cells: Cells, other: str) -> dict[str, Any]:
    """In how many cells `work-conserving` is below, equal to and above `other` in p99.

    Equal are cells in which both always run one row: the load asks for no batches yet.
    """
    counts: dict[str, Any] = {"below": 0, "equal": 0, "above": []}
    for (kind, users), by_policy in cells.items():
        ours, theirs = by_policy["work-conserving"]["p99"], by_policy[other]["p99"]
        if np.isclose(ours, theirs, rtol=1e-9):
            counts["equal"] += 1
        elif ours < theirs:
            counts["below"] += 1
        else:
            counts["above"].append(f"{kind}, {users} users: {ours:.1f} against {theirs:.1f} ms")
    return counts


def _mean_cut(cells: Cells, kind: str, other: str) -> float:
    """Share by which the mean latency is lower than the other policy's, averaged over users."""
    cuts = [
        1.0 - cells[kind, users]["work-conserving"]["mean"] / cells[kind, users][other]["mean"]
        for users in USERS
    ]
    return float(np.mean(cuts))


def _plot(cells: Cells, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, kind in zip(figure.subplots(2, 3, sharex=True).flat, KINDS, strict=True):
        for policy in POLICIES:
            p99 = [cells[kind, users][policy]["p99"] for users in USERS]
            axes.plot(list(USERS), p99, marker=".", label=policy)
        axes.set(title=kind, yscale="log", xlabel="users (10 requests/s each)", ylabel="p99 (ms)")
    figure.axes[0].legend()
    figure.suptitle("SMOOTH's Table II, three tasks: simulated p99")
    figure.savefig(path)

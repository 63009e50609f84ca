"""Batching policies compared on SMOOTH's Table II: six kinds of arrivals, 1 to 15 users.

Simulated: the daemon's scheduler under a virtual clock. There are 90 cells, each with the same
arrivals for every policy and seed. Cells in which `work-conserving` is not the best are named.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from edged.sim.arrivals import KINDS
from edged.sim.batching import BatchingForm, Generated
from edged.sim.simulator import simulate
from tools.bench.report import emit, save_figure

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
    """The mean over the seeds of each policy's mean and p99 in ms, by (kind, users)."""
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
    form = BatchingForm("smooth", arrivals=arrivals)
    return simulate(form.scenario(policy)).summary()


def _compare(cells: Cells, other: str) -> dict[str, Any]:
    """The cells where the p99 of `work-conserving` equals or exceeds that of `other`.

    Also the number of cells where it is below. A cell has the name of its arrivals and
    users: "fixed 7". Equal are cells in which both always run one row, since the load needs no
    batches.
    """
    verdicts = {cell: _verdict(by_policy, other) for cell, by_policy in cells.items()}
    above = {cell: cells[cell] for cell, verdict in verdicts.items() if verdict > 0}
    return {
        "below": sum(verdict < 0 for verdict in verdicts.values()),
        "equal": [_name(cell) for cell, verdict in verdicts.items() if verdict == 0],
        "above": {
            _name(cell): [round(of[policy]["p99"], 1) for policy in ("work-conserving", other)]
            for cell, of in above.items()
        },
    }


def _verdict(by_policy: dict[str, dict[str, float]], other: str) -> int:
    """-1, 0 or 1: `work-conserving` below, equal to or above the other policy in p99."""
    ours, theirs = by_policy["work-conserving"]["p99"], by_policy[other]["p99"]
    return 0 if np.isclose(ours, theirs, rtol=1e-9) else int(np.sign(ours - theirs))


def _name(cell: tuple[str, int]) -> str:
    return "{} {}".format(*cell)


def _mean_cut(cells: Cells, kind: str, other: str) -> float:
    """The share by which mean latency is below the other policy's, averaged over users."""
    cuts = [
        1.0 - cells[kind, users]["work-conserving"]["mean"] / cells[kind, users][other]["mean"]
        for users in USERS
    ]
    return float(np.mean(cuts))


def _plot(cells: Cells, path: Path) -> None:
    """Draw p99 by users, a panel for each kind of arrivals; exceptions are circled and counted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, kind in zip(figure.subplots(2, 3, sharex=True).flat, KINDS, strict=True):
        for policy in POLICIES:
            p99 = [cells[kind, users][policy]["p99"] for users in USERS]
            axes.plot(list(USERS), p99, marker=".", label=policy)
        for verdict, color, label in (
            (0, "0.6", "work-conserving equal to smooth"),
            (1, "tab:red", "work-conserving above smooth"),
        ):
            users = [n for n in USERS if _verdict(cells[kind, n], "smooth") == verdict]
            p99 = [cells[kind, n]["work-conserving"]["p99"] for n in users]
            axes.plot(users, p99, "o", mfc="none", ms=9, color=color, label=label)
        axes.set(title=kind, yscale="log", xlabel="users (10 requests/s each)", ylabel="p99 (ms)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle(
        "SMOOTH's Table II, three tasks, simulated: p99 of work-conserving in 90 cells\n"
        + "; ".join(_sentence(_compare(cells, other), other) for other in ("greedy", "smooth"))
    )
    save_figure(figure, path)


def _sentence(counts: dict[str, Any], other: str) -> str:
    equal, above = len(counts["equal"]), len(counts["above"])
    return f"{counts['below']} below {other}, {equal} equal (grey), {above} above (red)"

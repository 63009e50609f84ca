"""One benchmark on this work tree and on another revision of it, in turns, and what changed.

The revision is checked out beside the work tree, into a temporary folder. Both sides run the same
command on the same processors with the same Python, in the order `old, new, new, old, ..`, so that
a slow minute of the machine affects both. The line has, for every figure that both sides print, the
ratio new / old of the medians and its 95 % interval (percentiles of a bootstrap over the pairs).

A bar such as "at least 0.97 of the code before" is met when the interval reaches 0.97.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edged.errors import InvalidArgument, Unavailable
from tools.bench.report import emit

ROOT = Path(__file__).resolve().parents[2]
LEAST_PAIRS = 15  # the interval of fewer pairs says little on a noisy machine
RESAMPLES = 10_000
FOLDER = "{dir}"  # stands in the command for a folder of that side that is kept from run to run


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "versus",
        help="another revision and this work tree side by side",
        epilog=f"'{FOLDER}' in the command stands for a folder that each side keeps between runs.",
    )
    parser.add_argument("--pairs", type=int, default=LEAST_PAIRS, help="runs of either side")
    parser.add_argument("--processors", help="to run on, as 0,1; default: all that may be used")
    parser.add_argument("--figures", nargs="+", metavar="NAME", help="to print; default: all")
    parser.add_argument("--seed", type=int, default=1, help="of the bootstrap")
    parser.add_argument(
        "--new", default="", metavar="OPTIONS", help="further ones of the command, on the new side"
    )
    parser.add_argument("rev", metavar="REV", help="a revision that git knows")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND..")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if not args.command:
        raise InvalidArgument("name a benchmark and its options after the revision")
    if args.pairs < LEAST_PAIRS:
        raise InvalidArgument(f"--pairs: at least {LEAST_PAIRS}, or the interval says little")
    processors = _processors(args.processors)
    commands = args.command, [*args.command, *shlex.split(args.new)]
    os.sched_setaffinity(0, processors)  # every process that is started from here inherits it
    with tempfile.TemporaryDirectory(prefix="edged-versus-") as name:
        folder = Path(name)
        commit = check_out(ROOT, args.rev, folder / "old")
        sides = [_Side(folder / "old", folder / "old-kept"), _Side(ROOT, folder / "new-kept")]
        pairs = []
        for number in range(args.pairs):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            lines = {index: sides[index](commands[index]) for index in order}
            pairs.append((figures(lines[0]), figures(lines[1])))
            print(f"pair {number + 1} of {args.pairs}", file=sys.stderr, flush=True)
    emit(
        "versus",
        "measured",
        seed=args.seed,
        of=args.command,
        new_options=args.new,
        old=commit,
        pairs=args.pairs,
        processors=processors,
        figures=compare(pairs, args.figures, args.seed),
    )
    return 0


def check_out(root: Path, rev: str, into: Path) -> str:
    """The files of a revision, without history; returns the commit. Raises InvalidArgument."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise InvalidArgument(f"git knows no revision {rev!r} in {root}: name a commit or a branch")
    commit = found.stdout.strip()
    into.mkdir()
    packed = subprocess.run(["git", "archive", commit], cwd=root, capture_output=True, check=True)
    subprocess.run(["tar", "--extract", "--directory", into], input=packed.stdout, check=True)
    return commit[:12]


def figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Every number that a benchmark printed, by its path: `alone.p50_ms`.

    A list of numbers counts by its median, a list of tuples by the median of each column.
    """
    found: dict[str, float] = {}

    def walk(place: str, value: Any) -> None:
        if isinstance(value, bool) or value is None:
            return
        if isinstance(value, int | float):
            found[place] = float(value)
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{place}.{key}" if place else str(key), inner)
        elif isinstance(value, list) and value:
            try:
                columns = np.median(np.array(value, float), axis=0)
            except (TypeError, ValueError):
                return  # names, or rows of different lengths
            walk(
                place, columns.tolist() if columns.ndim == 0 else dict(enumerate(columns.tolist()))
            )

    for number, line in enumerate(lines):
        walk("" if len(lines) == 1 else str(line.get("part", number)), line)
    return found


def compare(
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]],
    wanted: Sequence[str] | None,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """The medians of both sides, their ratio new / old and its 95 % interval, for each figure.

    Figures are skipped that are the same in every run, such as the seed, that some run did not
    print, or whose old median is 0. Raises InvalidArgument if a wanted figure is missing.
    """
    common = set.intersection(*(set(figures) for pair in pairs for figures in pair))
    if unknown := sorted(set(wanted or ()) - common):
        have = ", ".join(sorted(common))
        raise InvalidArgument(f"the benchmark prints no figure {unknown[0]!r}; it has: {have}")
    found = {}
    for name in sorted(wanted or common):
        values = np.array([[old[name], new[name]] for old, new in pairs])
        if np.ptp(values) == 0.0 or np.median(values[:, 0]) == 0.0:
            continue
        random = np.random.default_rng(seed)
        chosen = random.integers(len(pairs), size=(RESAMPLES, len(pairs)))
        medians = np.median(values[chosen], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = np.nanpercentile(medians[:, 1] / medians[:, 0], (2.5, 97.5))
        old, new = np.median(values, axis=0)
        found[name] = {
            "old": round(float(old), 6),
            "new": round(float(new), 6),
            "ratio": round(float(new / old), 4),
            "interval": [round(float(low), 4), round(float(high), 4)],
        }
    return found


class _Side:
    """One of the two trees; a call runs the benchmark once and returns the lines it printed."""

    def __init__(self, tree: Path, kept: Path) -> None:
        self._tree = tree
        self._kept = kept
        kept.mkdir()
        # The tree comes before installed packages on the path of all processes of the benchmark.
        self._environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": ""}

    def __call__(self, command: Sequence[str]) -> list[dict[str, Any]]:
        words = [word.replace(FOLDER, str(self._kept)) for word in command]
        done = subprocess.run(
            [sys.executable, "-m", "tools.bench", *words],
            cwd=self._tree,
            env=self._environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
            raise Unavailable(f"{' '.join(words)} failed in {self._tree}: {last}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _processors(text: str | None) -> list[int]:
    """The numbers in `text`, or all that this process may use. Raises InvalidArgument."""
    usable = os.sched_getaffinity(0)
    if text is None:
        return sorted(usable)
    try:
        chosen = {int(word) for word in text.split(",")}
    except ValueError:
        chosen = set()
    if not chosen or not chosen <= usable:
        have = ",".join(map(str, sorted(usable)))
        raise InvalidArgument(f"--processors {text!r}: numbers from {have}, joined by commas")
    return sorted(chosen)

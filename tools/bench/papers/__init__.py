"""`python -m tools.bench papers`: the figures and tables of the papers, ours beside the printed.

A paper is a module with `run(out, quick, kept)`. It writes its figures and one Markdown page into
the folder `out`, with few seeds if `quick`, and yields one dict for each figure or table with the
arguments of `tools.bench.report.emit`: `figure`, `label`, `seed` and the results. Results that take
long to compute are made through `kept` (pieces.py).
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from edged.errors import InvalidArgument
from tools.bench.papers.pieces import keeper
from tools.bench.report import emit

PAPERS = {
    "partial-loading": "tools.bench.papers.partial_loading",
    "j3o": "tools.bench.papers.j3o",
}


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "papers", help="the figures of the papers, ours beside the printed"
    )
    parser.add_argument(
        "--only", default=",".join(PAPERS), metavar="A,B", help=f"of {', '.join(PAPERS)}"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="few seeds, to see that it works")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep pieces here; a run that was stopped goes on"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    chosen = args.only.split(",")
    if unknown := set(chosen) - PAPERS.keys():
        raise InvalidArgument(f"--only: must be of {', '.join(PAPERS)}, got {sorted(unknown)[0]!r}")
    for folder in (args.out, args.keep):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    for paper in chosen:
        kept = keeper(args.keep, f"{paper}-quick" if args.quick else paper)
        for line in importlib.import_module(PAPERS[paper]).run(args.out, args.quick, kept):
            emit(f"papers/{paper}", **line)
    return 0

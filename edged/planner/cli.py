"""`edged plan`: compute a loading plan or a fleet plan from a file, or generate an instance."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from typing import Any

# Each module registers `edged plan NAME` and `edged plan generate NAME`.
_PLANNERS = ("edged.planner.loading.cli", "edged.planner.fleet.cli")


def register(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `plan` to the command line of `edged`."""
    plan = commands.add_parser(
        "plan",
        help="compute a loading plan or a fleet plan, or generate an instance",
        description="Plans are computed ahead, from a file; no daemon is needed.",
    )
    kinds = plan.add_subparsers(title="plans", metavar="KIND", required=True)
    generate = kinds.add_parser(
        "generate", help="a random instance of a family of the papers, as JSON"
    )
    families = generate.add_subparsers(title="instances", metavar="KIND", required=True)
    for name in _PLANNERS:
        if importlib.util.find_spec(name) is None:
            continue
        planner = importlib.import_module(name)
        planner.register_solve(kinds)
        planner.register_generate(families)

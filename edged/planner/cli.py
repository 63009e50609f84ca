"""`edged plan`: compute a loading plan or a fleet plan from a file, or generate an instance."""

from __future__ import annotations

import argparse
from typing import Any

from edged.planner.fleet import cli as fleet
from edged.planner.loading import cli as loading


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
    for planner in (loading, fleet):
        planner.register_solve(kinds)
        planner.register_generate(families)

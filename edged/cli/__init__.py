"""The `edged` command. Each module of `_COMMANDS` registers its subcommands and does no work."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

from edged import __version__
from edged.cli.console import run_command

_COMMANDS = (
    "edged.cli.serve",
    "edged.cli.infer",
    "edged.cli.status",
    "edged.cli.models",
    "edged.cli.simulate",
    "edged.planner.cli",
)


def parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    top = argparse.ArgumentParser(
        prog="edged", description="Serve many vision tasks from shared parameter blocks."
    )
    top.add_argument("--version", action="version", version=f"edged {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in _COMMANDS:
        importlib.import_module(name).register(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(parser(), argv)

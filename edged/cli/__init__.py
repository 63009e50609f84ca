"""The `edged` command. A module is imported when its command is asked for, or help is."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from edged import __version__, logs
from edged.cli.console import run_command

_COMMANDS = {
    "serve": "edged.cli.serve",
    "check": "edged.cli.serve",
    "replay": "edged.cli.serve",
    "schema": "edged.cli.schema",
    "infer": "edged.cli.infer",
    "status": "edged.cli.status",
    "top": "edged.cli.top",
    "models": "edged.cli.models",
    "doctor": "edged.cli.doctor",
    "profile": "edged.cli.profile",
    "prepare": "edged.cli.prepare",
    **dict.fromkeys(("load", "unload", "pin", "unpin", "reload", "residency"), "edged.cli.admin"),
    "simulate": "edged.cli.simulate",
    "plan": "edged.planner.cli",
}


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """The grammar of the command line; of one command alone where that is known."""
    top = argparse.ArgumentParser(
        prog="edged", description="Serve many vision tasks from shared parameter blocks."
    )
    top.add_argument("--version", action="version", version=f"edged {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    wanted = [_COMMANDS[only]] if only in _COMMANDS else _COMMANDS.values()
    for module in dict.fromkeys(wanted):
        importlib.import_module(module).register(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if arguments and arguments[0] == "serve":
        logs.begin()  # so that mistakes on its command line have a priority in the journal
    return run_command(parser(arguments[0] if arguments else None), arguments)

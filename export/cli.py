"""The `edged-export` command, which puts models and heads into a store and lists its content."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edged import __version__
from edged.cli.console import run_command
from export import cli_add, cli_engines, cli_head, cli_look, cli_recheck


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="edged-export", description="Turn models into parameter blocks that they share."
    )
    top.add_argument("--version", action="version", version=f"edged-export {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (cli_add, cli_head, cli_look, cli_recheck, cli_engines):
        module.register(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(parser(), argv)

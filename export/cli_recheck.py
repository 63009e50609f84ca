"""The command `edged-export recheck`: today's checks on models that an older version stored."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from edged.cli.console import print_json, say, table
from edged.store import Store
from export.cli_look import extra, new_command


def register(commands: Any) -> None:
    command = new_command(
        commands, "recheck", _recheck, "look with today's checks at models of older versions"
    )
    command.add_argument("models", nargs="*", metavar="MODEL", help="default: all")


def _recheck(args: argparse.Namespace) -> None:
    with extra():
        from export.recheck import recheck

    found = recheck(Store(args.store), args.models)
    if args.json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    rows = [[one.name, one.before, one.after, one.reason] for one in found]
    say(table(["model", "was served", "is served now", "because"], rows))

"""The command `edged-export engines`: what backend tensorrt would build of a store."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from edged.cli.console import print_json, say, show_bytes, table
from edged.store import Store
from export.cli_look import extra, new_command


def register(commands: Any) -> None:
    command = new_command(
        commands, "engines", _engines, "what backend tensorrt would build; builds nothing"
    )
    command.add_argument("models", nargs="*", metavar="MODEL", help="default: all")


def _engines(args: argparse.Namespace) -> None:
    with extra():
        from export.engines import engines

    found = engines(Store(args.store), args.models)
    if args.json:
        print_json(msgspec.to_builtins(found))
        return
    rows = [
        [
            line.block[:12],
            show_bytes(line.file_bytes),
            ", ".join(line.models),
            "its own" if line.engine == line.block else line.engine,
            f"{line.float_operators} of {line.operators}",
            line.note,
        ]
        for line in found
    ]
    say(table(["block", "bytes", "models", "engine", "operators in FP32", "note"], rows))
    say(f"{len({line.engine for line in found})} engines for {len(found)} blocks")

"""`edged serve`, `check`, `replay`: running the daemon, and looking at what it reads and writes."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

import msgspec

from edged import config as configuration
from edged.cli.console import print_json, say
from edged.config import Config

DEFAULT_CONFIG = Path("/etc/edged/edged.toml")


def register(commands: Any) -> None:
    serve = commands.add_parser("serve", help="run the daemon in the foreground")
    serve.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE")
    serve.add_argument(
        "--record", type=Path, metavar="FILE", help="write every decision to FILE (see replay)"
    )
    serve.set_defaults(run=_serve)

    check = commands.add_parser(
        "check",
        help="check a configuration, and this machine for it",
        description="Check a configuration, this machine for it, and the store that it names: "
        "every block is read. The exit status is 1 if a model cannot be served.",
    )
    check.add_argument("config", type=Path)
    check.add_argument("--json", action="store_true", help="print it with all defaults")
    check.set_defaults(run=_check)

    replay = commands.add_parser("replay", help="decide again what a recorded daemon decided")
    replay.add_argument("recording", type=Path, help="what --record wrote, plain or by gzip")
    replay.set_defaults(run=_replay)


def _serve(args: argparse.Namespace) -> int:
    from edged.daemon import serve  # imports sockets and arrays, which other commands do without

    return serve(configuration.read(args.config), record=args.record)


def _check(args: argparse.Namespace) -> int:
    from edged.daemon.models.held_store import Shelf, inspect
    from edged.daemon.preflight import check
    from edged.store import Store

    config = configuration.read(args.config)
    store = Store(config.store)
    with contextlib.closing(Shelf(store, config.models)) as shelf:
        check(config, shelf)
    if args.json:
        print_json(msgspec.to_builtins(config))
    else:
        say(f"{args.config} is good: {_summary(config)}")
    unusable = inspect(store, config.models)
    for name, why in unusable.items():
        say(f"edged: model {name} cannot be served: {why}", error=True)
    return 1 if unusable else 0


def _replay(args: argparse.Namespace) -> int:
    from edged.observe.recording import replay

    say(f"{replay(args.recording)} turns, every decision the same")
    return 0


def _summary(config: Config) -> str:
    return (
        f"store {config.store}, {config.device.backend}, "
        f"listening at {', '.join(config.server.endpoints)}"
    )

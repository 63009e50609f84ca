"""`edged serve`, `check`, `replay`: running the daemon, and looking at what it reads and writes."""

from __future__ import annotations

import argparse
import contextlib
import logging
from pathlib import Path
from typing import Any

import msgspec

from edged import config as configuration
from edged import logs
from edged.cli.console import print_json, printable, say
from edged.config import Config
from edged.errors import EdgedError
from edged.systemd import Notifier

log = logging.getLogger("edged")

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
        "every block is read and the device is opened. The exit status is that of the start: 2 if "
        "only an edit of the configuration or the store helps, 1 if the machine is not ready. It "
        "is also 1 if a model cannot be served, which the start would leave out.",
    )
    check.add_argument("config", type=Path)
    check.add_argument("--json", action="store_true", help="print it with all defaults")
    check.set_defaults(run=_check)

    replay = commands.add_parser("replay", help="decide again what a recorded daemon decided")
    replay.add_argument("recording", type=Path, help="what --record wrote, plain or by gzip")
    replay.set_defaults(run=_replay)


def _serve(args: argparse.Namespace) -> int:
    logs.begin()
    try:
        from edged.daemon import serve  # imports sockets and arrays, which others do without

        return serve(configuration.read(args.config), record=args.record)
    except EdgedError as error:
        words = printable(str(error))
        log.error("%s", words)
        Notifier().status(f"not started: {words}")
        return error.start_status


def _check(args: argparse.Namespace) -> int:
    """The checks of a start, and those of the worker that it would start."""
    try:
        config = configuration.read(args.config)
        unusable = _look(config)
    except EdgedError as error:
        say(printable(f"edged: {error}"), error=True)
        return error.start_status
    if args.json:
        print_json(msgspec.to_builtins(config))
    elif not unusable:
        say(f"{args.config} is good: {_summary(config)}")
    for name, why in unusable.items():
        say(f"edged: model {name} cannot be served: {why}", error=True)
    return 1 if unusable else 0


def _look(config: Config) -> dict[str, str]:
    """The models that cannot be served, and why. Raises what a start would end with."""
    from edged.daemon.models.held_store import HeldStore
    from edged.daemon.places import addresses_in_use
    from edged.daemon.preflight import check, check_blocks, check_device, chosen
    from edged.store import Store

    config, why = chosen(config)
    if why:
        say(f"edged: {why}", error=True)
    with contextlib.closing(HeldStore(Store(config.store), config.models)) as held:
        checked = check(config, held)
        check_device(checked)
    unusable = check_blocks(config)
    for line in addresses_in_use(config):
        say(
            f"edged: {line}: good if that is the daemon to be restarted, else a start waits for it",
            error=True,
        )
    return unusable


def _replay(args: argparse.Namespace) -> int:
    from edged.observe.recording import replay

    say(f"{replay(args.recording)} turns, every decision the same")
    return 0


def _summary(config: Config) -> str:
    return (
        f"store {config.store}, {config.device.backend}, "
        f"listening at {', '.join(config.server.endpoints)}"
    )

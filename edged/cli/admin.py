"""`edged load`, `unload`, `pin`, `unpin`, `reload`, `residency`: changes to a running daemon.

They talk to the admin endpoint, whose socket only the account of the service and root may use.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edged.cli.connection import add_connection_options, plain
from edged.cli.console import print_json, say, show_bytes, table
from edged.wire import DEFAULT_ADMIN_ENDPOINT

if TYPE_CHECKING:
    from edged import wire
    from edged.client.admin import Admin

_OF_A_MODEL = {
    "load": "bring a model to the device now, and serve it if it was unloaded",
    "unload": "serve a model no more until it is loaded again; gives its memory back",
    "pin": "bring a model to the device and never evict it",
    "unpin": "let a pinned model be evicted again",
}
_TO: dict[str, wire.Residence] = {
    "load": "loaded",
    "unload": "unloaded",
    "pin": "pinned",
    "unpin": "unpinned",
}  # what each command makes of a model


def register(commands: Any) -> None:
    for name, help in _OF_A_MODEL.items():
        parser = commands.add_parser(name, help=help)
        parser.add_argument("model", metavar="MODEL", help="as edged models names it")
        _add_options(parser, timeout_s=300.0)
        parser.set_defaults(run=_change, change=name)
    parser = commands.add_parser(
        "reload",
        help="serve what the store holds now",
        description="Read the store again: new versions of models are brought in beside the old "
        "ones and take over when they are loaded. If any of it fails, all is served as before.",
    )
    _add_options(parser, timeout_s=300.0)
    parser.set_defaults(run=_reload)
    parser = commands.add_parser("residency", help="which models are on the device")
    _add_options(parser, timeout_s=5.0)
    parser.set_defaults(run=_residency)


def _add_options(parser: argparse.ArgumentParser, *, timeout_s: float) -> None:
    add_connection_options(parser, timeout_s=timeout_s)
    parser.set_defaults(endpoint=DEFAULT_ADMIN_ENDPOINT)


def _admin(args: argparse.Namespace) -> Admin:
    from edged.client.admin import Admin  # imports sockets, which other commands do without

    return Admin(args.endpoint, timeout_s=args.timeout)


def _change(args: argparse.Namespace) -> int:
    with _admin(args) as admin:
        admin.set_model(args.model, _TO[args.change])
    if args.json:
        print_json({args.change: args.model})
    else:
        say(f"{args.model} is {_TO[args.change]}")
    return 0


def _reload(args: argparse.Namespace) -> int:
    with _admin(args) as admin:
        reply = admin.reload()
    if args.json:
        print_json(plain(reply))
        return 0
    parts = {"added": reply.added, "changed": reply.changed, "removed": reply.removed}
    lines = [f"{what}: {', '.join(names)}" for what, names in parts.items() if names]
    say("\n".join(lines) or "nothing has changed")
    return 0


def _residency(args: argparse.Namespace) -> int:
    with _admin(args) as admin:
        reply = admin.residency()
    if args.json:
        print_json(plain(reply))
        return 0
    headers = ["model", "version", "state", "blocks", "on the device", "of", "pinned"]
    say(table(headers, [_row(model) for model in reply.models]))
    say(f"{show_bytes(reply.resident_bytes)} of blocks on the device")
    return 0


def _row(model: wire.ModelResidency) -> list[str]:
    return [
        model.name,
        model.version,
        model.state,
        f"{model.blocks_resident}/{model.blocks}",
        show_bytes(model.resident_bytes),
        show_bytes(model.total_bytes),
        "yes" if model.pinned else "",
    ]

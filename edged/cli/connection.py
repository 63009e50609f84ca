"""What the commands that talk to a daemon share: options, the client, forms of replies."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import msgspec

from edged.wire import DEFAULT_ENDPOINT

if TYPE_CHECKING:
    from edged.client import Client


def add_connection_options(parser: argparse.ArgumentParser, *, timeout_s: float) -> None:
    """Add `--endpoint`, `--timeout` and `--json`."""
    parser.add_argument(
        "--endpoint", default=DEFAULT_ENDPOINT, help="where the daemon listens (%(default)s)"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=timeout_s,
        metavar="SECONDS",
        help="for each answer (%(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def client_of(args: argparse.Namespace) -> Client:
    """The client that the options describe, not connected yet."""
    from edged.client import Client  # imports sockets and arrays, which other commands do without

    return Client(args.endpoint, timeout_s=args.timeout, connect_timeout_s=min(5.0, args.timeout))


def plain(reply: msgspec.Struct) -> dict[str, Any]:
    """A reply as it is printed as JSON, without the id of the request; only the wire needs that."""
    fields: dict[str, Any] = msgspec.to_builtins(reply)
    fields.pop("id", None)
    return fields


def show_ms(us: float) -> str:
    """`12.3 ms`."""
    return f"{us / 1e3:.1f} ms"


def show_span(seconds: int) -> str:
    """The span of a window, as `1 min`."""
    return f"{seconds // 60} min"


def show_duration(seconds: float) -> str:
    """A duration, as `3 d 4 h`, `1 h 2 min`, `5 min 6 s` or `7 s`."""
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    left = int(seconds)
    parts: list[str] = []
    for unit, size in units:
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"

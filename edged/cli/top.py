"""`edged top`: what a daemon is doing now, on one screen that follows it."""

from __future__ import annotations

import argparse
import contextlib
import select
import shutil
import sys
import termios
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edged.cli.connection import add_connection_options, client_of, plain
from edged.cli.console import print_json, printable, say
from edged.cli.dashboard import screen
from edged.errors import EdgedError, InvalidArgument

if TYPE_CHECKING:
    from edged.client import Client

# An alternate screen without a cursor, and back; xterm's control sequences.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _TO_END_OF_LINE, _TO_END = "\x1b[H", "\x1b[K", "\x1b[J"
_LEAST_S, _MOST_S = 0.2, 3600.0
_USUAL = (80, 24)  # columns and lines


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "top",
        help="what a daemon is doing now, on one screen",
        description="Tasks, batches, blocks and memory of a daemon, as of the last minute. The "
        "screen follows the daemon until q or Ctrl-C.",
    )
    add_connection_options(parser, timeout_s=5.0)
    parser.add_argument(
        "--interval",
        type=float,
        default=2.0,
        metavar="SECONDS",
        help="between two looks (%(default)g)",
    )
    parser.add_argument("--once", action="store_true", help="look once, and print that")
    parser.set_defaults(run=_top)


def _top(args: argparse.Namespace) -> int:
    if not _LEAST_S <= args.interval <= _MOST_S:
        raise InvalidArgument(f"--interval must be {_LEAST_S:g} to {_MOST_S:g} seconds")
    with client_of(args) as client:
        if args.once:
            _print(client, as_json=args.json)
        elif args.json:
            _print(client, as_json=True)
            while not _q_is_pressed(args.interval):
                _print(client, as_json=True)
        elif not sys.stdout.isatty():
            raise InvalidArgument("standard output is no terminal: add --once, or --json")
        else:
            _follow(client, args.interval)
    return 0


def _print(client: Client, *, as_json: bool) -> None:
    statistics = client.statistics()
    if as_json:
        print_json(plain(statistics))
        sys.stdout.flush()
    else:
        say("\n".join(screen(statistics, _terminal_size()[0])))


def _follow(client: Client, interval_s: float) -> None:
    """A daemon that goes away is waited for: it may be restarting."""
    with _whole_screen():
        while True:
            width, height = _terminal_size()
            try:
                lines = screen(client.statistics(), width, height)
            except EdgedError as error:
                lines = [str(error)[:width]]
            text = "".join(f"{printable(line)}{_TO_END_OF_LINE}\r\n" for line in lines[:height])
            sys.stdout.write(_HOME + text.removesuffix("\r\n") + _TO_END)
            sys.stdout.flush()
            if _q_is_pressed(interval_s):
                return


def _terminal_size() -> tuple[int, int]:
    """Columns and lines. A terminal that nobody has told its size says 0, also to Python 3.10."""
    columns, lines = shutil.get_terminal_size(_USUAL)
    return columns or _USUAL[0], lines or _USUAL[1]


@contextlib.contextmanager
def _whole_screen() -> Iterator[None]:
    """The terminal for this program alone, which sees keys as they are pressed."""
    before = termios.tcgetattr(sys.stdin) if sys.stdin.isatty() else None
    sys.stdout.write(_ENTER)
    try:
        if before is not None:
            tty.setcbreak(sys.stdin)
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()
        if before is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _q_is_pressed(within_s: float) -> bool:
    if not sys.stdin.isatty():
        select.select([], [], [], within_s)
        return False
    ready, _, _ = select.select([sys.stdin], [], [], within_s)
    return bool(ready) and sys.stdin.read(1) in ("q", "Q", "")

"""What the command lines share: running a command, printing lines, tables and JSON, sizes.

Names, labels and messages come from files and from other processes. A terminal must show them and
obey nothing in them, so commands print with `say` and `print_json` alone.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from edged.errors import EdgedError, InvalidArgument

_WIDTH = 70  # columns of the line that shows progress
_JOINERS = "\u200c\u200d"  # some scripts cannot be read without these
_NOT_ESCAPED = re.compile("[\x7f-\x9f\ud800-\udfff]")  # JSON escapes the controls below them


def run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse `argv` and call the chosen command's `run(args) -> int`.

    An EdgedError becomes one line on standard error. The exit status is 2 when another command line
    would help, else 1. Any other exception is a bug and keeps its traceback.
    """
    args = parser.parse_args(argv)
    try:
        with _results_alone():
            return int(args.run(args) or 0)
    except EdgedError as error:
        say(printable(f"{parser.prog}: {error}"), error=True)
        return 2 if isinstance(error, InvalidArgument) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone: print nothing more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


@contextlib.contextmanager
def _results_alone() -> Iterator[None]:
    """Let standard output hold what the command prints and nothing else.

    Native libraries write to its descriptor, as solvers do to greet: that goes to standard error.
    """
    before: TextIO = sys.stdout
    if not before or not sys.stderr or before != sys.__stdout__:
        yield  # it is closed, or another program has replaced it
        return
    before.flush()
    descriptor = before.fileno()
    ours, kept = os.dup(descriptor), os.dup(descriptor)
    os.dup2(sys.stderr.fileno(), descriptor)
    try:
        with open(ours, "w", encoding=before.encoding, errors=before.errors) as sys.stdout:
            yield
    finally:
        sys.stdout = before
        ctypes.CDLL(None).fflush(None)  # C's buffer goes to standard error, too
        os.dup2(kept, descriptor)
        os.close(kept)


def printable(text: str) -> str:
    """`text` in one line. What a terminal would obey or hide is escaped as Python does it."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_shown, text))


def say(text: str, *, error: bool = False) -> None:
    """Print lines that hold names, labels or messages of others, to standard error if `error`."""
    lines = map(printable, text.split("\n"))
    print("\n".join(lines), file=sys.stderr if error else sys.stdout)


def show(text: str) -> None:
    """Show progress on the terminal's present line, in place of what was shown there last."""
    print(f"\r{printable(text)[:_WIDTH]:<{_WIDTH}}\r", end="", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One JSON value for programs."""
    text = json.dumps(value, ensure_ascii=False)
    print(_NOT_ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns of figures are aligned to the right, all others to the left."""
    cells = [list(map(printable, row)) for row in (headers, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    numeric = [
        bool(rows) and all(re.match(r"[+-]?\.?\d", row[i]) for row in rows if row[i])
        for i in range(len(headers))
    ]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()

    return "\n".join([line(cells[0]), "  ".join("-" * w for w in widths), *map(line, cells[1:])])


def show_bytes(count: int) -> str:
    """`12.9 MB`; decimal units, as disks and manifests count."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def _shown(character: str) -> str:
    """The character. Controls, marks of direction, line separators, lone surrogates are escaped."""
    kind = unicodedata.category(character)
    if character in _JOINERS or not (kind[0] == "C" or kind in ("Zl", "Zp")):
        return character
    return character.encode("unicode_escape").decode()

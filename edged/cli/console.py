"""What the command lines share: running a command, tables, JSON, bytes and times."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from edged.errors import EdgedError, InvalidArgument


def run_command(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse `argv` and call the chosen command's `run(args) -> int`.

    An EdgedError becomes one line on standard error: status 2 when the caller can mend it by
    calling differently, 1 otherwise. Anything else is a bug and keeps its traceback.
    """
    args = parser.parse_args(argv)
    try:
        with _results_alone():
            return int(args.run(args) or 0)
    except EdgedError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidArgument) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


@contextlib.contextmanager
def _results_alone() -> Iterator[None]:
    """Standard output holds what the command prints and nothing else.

    What native libraries write to its descriptor, as solvers do to greet, goes to standard error.
    """
    before: TextIO = sys.stdout
    if not before or not sys.stderr or before != sys.__stdout__:
        yield  # it was closed, or is what another program puts in its place
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
        ctypes.CDLL(None).fflush(None)  # what C has kept, while its descriptor is standard error
        os.dup2(kept, descriptor)
        os.close(kept)


def print_json(value: Any) -> None:
    """One JSON value for programs."""
    print(json.dumps(value, ensure_ascii=False))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by content: text to the left, figures to the right."""
    cells = [list(headers), *[list(row) for row in rows]]
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

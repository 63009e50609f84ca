"""Files for the planners' command lines: the only place where they touch a disk or a pipe."""

from __future__ import annotations

import sys
from pathlib import Path

from edged.errors import InvalidArgument, NotFound


def read_instance(path: str) -> bytes:
    """The bytes of the file, or of standard input for `-`. Raises NotFound or InvalidArgument."""
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read: {error.strerror}") from None


def write_output(path: str, text: str) -> None:
    """Write `text` and a newline to the file, or to standard output for `-`."""
    if path == "-":
        print(text)
        return
    try:
        Path(path).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be written: {error.strerror}") from None

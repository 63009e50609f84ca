"""Files of labels: the names of a model's classes, one a line.

They are UTF-8, with or without a byte order mark, and with any ending of lines. An empty line is a
class without a name, except at the end of the file. Lines such as `0 person` name their class, if
the numbers begin at 0 and ascend; a missing number is a class without a name.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Sequence
from pathlib import Path as File

from edged.errors import InvalidArgument

_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_NUMBERED = re.compile(r"(\d{1,6})[ \t:,]+(\S.*)")


def decode(data: bytes, file: File) -> tuple[str, ...]:
    """The label of each class. Raises InvalidArgument that names the line that cannot be read."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            raise _wrong(file, f"is written in {encoding}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} in line {line} is not UTF-8"
        raise _wrong(file, f"is not written in UTF-8: {what}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise _wrong(file, f"has a zero byte in line {line}, as of UTF-16")
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
    while lines and not lines[-1]:
        lines.pop()
    return _by_number(lines) or tuple(lines)


def check_name(folder: File) -> str:
    """The name of a folder as a label. Raises InvalidArgument if it is not text."""
    try:
        folder.name.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"the name of the folder {folder.name!r} is not UTF-8: rename it"
        ) from error
    return folder.name


def _by_number(lines: Sequence[str]) -> tuple[str, ...] | None:
    """The labels by the numbers of their lines; None unless every line begins with a number."""
    found = [match for match in map(_NUMBERED.fullmatch, lines) if match]
    numbers = [int(match[1]) for match in found]
    ascend = all(one < other for one, other in itertools.pairwise(numbers))
    if not found or len(found) < len(lines) or numbers[0] != 0 or not ascend:
        return None
    names = dict(zip(numbers, (match[2] for match in found), strict=True))
    return tuple(names.get(number, "") for number in range(numbers[-1] + 1))


def _wrong(file: File, what: str) -> InvalidArgument:
    return InvalidArgument(f"{file} {what}: save it as UTF-8, one label a line")

"""A header as it was received: msgpack of any content to plain values, and these to a header. Pure.

Only headers that are rare or wrong come here; `edged.wire.codec` decodes the others in one step.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgpack
import msgspec

from edged.errors import InvalidArgument

_H = TypeVar("_H")


def unpack(frame: bytes | bytearray | memoryview, max_items: int) -> Any:
    """The msgpack value of a header: maps with text keys, lists, text, numbers, booleans, null.

    An array or a map is allocated when its length is read, before its items are there, and they
    nest: `max_items` bounds each of them.
    """
    try:
        return msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=True,
            max_str_len=memoryview(frame).nbytes,
            max_bin_len=0,
            max_array_len=max_items,
            max_map_len=max_items,
            max_ext_len=0,
        )
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        what = one_line(str(error), 100) or type(error).__name__
        raise InvalidArgument(f"the header is not one plain msgpack map: {what}") from error


def convert(raw: Any, header_type: type[_H], what: str) -> _H:
    try:
        return msgspec.convert(raw, header_type)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidArgument(f"{what}: {one_line(str(error), 300)}") from error


def one_line(text: str, limit: int = 400) -> str:
    """`text` made fit for a log line or a terminal: printable, one line, at most `limit` long."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."

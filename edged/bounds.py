"""Types with bounds for the values of a configuration. Pure.

Decoding a configuration checks the bounds, and the error names the key; values that are made in
Python are not checked. No daemon could start, or serve, with values outside of the bounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, get_args

import msgspec
from msgspec import Meta

Seconds: TypeAlias = Annotated[float, Meta(ge=0.001, le=86_400.0)]
"""A time-out or an interval, at most a day."""

RowSeconds: TypeAlias = Annotated[float, Meta(ge=1e-6, le=3_600.0)]
"""The time that one row takes."""

Bytes: TypeAlias = Annotated[int, Meta(ge=1, le=2**40)]

BytesOrNone: TypeAlias = Annotated[int, Meta(ge=0, le=2**40)]
"""A size for which 0 has a meaning: no bound, or none of it."""

Count: TypeAlias = Annotated[int, Meta(ge=1, le=65_536)]

Rows: TypeAlias = Count

Threads: TypeAlias = Annotated[int, Meta(ge=0, le=256)]
"""A number of threads or lanes; 0: as many as are of use here."""

Levels: TypeAlias = Annotated[int, Meta(ge=1, le=100)]
"""A number of priorities; each has a queue of its own."""

PathText: TypeAlias = Annotated[str, Meta(min_length=1, max_length=4_000, pattern=r"^[^\x00]+\Z")]

ModelName: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")]


def explained(error: msgspec.ValidationError, of: Any, says: Mapping[str, str] = {}) -> str:
    """The message of an error in a value of the struct `of`.

    msgspec's message names the key. What the key may be is added where that message does not say.

    says  what to add for a key, by the path that the error gives it
    """
    text = str(error)
    key = text.rpartition(" - at `")[2].rstrip("`")
    if key in says:
        return f"{text}: {says[key]}"
    if not text.startswith("Invalid enum value"):
        return text
    for name in key.split(".")[1:]:
        of = {field.name: field.type for field in msgspec.structs.fields(of)}[name]
    return f"{text}: one of {', '.join(map(str, get_args(of)))}"

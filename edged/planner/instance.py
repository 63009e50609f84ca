"""Reads an instance: JSON becomes a frozen Struct, or an error of one line that names the field.

Each planner declares its Structs with the number types below, so that msgspec finds a value out of
range, NaN, an infinity or a wrong type, and `decode` says so. Knows no planner.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Annotated, Any, TypeVar

import msgspec

from edged.errors import PlanError

_LARGEST = sys.float_info.max  # excludes infinities; NaN fails every comparison

Finite = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]
NonNegative = Annotated[float, msgspec.Meta(ge=0.0, le=_LARGEST)]
Positive = Annotated[float, msgspec.Meta(gt=0.0, le=_LARGEST)]
# Numbers that are multiplied with each other. The limit is far above any real value, and products
# are far from overflow.
Amount = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]
PositiveAmount = Annotated[float, msgspec.Meta(gt=0.0, le=1e12)]
Seconds = Annotated[float, msgspec.Meta(ge=1e-9, le=1e12)]
Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Index = Annotated[int, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]

T = TypeVar("T")

_KINDS = {
    "int": "an integer", "float": "a number", "str": "a string", "bool": "true or false",
    "array": "a list", "object": "an object", "null": "null",
}  # fmt: skip


def decode(data: bytes | str, kind: str, struct: type[T]) -> T:
    """The instance in `data`, alone or wrapped as `{"instance": .., "expected": ..}`.

    Its field `type` must be `kind`. Raises PlanError, one line that names the field, what it must
    be and what it is: `users[3].R: must be > 0, got NaN`.
    """
    try:
        raw = json.loads(data)
    except RecursionError:
        raise PlanError("the instance is nested too deeply to be one") from None
    except ValueError as error:
        raise PlanError(f"the instance is not JSON: {error}") from None
    if isinstance(raw, dict) and "type" not in raw and "instance" in raw:
        raw = raw["instance"]
    if not isinstance(raw, dict):
        raise PlanError(f"the instance must be an object, got {_show(raw)}")
    if "type" not in raw:
        raise PlanError(f'type: missing; it must be "{kind}"')
    if raw["type"] != kind:
        raise PlanError(f'type: must be "{kind}", got {_show(raw["type"])}')
    return convert(raw, struct)


def convert(raw: Any, struct: type[T]) -> T:
    """Converts `raw`, which json.loads made, to a `struct`. Raises PlanError naming the field."""
    try:
        return msgspec.convert(raw, struct)
    except msgspec.ValidationError as error:
        raise PlanError(_explain(str(error), raw)) from None


def _explain(message: str, raw: Any) -> str:
    """msgspec's sentence as `field: what it must be, what it is`."""
    text, _, path = message.partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if missing := re.search(r"missing required field `(.+)`", text):
        return f"{path}.{missing[1]}: missing".lstrip(".")
    value = _show(_at(raw, path))
    if bound := re.search(r"`(?:float|int)[^`]*` ([<>]=?) (\S+)", text):
        if bound[1] == "<=" and float(bound[2]) == _LARGEST:
            return f"{path}: must be finite, got {value}"
        return f"{path}: must be {bound[1]} {float(bound[2]):g}, got {value}"
    if kinds := re.match(r"Expected `([^`]+)`(?:(.*), got|$)", text):
        expected = " or ".join(_KINDS.get(kind, kind) for kind in kinds[1].split(" | "))
        return f"{path}: must be {expected}, got {value}"
    return f"{path}: {text[:1].lower()}{text[1:]}, got {value}"


def _at(raw: Any, path: str) -> Any:
    """The value at a path such as `users[3].R`."""
    for key, index in re.findall(r"(\w+)|\[(\d+)\]", path):
        raw = raw[int(index)] if index else raw[key]
    return raw


def _show(value: Any) -> str:
    """A value in at most 40 characters, as JSON writes it."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."

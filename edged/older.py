"""Models that an older edged-export has put into a store, and what shows that they must not run.

It took a length that depends on the data (how many boxes are left) for a constant. What then still
shows in a block: the operator that makes the length, or a single number that is computed with and
that is no extent of anything. `edged-export recheck` looks more closely, with a runtime.

Reads as much of an ONNX file as that takes: protocol buffers are fields of a number, a form and a
value, and what is not looked for is stepped over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from edged.errors import StoreError
from edged.manifest import CHECKS, Manifest

_DATA_SIZED = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}  # operators
_WIDTHS = {6: 4, 7: 8, 9: 1}  # bytes, by number of the type: int32, int64, bool

# Numbers of fields.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_TYPE = 1, 4
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9

_Field: TypeAlias = "tuple[int, int | memoryview]"  # its number; a number, or bytes


def check_fit(model: Manifest, block_bytes: Callable[[str], bytes]) -> None:
    """Raise StoreError if the model must not be served, or if a block is damaged."""
    reason = model.unfit
    if not reason and model.checks < CHECKS:
        extents = {extent for value in model.values for extent in value.shape}
        blocks = dict.fromkeys(step.block for step in model.steps)
        found = (_suspicion(block, block_bytes(block), extents) for block in blocks)
        reason = next(filter(None, found), "")
    if reason:
        raise StoreError(
            f"model {model.name!r} is not served: {reason}; run edged-export recheck, or export "
            "it again"
        )


@dataclass(slots=True)
class _Block:
    """What is looked at: types of operators with their inputs, single integers, extents."""

    operators: list[tuple[str, list[str]]] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    extents: set[int] = field(default_factory=set)


def _suspicion(block: str, data: bytes, extents: Iterable[int]) -> str:
    try:
        found = _read(data)
    except (IndexError, UnicodeDecodeError) as error:
        raise StoreError(f"block {block[:12]} is no ONNX file: export its models again") from error
    known = {n for n in found.extents.union(extents) if n > 0}
    for operator, inputs in found.operators:
        if operator in _DATA_SIZED:
            return (
                f"it has {operator}, and the edged-export that made it may have taken the length "
                "of the result for a constant"
            )
        number = found.numbers.get(inputs[0]) if inputs else None
        if number is None or operator not in ("Cast", "Where"):
            continue
        if operator == "Where" or number < 1 or all(extent % number for extent in known):
            return (
                f"its {operator} reads the constant {number}, which may have been a length that "
                "depends on the data"
            )
    return ""


def _read(data: bytes) -> _Block:
    found = _Block()
    for number, graph in _fields(memoryview(data)):
        if number == _MODEL_GRAPH and isinstance(graph, memoryview):
            for part, content in _fields(graph):
                if part == _GRAPH_NODE and isinstance(content, memoryview):
                    found.operators.append(_operator(content))
                elif part == _GRAPH_INITIALIZER and isinstance(content, memoryview):
                    _tensor(content, found)
    return found


def _operator(data: memoryview) -> tuple[str, list[str]]:
    kind, inputs = "", []
    for number, value in _fields(data):
        if number == _NODE_INPUT and isinstance(value, memoryview):
            inputs.append(str(value, "utf-8"))
        elif number == _NODE_TYPE and isinstance(value, memoryview):
            kind = str(value, "utf-8")
    return kind, inputs


def _tensor(data: memoryview, found: _Block) -> None:
    name, width, extents, raw = "", None, list[int](), memoryview(b"")
    for number, value in _fields(data):
        if number == _TENSOR_DIMS:
            extents += [value] if isinstance(value, int) else _varints(value)
        elif number == _TENSOR_TYPE and isinstance(value, int):
            width = _WIDTHS.get(value)
        elif number == _TENSOR_NAME and isinstance(value, memoryview):
            name = str(value, "utf-8")
        elif number == _TENSOR_RAW and isinstance(value, memoryview):
            raw = value
    found.extents.update(extents)
    if width is not None and len(raw) == width:
        found.numbers[name] = int.from_bytes(raw, "little", signed=True)


def _fields(data: memoryview) -> Iterator[_Field]:
    """The fields of a message. Raises IndexError where it ends within one."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, form = key >> 3, key & 7
        if form == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(form)
        if size is None:
            size, at = _varint(data, at)
        if form not in (1, 2, 5) or at + size > len(data):
            raise IndexError(f"field {number} of form {form} does not end")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number that ends with the first byte below 128, and where it ends."""
    number = shift = 0
    while data[at] >= 128:
        number |= (data[at] & 127) << shift
        shift += 7
        at += 1
    return number | data[at] << shift, at + 1


def _varints(data: memoryview) -> list[int]:
    found, at = list[int](), 0
    while at < len(data):
        number, at = _varint(data, at)
        found.append(number)
    return found

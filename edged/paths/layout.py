"""A mixed batch, block by block: buffers, views into them, operations in order. Frozen values.

Made by `edged.paths.trie` and `edged.paths.drafting`, carried out by `edged.device.executor`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from edged.manifest import DataType

Ask: TypeAlias = tuple[str, ...]  # the models that a row is asked for, sorted

_BYTES: dict[DataType, int] = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8,
    "INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8, "FP16": 2, "FP32": 4, "FP64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """What one row of a buffer holds."""

    datatype: DataType
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return _BYTES[self.datatype] * math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Buffer:
    tensor: Tensor
    rows: int


@dataclass(frozen=True, slots=True)
class BufferView:
    """Rows `start` to `start + rows` of a buffer, which is an index into the layout's."""

    buffer: int
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class LayoutRun:
    """One run of one block."""

    block: str
    rows: int
    reads: tuple[BufferView, ...]
    writes: tuple[BufferView, ...]


@dataclass(frozen=True, slots=True)
class Gather:
    """Copy these rows of a buffer to a view of another one, in their order."""

    source: int
    rows: tuple[int, ...]
    target: BufferView


@dataclass(frozen=True, slots=True)
class Reorder:
    """Until operation `before` each block runs on all rows, so any order of rows will do there.

    The inputs in buffers `roots` may come in one; then the rows of `buffers` have to be brought
    into the layout's order. At this place fewer bytes move than among the inputs.
    """

    before: int
    roots: tuple[int, ...]
    buffers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows of one ask find their inputs (by index) and outputs (by model)."""

    inputs: tuple[tuple[int, BufferView], ...]
    outputs: dict[str, tuple[BufferView, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Everything about a batch but which rows it holds. Operations run in their order.

    Compared by identity: a Trie gives the same object for the same mix of rows.
    """

    buffers: tuple[Buffer, ...]
    roots: tuple[int, ...]  # buffers that hold nothing but inputs
    operations: tuple[LayoutRun | Gather, ...]
    places: dict[Ask, Place]
    reorder: Reorder | None  # None: nothing to gain

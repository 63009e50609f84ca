"""A mixed batch, block by block: buffers, views into them, operations in order. Frozen values.

`edged.paths.trie` and `edged.paths.drafting` make a layout, `edged.device.executor` carries it out.
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
    """The type and the shape of one row of a buffer."""

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
    """Rows `start` to `start + rows` of a buffer; `buffer` is an index into `Layout.buffers`."""

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
    """The place at which to bring rows into the layout's order, if the inputs have another one.

    Each block before operation `before` runs on all rows, so any order of rows is right there. The
    inputs in buffers `roots` may have an order of their own; the rows of `buffers` must then be
    brought into the layout's order. Fewer bytes move here than if the inputs were reordered.
    """

    before: int
    roots: tuple[int, ...]
    buffers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """The views of the inputs (by index) and outputs (by model) of the rows of one ask."""

    inputs: tuple[tuple[int, BufferView], ...]
    outputs: dict[str, tuple[BufferView, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The buffers and operations of a batch, whichever rows it holds. Operations run in order.

    Layouts are compared by identity: a Trie gives the same object for the same mix of rows.
    """

    buffers: tuple[Buffer, ...]
    roots: tuple[int, ...]  # buffers that hold nothing but inputs
    operations: tuple[LayoutRun | Gather, ...]
    places: dict[Ask, Place]
    reorder: Reorder | None  # None if reordering late saves nothing

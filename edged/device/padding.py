"""Which rows each run of a block has where blocks run only some numbers of rows. Pure.

What is recorded or built for a device is for a few sizes, and a run of other rows is padded to the
next one. The rows that pad follow those of the batch: they are read, and written again, and nobody
looks at them. A run can only be padded where no other rows follow in what it writes; elsewhere it
is cut into sizes that fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edged.paths.layout import BufferView, Gather, Layout, LayoutRun
from edged.profiles.microbatch import pieces


@dataclass(frozen=True, slots=True)
class Piece:
    """One run: `rows` of its operation from `first` on, run as `padded` rows."""

    first: int
    rows: int
    padded: int
    fills: tuple[BufferView, ...] = ()  # rows to write the last row before into, first of all

    def view(self, at: BufferView) -> BufferView:
        """What it uses of a view of its operation."""
        return BufferView(at.buffer, at.start + self.first, self.padded)


class PaddedLayout:
    """The pieces of each operation of a layout, and the rows that each buffer has with padding."""

    def __init__(
        self, layout: Layout, rows_at_once: Callable[[str], int | None], sizes: Sequence[int]
    ) -> None:
        """rows_at_once  most rows of one run of a block; None is any number
        sizes         ascending from 1, or none: then any number of rows runs as it is
        """
        self._layout = layout
        self._sizes = sizes
        self.rows = [buffer.rows for buffer in layout.buffers]
        self._filled = list(self.rows)  # rows that something has been written to
        self.pieces: list[tuple[Piece, ...]] = [  # by operation; none of one that copies
            () if isinstance(op, Gather) else tuple(self._pieces(op, rows_at_once(op.block)))
            for op in layout.operations
        ]

    def _pieces(self, op: LayoutRun, most: int | None) -> Iterator[Piece]:
        if not self._sizes:
            for first, rows in pieces(op.rows, most):
                yield Piece(first, rows, rows)
            return
        at_once = max(size for size in self._sizes if most is None or size <= most)
        for first, rows in pieces(op.rows, at_once):
            if self._is_last(op, first + rows):
                yield self._padded(op, first, rows)
            else:
                yield from self._cut(first, rows)

    def _is_last(self, op: LayoutRun, end: int) -> bool:
        """Whether no rows of the batch follow in what the operation writes."""
        buffers = self._layout.buffers
        return all(at.start + end == buffers[at.buffer].rows for at in op.writes)

    def _cut(self, first: int, rows: int) -> Iterator[Piece]:
        while rows:
            size = max(size for size in self._sizes if size <= rows)
            yield Piece(first, size, size)
            first, rows = first + size, rows - size

    def _padded(self, op: LayoutRun, first: int, rows: int) -> Piece:
        padded = min(size for size in self._sizes if size >= rows)
        fills = []
        for at in op.reads:
            end = self._reserve(at, first + padded)
            filled = self._filled[at.buffer]
            if end > filled:
                fills.append(BufferView(at.buffer, filled, end - filled))
                self._filled[at.buffer] = end
        for at in op.writes:
            end = self._reserve(at, first + padded)
            self._filled[at.buffer] = max(self._filled[at.buffer], end)
        return Piece(first, rows, padded, tuple(fills))

    def _reserve(self, at: BufferView, end: int) -> int:
        """Give the buffer room for so many rows of the view; the row after the last of them."""
        end += at.start
        self.rows[at.buffer] = max(self.rows[at.buffer], end)
        return end

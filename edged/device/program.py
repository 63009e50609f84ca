"""A layout made ready to run: its buffers in memory, its operations as calls on arrays.

Made once for each mix of rows and run many times. Only where the inputs lie changes from batch to
batch: blocks read them in staging memory itself when they lie there in one piece.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edged.backends.base import Backend
from edged.backends.memory import Array, BackendMemory, DeviceArray, DeviceMemory, Flight
from edged.device.memory import Lifetime, offsets
from edged.device.padding import PaddedLayout, Piece
from edged.link import messages as link
from edged.paths.layout import Buffer, BufferView, Gather, Layout, LayoutRun, Reorder


@dataclass(frozen=True, slots=True)
class _Copy:
    """Copy rows of a buffer; `rows` None: into the order of this batch."""

    source: int
    target: DeviceArray
    rows: DeviceArray | None


@dataclass(frozen=True, slots=True)
class _Piece:
    """One run of a block. `roots`: positions of the inputs that each batch has elsewhere."""

    inputs: tuple[DeviceArray, ...]
    outputs: tuple[DeviceArray, ...]
    roots: tuple[tuple[int, BufferView], ...]


@dataclass(frozen=True, slots=True)
class _Call:
    """One block on all its rows, piece by piece."""

    block: str
    rows: int
    pieces: tuple[_Piece, ...]


class Program:
    """One layout, in memory that other programs use as well, one at a time."""

    def __init__(
        self,
        layout: Layout,
        memory: BackendMemory,
        rows_at_once: Callable[[str], int | None],
        sizes: Sequence[int] = (),
    ) -> None:
        """rows_at_once  of one run of a block; None is any number
        sizes         rows that runs are padded to, ascending from 1; none: they are not
        """
        self.layout = layout
        self._memory = memory
        self._padded = padded = PaddedLayout(layout, rows_at_once, sizes)
        self._buffers = [
            Buffer(buffer.tensor, rows)
            for buffer, rows in zip(layout.buffers, padded.rows, strict=True)
        ]
        # Rows come in another order than the layout's only where blocks read staging memory.
        self.reorder = layout.reorder if memory.is_host else None
        self._twins: dict[int, int] = {}  # of buffers that may have to be brought into order
        for buffer in self.reorder.buffers if self.reorder else ():
            self._twins[buffer] = len(self._buffers)
            self._buffers.append(layout.buffers[buffer])
        times = _lifetimes(layout, self.reorder)
        self._offsets, self.nbytes = offsets(
            [
                Lifetime(buffer.rows * buffer.tensor.row_bytes, first, last)
                for buffer, (first, last) in zip(self._buffers, times, strict=True)
            ]
        )
        # Inputs that blocks can read where they are, in staging memory. What a client gets must
        # be in ours, or its rows could be filled anew before it is sent.
        self.in_place = frozenset(layout.roots if memory.is_host else ()) - _answers(layout)

    def place(self, allocated: DeviceMemory) -> None:
        """Lay the buffers into `allocated`, of at least `nbytes`."""
        self._arrays = [
            self._memory.view(allocated, offset, buffer.rows, buffer.tensor)
            for offset, buffer in zip(self._offsets, self._buffers, strict=True)
        ]
        operations = list(zip(self.layout.operations, self._padded.pieces, strict=True))
        reorder = self.reorder
        self._answers = _views(self.layout)
        self._in_order = self._calls(operations, {})
        self._fetched_in_order = self._fetched({})
        self._fetched_as_they_come = self._fetched(self._twins)
        self._as_they_come: list[_Call | _Copy] = []
        if reorder is not None:
            self._as_they_come = [
                *self._calls(operations[: reorder.before], {}),
                *(_Copy(b, self._arrays[t], None) for b, t in self._twins.items()),
                *self._calls(operations[reorder.before :], self._twins),
            ]

    def root(self, buffer: int) -> DeviceArray:
        """Where to put the inputs of `buffer` that are not read in place."""
        return self._arrays[buffer]

    def run(
        self,
        backend: Backend,
        flight: Flight,
        roots: Mapping[int, DeviceArray],
        order: DeviceArray | None,
        *,
        wide: bool,
    ) -> list[link.BlockRun]:
        """Run all blocks. `roots`: the inputs by buffer.

        `order`: for rows that come as they lie in staging memory, which of them each row of the
        layout is; None where they are in the layout's order.
        """
        runs = []
        for call in self._in_order if order is None else self._as_they_come:
            if isinstance(call, _Copy):
                rows = order if call.rows is None else call.rows
                assert rows is not None
                source = roots.get(call.source, self._arrays[call.source])
                flight.take(source, rows, call.target)
                continue
            started_ns = time.perf_counter_ns()
            for piece in call.pieces:
                inputs: Sequence[DeviceArray] = piece.inputs
                if piece.roots:
                    inputs = list(inputs)
                    for position, at in piece.roots:
                        inputs[position] = roots[at.buffer][at.start : at.start + at.rows]
                backend.run(call.block, inputs, piece.outputs, wide=wide)
            took_us = (time.perf_counter_ns() - started_ns) // 1000
            runs.append(link.BlockRun(call.block, call.rows, took_us))
        return runs

    def fetch(self, flight: Flight, *, in_order: bool) -> dict[BufferView, Array]:
        """What the models write, to be read when the flight has ended."""
        views = self._fetched_in_order if in_order else self._fetched_as_they_come
        return dict(zip(self._answers, flight.fetch(views), strict=True))

    def _fetched(self, twins: Mapping[int, int]) -> list[DeviceArray]:
        return [
            self._arrays[twins.get(at.buffer, at.buffer)][at.start : at.start + at.rows]
            for at in self._answers
        ]

    def _calls(
        self,
        operations: Sequence[tuple[LayoutRun | Gather, Sequence[Piece]]],
        twins: Mapping[int, int],
    ) -> list[_Call | _Copy]:
        def array(at: BufferView) -> DeviceArray:
            return self._arrays[twins.get(at.buffer, at.buffer)][at.start : at.start + at.rows]

        calls: list[_Call | _Copy] = []
        for op, pieces in operations:
            if isinstance(op, Gather):
                source = twins.get(op.source, op.source)
                calls.append(_Copy(source, array(op.target), self._memory.indices(op.rows)))
                continue
            for fill in [fill for piece in pieces for fill in piece.fills]:
                last = self._memory.indices([fill.start - 1] * fill.rows)
                calls.append(_Copy(fill.buffer, array(fill), last))
            made = tuple(self._piece(op, piece, array, twins) for piece in pieces)
            calls.append(_Call(op.block, op.rows, made))
        return calls

    def _piece(
        self,
        op: LayoutRun,
        piece: Piece,
        array: Callable[[BufferView], DeviceArray],
        twins: Mapping[int, int],
    ) -> _Piece:
        reads, writes = list(map(piece.view, op.reads)), list(map(piece.view, op.writes))
        elsewhere = tuple(
            (position, at)
            for position, at in enumerate(reads)
            if at.buffer in self.layout.roots and at.buffer not in twins
        )
        return _Piece(tuple(map(array, reads)), tuple(map(array, writes)), elsewhere)


def _answers(layout: Layout) -> set[int]:
    """Buffers that hold outputs of models."""
    return {at.buffer for at in _views(layout)}


def _views(layout: Layout) -> list[BufferView]:
    """Where the outputs of models are, each place once."""
    views = (
        at for place in layout.places.values() for views in place.outputs.values() for at in views
    )
    return list(dict.fromkeys(views))


def _lifetimes(layout: Layout, reorder: Reorder | None) -> list[tuple[int, int]]:
    """First and last use of all buffers, and then of their twins. Operation i has time 2 i + 1; the
    rest lies between."""
    end = 2 * len(layout.operations) + 1
    times: list[list[int]] = [[] for _ in layout.buffers]
    for root in _inputs(layout):
        times[root].append(0)
    for index, op in enumerate(layout.operations):
        for at in (op.source,) if isinstance(op, Gather) else (v.buffer for v in op.reads):
            times[at].append(2 * index + 1)
        for target in (op.target,) if isinstance(op, Gather) else op.writes:
            times[target.buffer].append(2 * index + 1)
    for buffer in _answers(layout):
        times[buffer].append(end)
    if reorder is not None:
        times += [[2 * reorder.before, max(times[buffer])] for buffer in reorder.buffers]
    return [(min(used), max(used)) for used in times]


def _inputs(layout: Layout) -> set[int]:
    """Buffers that inputs are written to, alone or beside what blocks write."""
    return {at.buffer for place in layout.places.values() for _, at in place.inputs}

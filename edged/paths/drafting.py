"""Where the rows of a mixed batch lie: finds an order of rows, buffers, and what to copy. Pure.

`edged.paths.trie` says which blocks run together, in which order, and on which values. This module
orders the rows so that those of each block are adjacent, and lets blocks that feed the same reader
write side by side into one buffer. Rows are copied only where neither is possible.

A LayoutDraft does not count rows: rows that are asked for the same models (one ask) are treated
alike. `LayoutDraft.layout` inserts the number of rows of each ask.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from edged.paths.consecutive import consecutive_order
from edged.paths.layout import (
    Ask,
    Buffer,
    BufferView,
    Gather,
    Layout,
    LayoutRun,
    Place,
    Reorder,
    Tensor,
)

Row: TypeAlias = tuple[int, int]  # (ask, value): one value of all rows of an ask, by their numbers


@dataclass(frozen=True, slots=True)
class Pass:
    """One node of the trie on the rows of one ask. `ask` is an index, values have numbers."""

    ask: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Execution:
    """Passes that run together: the same block on tensors of the same shapes."""

    block: str
    passes: tuple[Pass, ...]
    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]

    def rows_read(self) -> list[tuple[Row, ...]]:
        """The rows that each input of the block reads."""
        return [tuple((p.ask, p.reads[i]) for p in self.passes) for i in range(len(self.reads))]

    def rows_written(self) -> list[tuple[Row, ...]]:
        """The rows that each output of the block writes."""
        return [tuple((p.ask, p.writes[i]) for p in self.passes) for i in range(len(self.writes))]


@dataclass(frozen=True, slots=True)
class Root:
    """An input of the batch."""

    value: int  # its value number
    index: int  # its position among the inputs of a model
    tensor: Tensor
    asks: tuple[int, ...]  # the asks that read it


@dataclass(frozen=True, slots=True)
class _Span:
    """Entries `first` to `last` - 1 of a buffer of the draft; an entry is one ask's rows."""

    buffer: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class _Run:
    block: str
    reads: tuple[_Span, ...]
    writes: tuple[_Span, ...]


@dataclass(frozen=True, slots=True)
class _Gather:
    source: int
    entries: tuple[int, ...]
    target: _Span


@dataclass(frozen=True, slots=True)
class LayoutDraft:
    """A layout before the numbers of rows are known."""

    asks: tuple[Ask, ...]
    buffers: tuple[tuple[Tensor, tuple[int, ...]], ...]  # each with the asks whose rows it holds
    roots: tuple[int, ...]
    operations: tuple[_Run | _Gather, ...]
    inputs: tuple[tuple[tuple[int, _Span], ...], ...]  # one entry an ask
    outputs: tuple[Mapping[str, tuple[_Span, ...]], ...]  # one entry an ask
    reorder: Reorder | None

    def layout(self, counts: Sequence[int]) -> Layout:
        """The layout for `counts[i]` rows of `asks[i]`."""
        starts = [
            tuple(itertools.accumulate((counts[ask] for ask in asks), initial=0))
            for _, asks in self.buffers
        ]

        def view(span: _Span) -> BufferView:
            start = starts[span.buffer][span.first]
            return BufferView(span.buffer, start, starts[span.buffer][span.last] - start)

        def operation(op: _Run | _Gather) -> LayoutRun | Gather:
            if isinstance(op, _Run):
                reads, writes = tuple(map(view, op.reads)), tuple(map(view, op.writes))
                return LayoutRun(op.block, writes[0].rows, reads, writes)
            at = starts[op.source]
            rows = itertools.chain.from_iterable(range(at[e], at[e + 1]) for e in op.entries)
            return Gather(op.source, tuple(rows), view(op.target))

        return Layout(
            buffers=tuple(
                Buffer(tensor, start[-1])
                for (tensor, _), start in zip(self.buffers, starts, strict=True)
            ),
            roots=self.roots,
            operations=tuple(map(operation, self.operations)),
            places={
                ask: Place(
                    tuple((index, view(span)) for index, span in inputs),
                    {model: tuple(map(view, spans)) for model, spans in outputs.items()},
                )
                for ask, inputs, outputs in zip(self.asks, self.inputs, self.outputs, strict=True)
            },
            reorder=self.reorder,
        )


def draft(
    asks: tuple[Ask, ...],
    executions: Sequence[Execution],
    roots: Sequence[Root],
    outputs: Sequence[Mapping[str, tuple[int, ...]]],
) -> LayoutDraft:
    """Lay out `executions`, which can run in their order. `outputs[ask]` holds value numbers."""
    order = _order(len(asks), executions)
    position = {ask: at for at, ask in enumerate(order)}
    executions = [_sorted(execution, position) for execution in executions]
    drafter = _Drafter(position)
    for root in roots:
        held = sorted(root.asks, key=position.__getitem__)
        drafter.add_stream(root.tensor, [(ask, root.value) for ask in held])
    for execution in executions:
        for tensor, rows in zip(execution.writes, execution.rows_written(), strict=True):
            drafter.add_stream(tensor, rows)
    for execution in executions:
        for tensor, rows in zip(execution.reads, execution.rows_read(), strict=True):
            drafter.add_read(tensor, rows)
    drafter.place()
    for execution in executions:
        drafter.run(execution)
    written = {span.buffer for op in drafter.operations for span in _targets(op)}
    placed = tuple(
        {model: tuple(drafter.span(((ask, v),)) for v in values) for model, values in of.items()}
        for ask, of in enumerate(outputs)
    )
    return LayoutDraft(
        asks=asks,
        buffers=tuple(drafter.buffers),
        roots=tuple(b for b in range(len(drafter.buffers)) if b not in written),
        operations=tuple(drafter.operations),
        inputs=_inputs(drafter, len(asks), roots),
        outputs=placed,
        reorder=_reorder(drafter, len(asks), placed),
    )


def _inputs(
    drafter: _Drafter, asks: int, roots: Sequence[Root]
) -> tuple[tuple[tuple[int, _Span], ...], ...]:
    """The index and the place of each input that an ask reads."""
    inputs: list[list[tuple[int, _Span]]] = [[] for _ in range(asks)]
    for root in roots:
        for ask in root.asks:
            inputs[ask].append((root.index, drafter.span(((ask, root.value),))))
    return tuple(map(tuple, inputs))


@dataclass(slots=True, eq=False)
class _Strip:
    """Adjacent rows that become one buffer, or a part of a larger strip."""

    tensor: Tensor
    rows: list[Row]
    together: bool  # each ask has one entry, and the asks are adjacent in the order of rows
    copied: tuple[Row, ...] = ()  # those of `rows` that are written elsewhere and copied here
    part_of: _Strip | None = None  # the larger strip that holds its rows now
    buffer: int = -1  # its number; set by `_Drafter.place`

    def find(self, rows: Sequence[Row]) -> int | None:
        """The entry at which these rows begin; None unless they are adjacent and in this order."""
        first = self.rows.index(rows[0])
        return first if self.rows[first : first + len(rows)] == list(rows) else None

    def span(self, rows: Sequence[Row]) -> _Span:
        first = self.find(rows)
        assert first is not None, "a block's own rows are scattered; this is a bug"
        return _Span(self.buffer, first, first + len(rows))

    def has_room(self, other: _Strip, wanted: Mapping[int, Row]) -> bool:
        """Whether `other` can join: it has no ask that is here or that `wanted` takes elsewhere."""
        taken = {ask for ask, _ in self.rows}
        return all(row[0] not in taken and wanted.get(row[0], row) == row for row in other.rows)


class _Drafter:
    """Collects buffers and operations. Add all streams, then all reads, then `place`, then `run`.

    `position` is the place of each ask in the order of rows.
    """

    def __init__(self, position: Mapping[int, int]) -> None:
        self._position = position
        self._homes: dict[Row, _Strip] = {}
        self._strips: list[_Strip] = []
        self._reads: dict[tuple[Row, ...], _Strip] = {}
        self.buffers: list[tuple[Tensor, tuple[int, ...]]] = []
        self.operations: list[_Run | _Gather] = []

    def add_stream(self, tensor: Tensor, rows: Sequence[Row]) -> None:
        """Add all rows of one input of the batch, or of one output of an execution."""
        strip = self._new_strip(tensor, list(rows), self._together(rows))
        self._homes.update(dict.fromkeys(rows, strip))

    def add_read(self, tensor: Tensor, rows: tuple[Row, ...]) -> None:
        """Add all rows of one input of an execution: find them in one strip, or make a new strip.

        Strips of streams become part of the new one if they can, so that blocks write straight into
        it. The other rows are copied from their own strips before the execution runs.
        """
        homes = list(dict.fromkeys(self._home(row) for row in rows))
        if rows in self._reads or (len(homes) == 1 and homes[0].find(rows) is not None):
            return
        together = self._together(rows)
        strip = self._new_strip(tensor, [], together)
        wanted = {row[0]: row for row in rows}
        for home in homes if together else ():
            if home.together and not home.copied and strip.has_room(home, wanted):
                strip.rows += home.rows
                home.part_of = strip
        strip.copied = tuple(row for row in rows if row not in strip.rows)
        strip.rows += strip.copied
        if together:
            strip.rows.sort(key=lambda row: self._position[row[0]])
        self._reads[rows] = strip

    def place(self) -> None:
        """Give each strip a buffer."""
        for strip in self._strips:
            if strip.part_of is None:
                strip.buffer = len(self.buffers)
                self.buffers.append((strip.tensor, tuple(ask for ask, _ in strip.rows)))

    def run(self, execution: Execution) -> None:
        """Add the copies that a run of a block needs, and then the run."""
        reads = tuple(map(self._read, execution.rows_read()))
        writes = tuple(map(self.span, execution.rows_written()))
        self.operations.append(_Run(execution.block, reads, writes))

    def span(self, rows: tuple[Row, ...]) -> _Span:
        """The place of rows that were written into one strip."""
        return self._home(rows[0]).span(rows)

    def _read(self, rows: tuple[Row, ...]) -> _Span:
        strip = self._reads.get(rows)
        if strip is None:
            return self.span(rows)
        copies = [
            (entry, self._home(row), row)
            for entry, row in enumerate(strip.rows)
            if row in strip.copied
        ]
        # Adjacent rows that come from one buffer are one copy.
        for (source, _), group in itertools.groupby(
            enumerate(copies), key=lambda item: (item[1][1].buffer, item[1][0] - item[0])
        ):
            moved = [copy for _, copy in group]
            entries = tuple(home.rows.index(row) for _, home, row in moved)
            first = moved[0][0]
            target = _Span(strip.buffer, first, first + len(moved))
            self.operations.append(_Gather(source, entries, target))
        strip.copied = ()  # the next block that reads the same rows finds them here
        return strip.span(rows)

    def _home(self, row: Row) -> _Strip:
        strip = self._homes[row]
        while strip.part_of is not None:
            strip = strip.part_of
        return strip

    def _together(self, rows: Sequence[Row]) -> bool:
        """Whether these rows have different asks that are adjacent in the order of rows."""
        positions = [self._position[ask] for ask, _ in rows]
        return positions == list(range(positions[0], positions[0] + len(positions)))

    def _new_strip(self, tensor: Tensor, rows: list[Row], together: bool) -> _Strip:
        self._strips.append(_Strip(tensor, rows, together))
        return self._strips[-1]


def _order(asks: int, executions: Sequence[Execution]) -> tuple[int, ...]:
    """An order of asks that keeps rows adjacent; the rows that cost most to copy come first."""
    heavy_first = sorted(
        executions, key=lambda execution: -sum(tensor.row_bytes for tensor in execution.reads)
    )
    return consecutive_order(
        asks, [frozenset(p.ask for p in execution.passes) for execution in heavy_first]
    )


def _sorted(execution: Execution, position: Mapping[int, int]) -> Execution:
    passes = sorted(execution.passes, key=lambda p: (position[p.ask], p.writes))
    return dataclasses.replace(execution, passes=tuple(passes))


def _targets(op: _Run | _Gather) -> tuple[_Span, ...]:
    return op.writes if isinstance(op, _Run) else (op.target,)


def _reorder(
    drafter: _Drafter, asks: int, outputs: Iterable[Mapping[str, tuple[_Span, ...]]]
) -> Reorder | None:
    """The operation before which reordering rows saves most bytes; None if it saves none."""
    buffers, operations = drafter.buffers, drafter.operations
    used = [
        {span.buffer for span in op.reads} if isinstance(op, _Run) else {op.source}
        for op in operations
    ]
    used.append({span.buffer for of in outputs for spans in of.values() for span in spans})

    def is_full(span: _Span) -> bool:
        held = buffers[span.buffer][1]
        return span.last - span.first == len(held) == len(set(held)) == asks

    def row_bytes(of: Iterable[int]) -> int:
        return sum(buffers[buffer][0].row_bytes for buffer in of)

    best, saved_bytes = None, 0
    made: set[int] = set()
    roots: set[int] = set()
    for at, op in enumerate(operations):
        if isinstance(op, _Gather) or not all(map(is_full, (*op.reads, *op.writes))):
            break
        roots |= used[at] - made
        made |= {span.buffer for span in op.writes}
        live = (made | roots) & set().union(*used[at + 1 :])
        if row_bytes(roots) - row_bytes(live) > saved_bytes:
            saved_bytes = row_bytes(roots) - row_bytes(live)
            best = Reorder(at + 1, tuple(sorted(roots)), tuple(sorted(live)))
    return best if asks > 1 else None

"""Runs that are padded to the sizes of a device: nothing that counts is overwritten or left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edged.device.padding import PaddedLayout
from edged.paths.layout import Buffer, BufferView, Gather, Layout, LayoutRun, Tensor

SIZES = (1, 2, 4, 8, 16)
ROW = Tensor("FP32", (1,))


def layout(rows: list[int], spaces: list[int]) -> Layout:
    """Blocks that read `rows[i]` rows of one buffer and write them to another one, side by side."""
    total = sum(rows)
    operations, start = [], 0
    for number, count in enumerate(rows):
        reads = BufferView(0, start, count)
        operations.append(LayoutRun(f"b{number}", count, (reads,), (BufferView(1, start, count),)))
        start += count
    tail = BufferView(1, 0, total)
    operations.append(LayoutRun("all", total, (tail,), (BufferView(2, 0, total),)))
    buffers = tuple(Buffer(ROW, total + space) for space in spaces)
    return Layout(buffers, (0,), tuple(operations), {}, None)


ROWS = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@given(ROWS, st.sampled_from([None, 1, 3, 8, 100]))
def test_every_row_is_run_once_and_no_row_of_another_is_written(
    rows: list[int], most: int | None
) -> None:
    made = layout(rows, [0, 0, 0])
    padded = PaddedLayout(made, lambda block: most, SIZES)
    for op, pieces in zip(made.operations, padded.pieces, strict=True):
        assert isinstance(op, LayoutRun)
        assert [row for p in pieces for row in range(p.first, p.first + p.rows)] == [
            *range(op.rows)
        ]
        for piece in pieces:
            assert piece.padded in SIZES
            assert piece.rows <= piece.padded
            assert most is None or piece.padded <= most
            (reads,), (writes,) = map(piece.view, op.reads), map(piece.view, op.writes)
            assert reads.start + reads.rows <= padded.rows[reads.buffer]
            assert writes.start + writes.rows <= padded.rows[writes.buffer]
            extra = range(writes.start + piece.rows, writes.start + writes.rows)
            assert not extra or extra.start >= made.buffers[writes.buffer].rows


@given(ROWS)
def test_no_run_reads_rows_that_nobody_has_written(rows: list[int]) -> None:
    """Whatever lay there could be an index that is out of range."""
    made = layout(rows, [0, 0, 0])
    padded = PaddedLayout(made, lambda block: None, SIZES)
    written = [{*range(rows)} if i == 0 else set() for i, rows in enumerate(padded.rows)]
    written[0] = {*range(made.buffers[0].rows)}
    for op, pieces in zip(made.operations, padded.pieces, strict=True):
        assert isinstance(op, LayoutRun)
        for fill in [fill for piece in pieces for fill in piece.fills]:
            assert fill.start - 1 in written[fill.buffer]
            written[fill.buffer].update(range(fill.start, fill.start + fill.rows))
        for piece in pieces:
            (reads,), (writes,) = map(piece.view, op.reads), map(piece.view, op.writes)
            assert written[reads.buffer].issuperset(range(reads.start, reads.start + reads.rows))
            written[writes.buffer].update(range(writes.start, writes.start + writes.rows))


def test_a_whole_batch_is_padded_and_a_part_in_the_middle_is_cut() -> None:
    padded = PaddedLayout(layout([11, 5], [0, 0, 0]), lambda block: None, SIZES)
    middle, last, every = ([(p.first, p.rows, p.padded) for p in of] for of in padded.pieces)
    assert middle == [(0, 8, 8), (8, 2, 2), (10, 1, 1)]
    assert last == [(0, 5, 8)]
    assert every == [(0, 16, 16)]
    assert padded.rows == [19, 19, 16]


def test_copies_have_no_runs_and_without_sizes_nothing_is_padded() -> None:
    run = LayoutRun("b", 3, (BufferView(0, 0, 3),), (BufferView(1, 0, 3),))
    copy = Gather(1, (2, 0), BufferView(2, 0, 2))
    made = Layout(tuple(Buffer(ROW, n) for n in (3, 3, 2)), (0,), (run, copy), {}, None)
    padded = PaddedLayout(made, lambda block: 2, ())
    assert [[(p.first, p.padded) for p in of] for of in padded.pieces] == [[(0, 2), (2, 1)], []]
    assert padded.rows == [3, 3, 2]

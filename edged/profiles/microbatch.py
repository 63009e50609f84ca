"""Micro-batches: how many rows of a batch a block runs at once. Pure.

Weights are read once for all rows of a run, so most blocks take less time a row if they run more
rows. But activations may fall out of the caches before they are read again, so a block with large
activations and small weights is faster row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

CALL_S = 30e-6  # time that each run takes besides the block's own time
_LEAST_GAIN = 0.03  # smaller relative gains cannot be told from noise


def is_enough(less: int, less_s: float, more: int, more_s: float) -> bool:
    """Whether runs of `less` rows take no more time a row than runs of `more` rows.

    The answer is yes in doubt, since smaller runs take less memory.
    """
    return _row_s(less, less_s) * (1 - _LEAST_GAIN) <= _row_s(more, more_s)


def quickest(rows: Sequence[int], time_s: Sequence[float]) -> int | None:
    """The rows of a run with the least time a row; None if that is the largest run.

    `time_s[i]` is the seconds of a run of `rows[i]` rows. `rows` ascend.
    """
    row_s = list(map(_row_s, rows, time_s))
    least_s = min(row_s)
    return rows[row_s.index(least_s)] if least_s < (1 - _LEAST_GAIN) * row_s[-1] else None


def pieces(rows: int, most: int | None) -> Iterator[tuple[int, int]]:
    """The first row and the number of rows of each run of a batch; `most` None runs all at once."""
    step = most or rows
    return ((first, min(step, rows - first)) for first in range(0, rows, step))


def _row_s(rows: int, run_s: float) -> float:
    return (run_s + CALL_S) / rows

"""Micro-batches: how many rows of a batch a block runs at once. Pure.

Weights are read once for all rows of a run, so most blocks take the less time a row the more rows
they run. But what the rows write may fall out of the caches before it is read again, and a block
whose activations are large and whose weights are small runs sooner row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

CALL_S = 30e-6  # of each run, besides what the block takes
_GAIN = 0.03  # less is not told from noise


def is_enough(less: int, less_s: float, more: int, more_s: float) -> bool:
    """Whether rows pass a block as soon in runs of `less` as in larger ones, of `more`.

    In doubt they do: smaller runs take less memory.
    """
    return _row_s(less, less_s) * (1 - _GAIN) <= _row_s(more, more_s)


def quickest(rows: Sequence[int], time_s: Sequence[float]) -> int | None:
    """The rows of a run that take the least time each; None where all of a batch at once do.

    `time_s[i]`: seconds of a run of `rows[i]` rows, which ascend.
    """
    row_s = list(map(_row_s, rows, time_s))
    least_s = min(row_s)
    return rows[row_s.index(least_s)] if least_s < (1 - _GAIN) * row_s[-1] else None


def pieces(rows: int, most: int | None) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each run of a batch; `most` None: all at once."""
    step = most or rows
    return ((first, min(step, rows - first)) for first in range(0, rows, step))


def _row_s(rows: int, run_s: float) -> float:
    return (run_s + CALL_S) / rows

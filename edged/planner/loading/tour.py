"""Shorten an order of loading: move one, two or three neighbours to where they load faster.

The sum of load times along the order is the length of an open, asymmetric travelling-salesman path
that begins at the cold device. The move is Or-opt (Or, 1976), the steepest one first. Knows no
users.
"""

from __future__ import annotations

import numpy as np

from edged.planner.loading.tables import Floats, Ints, LoadingTables

_SEGMENT_MAX = 3
_GAIN_MIN_MS = 1e-9  # smaller gains are rounding errors, and could repeat forever


def shorter(tables: LoadingTables, order: list[int]) -> list[int]:
    """The order after all moves that shorten it; the same models, each once."""
    order = list(order)
    while move := _best_move(tables, order):
        first, length, to = move
        segment = order[first : first + length]
        rest = order[:first] + order[first + length :]
        order = rest[:to] + segment + rest[to:]
    return order


def _best_move(tables: LoadingTables, order: list[int]) -> tuple[int, int, int] | None:
    """(first, length, position without it) of the segment to move; None when nothing helps."""
    cold, end = tables.cold, tables.cold + 1
    load_ms = np.zeros((end + 1, end + 1))  # reaching the end costs nothing
    load_ms[:end, :cold] = tables.load_ms
    stops = np.array([cold, *order, end])
    best: tuple[float, int, int, int] = (-_GAIN_MIN_MS, 0, 0, 0)
    for length in range(1, min(_SEGMENT_MAX, len(order) - 1) + 1):
        change_ms = _changes(load_ms, stops, length)
        first, gap = np.unravel_index(int(change_ms.argmin()), change_ms.shape)
        change = float(change_ms[first, gap])
        if change < best[0]:
            to = int(gap) - (length if gap > first else 0)
            best = (change, int(first), length, to)
    return best[1:] if best[2] else None


def _changes(load_ms: Floats, stops: Ints, length: int) -> Floats:
    """The change of the total if a segment moves behind stop `gap`: (segments, gaps)."""
    first = np.arange(1, len(stops) - length)  # stops at which the segments begin
    last = first + length - 1
    gap = np.arange(len(stops) - 1)
    before, start, stop, after = stops[first - 1], stops[first], stops[last], stops[last + 1]
    removed = load_ms[before, after] - load_ms[before, start] - load_ms[stop, after]
    inserted = load_ms[stops[gap], start[:, None]] + load_ms[stop[:, None], stops[gap + 1]]
    inserted -= load_ms[stops[gap], stops[gap + 1]]
    stays = (gap >= first[:, None] - 1) & (gap <= last[:, None])
    return np.where(stays, np.inf, removed[:, None] + inserted)

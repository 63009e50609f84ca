"""The consecutive-ones problem: an order of elements in which the members of each set are adjacent.

Booth and Lueker's PQ-trees decide it in linear time. A batch holds few distinct rows, so a search
is enough: once a set has begun, the next element must come from it until it is complete, which
leaves almost no choice. The search is bounded; a worse order only costs a copy of some rows. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def consecutive_order(
    count: int, sets: Sequence[frozenset[int]], *, max_steps: int = 500
) -> tuple[int, ...]:
    """The elements 0 to count - 1, ordered so that the members of each set are adjacent.

    If that is impossible for all sets, earlier sets win. The same arguments give the same order.
    """
    alike: dict[tuple[bool, ...], list[int]] = {}  # elements of the same sets count as one
    for element in range(count):
        alike.setdefault(tuple(element in s for s in sets), []).append(element)
    groups = sorted(alike.items(), key=lambda item: (sum(item[0]), item[1]))
    masks = [
        sum(1 << group for group, (holders, _) in enumerate(groups) if holders[s])
        for s in range(len(sets))
    ]
    search = _Search(len(groups), max_steps)
    order = search.order(masks)
    if order is None:
        kept: list[int] = []
        for mask in masks:
            better = search.order([*kept, mask])
            if better is not None:
                kept.append(mask)
                order = better
    return tuple(element for group in order or range(len(groups)) for element in groups[group][1])


class _Search:
    """A depth-first search with one budget of steps for all its calls."""

    def __init__(self, count: int, max_steps: int) -> None:
        self._all = (1 << count) - 1
        self._steps_left = max_steps

    def order(self, masks: Iterable[int]) -> list[int] | None:
        """An order, or None if there is none or the budget has run out."""
        order: list[int] = []
        return order if self._extend(order, 0, set(masks)) else None

    def _extend(self, order: list[int], placed: int, masks: set[int]) -> bool:
        if placed == self._all:
            return True
        self._steps_left -= 1
        if self._steps_left < 0:
            return False
        candidates = self._all & ~placed
        for mask in masks:
            if mask & placed and mask & ~placed:
                candidates &= mask
        while candidates:
            lowest = candidates & -candidates
            order.append(lowest.bit_length() - 1)
            if self._extend(order, placed | lowest, masks):
                return True
            order.pop()
            candidates ^= lowest
        return False

"""An order of things in which each of some sets lies together: the consecutive-ones problem. Pure.

Booth and Lueker's PQ-trees decide it in linear time. A batch holds few distinct rows, so a search
is enough: while a set is begun and not complete, the next element must come from it, which leaves
almost no choice. The search is bounded; a worse order costs a copy of some rows, nothing more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def consecutive_order(
    count: int, sets: Sequence[frozenset[int]], *, max_steps: int = 500
) -> tuple[int, ...]:
    """The elements 0 to count - 1, ordered so that each set lies together where that is possible.

    Where not all sets can, the earlier ones win. Always the same order for the same arguments.
    """
    alike: dict[tuple[bool, ...], list[int]] = {}  # elements that the same sets hold are one
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
    """Depth first, with a budget of steps for all calls together."""

    def __init__(self, count: int, max_steps: int) -> None:
        self._all = (1 << count) - 1
        self._steps_left = max_steps

    def order(self, masks: Iterable[int]) -> list[int] | None:
        """None: there is no such order, or the budget has run out."""
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

"""Offsets in one piece of memory, by lifetime: what is never alive together shares its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edged.backends.memory import ALIGNMENT


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Bytes that are needed from operation `first` to operation `last`, both included."""

    size: int
    first: int
    last: int


def offsets(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """A place for each, so that what lives at once does not overlap, and the bytes in all.

    Largest first, each at the lowest place that is free for its whole life: "greedy by size" of
    Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference (2020).
    """
    placed: list[tuple[int, int, Lifetime]] = []  # begin, end
    found = [0] * len(lifetimes)
    for index in sorted(range(len(lifetimes)), key=lambda i: -lifetimes[i].size):
        one = lifetimes[index]
        at = 0
        for begin, end, other in sorted(placed, key=lambda item: item[:2]):
            alive_at_once = one.first <= other.last and other.first <= one.last
            if alive_at_once and begin < at + one.size and at < end:
                at = math.ceil(end / ALIGNMENT) * ALIGNMENT
        placed.append((at, at + one.size, one))
        found[index] = at
    return found, max((end for _, end, _ in placed), default=0)

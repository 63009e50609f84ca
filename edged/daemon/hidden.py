"""Memory that ZeroMQ holds without telling: messages that have not come to their end. Pure.

It is what the process has taken beyond what is accounted for, and beyond what it took at its best.
When that is too much, the allocator gives back what is free; then peers are cut off, more of them
step by step, since nobody can tell which one it is: first those that are in the middle of sending,
then those that were not heard for a moment, then all. If that did not help, it was something else.
"""

from __future__ import annotations

import math
from enum import Enum, auto

SETTLE_S = 0.05  # for ZeroMQ to let go of what it held for a peer
PATIENCE_S, MOST_PATIENCE_S = 2.0, 64.0  # between two cuts of all; doubled by each


class Step(Enum):
    """What is to be done now."""

    NOTHING = auto()
    TRIM = auto()  # have the allocator give back what is free, and look again
    CUT_SENDING = auto()
    CUT_SILENT = auto()
    CUT_ALL = auto()
    GIVE_UP = auto()  # say so


_STEPS = (
    *(Step.TRIM, Step.CUT_SENDING, Step.TRIM, Step.CUT_SILENT, Step.TRIM, Step.CUT_ALL),
    *(Step.TRIM, Step.GIVE_UP),
)


class Hidden:
    """Looks at the figures, again and again."""

    def __init__(self) -> None:
        self._least_bytes = math.inf
        self._next = 0  # of the steps
        self._again_at = -math.inf
        self._all_at = -math.inf
        self._patience_s = PATIENCE_S

    def begin(self) -> None:
        """What is taken at the next look is as it should be."""
        self._least_bytes = math.inf

    def look(self, taken_bytes: int, limit_bytes: int, now: float) -> Step:
        """`taken_bytes`: by the process, without what is accounted for."""
        self._least_bytes = min(self._least_bytes, taken_bytes)
        if taken_bytes - self._least_bytes <= limit_bytes:
            self._next = 0
            return Step.NOTHING
        if now < self._again_at:
            return Step.NOTHING
        step = _STEPS[self._next]
        if step is Step.CUT_ALL:
            if now < self._all_at:
                return Step.NOTHING
            self._patience_s = min(2 * self._patience_s, MOST_PATIENCE_S)
            self._all_at = now + self._patience_s
        if step is Step.GIVE_UP:
            self._next = 0
            self._least_bytes = taken_bytes
            return step
        self._next += 1
        return step

    def settle(self, now: float) -> None:
        """Somebody was cut off: wait for what comes of it."""
        self._again_at = now + SETTLE_S

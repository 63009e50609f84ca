"""Memory that ZeroMQ holds without telling: messages that have not come to their end. Pure.

It is the memory of the process that is not accounted for, above the least that this ever was. While
it is too much, peers are cut off, since nobody can tell which one it is: first those that are in
the middle of sending or were never heard, then those that were silent for a moment, then all. In
between the allocator gives back what is free. If none of this helps for long, the cause is another.
"""

from __future__ import annotations

import math
from enum import Enum, auto

SETTLE_S = 0.1  # the time in which ZeroMQ frees what it held for a peer that was cut off
PATIENCE_S, MOST_PATIENCE_S = 2.0, 64.0  # the time between two cuts of all peers; each doubles it
GIVE_UP_S = 10.0  # memory that is too much for this long has another cause


class Remedy(Enum):
    """What is to be done about memory that is too much."""

    NOTHING = auto()
    TRIM = auto()  # have the allocator give back what is free
    CUT_SENDING = auto()
    CUT_SILENT = auto()
    CUT_ALL = auto()
    GIVE_UP = auto()  # only say so in the log


# Peers are cut off before the allocator trims, which takes so long that a peer that sends could
# send hundreds of megabytes meanwhile.
_STEPS = (
    Remedy.CUT_SENDING,
    Remedy.TRIM,
    Remedy.CUT_SILENT,
    Remedy.TRIM,
    Remedy.CUT_ALL,
    Remedy.TRIM,
)


class Hidden:
    """Says what to do about the memory. It is asked again after each step, until NOTHING."""

    def __init__(self) -> None:
        self._least_bytes = math.inf
        self._next = 0  # the index of the next step
        self._again_at = -math.inf
        self._too_much_since: float | None = None
        self._all_at = -math.inf
        self._patience_s = PATIENCE_S

    def begin(self) -> None:
        """The memory that is taken at the next look is as it should be."""
        self._least_bytes = math.inf

    def settle(self, now: float) -> None:
        """A peer was cut off: wait until ZeroMQ has freed its memory."""
        self._again_at = now + SETTLE_S

    def look(self, taken_bytes: int, limit_bytes: int, now: float) -> Remedy:
        """`taken_bytes`: the memory of the process that is not accounted for."""
        self._least_bytes = min(self._least_bytes, taken_bytes)
        if taken_bytes - self._least_bytes <= limit_bytes:
            self._next, self._too_much_since = 0, None
            return Remedy.NOTHING
        if self._too_much_since is None:
            self._too_much_since = now
        if now < self._again_at:
            return Remedy.NOTHING
        if now - self._too_much_since > GIVE_UP_S:
            self._least_bytes, self._too_much_since = taken_bytes, None
            return Remedy.GIVE_UP
        if self._next == len(_STEPS):
            self._next = 0
            self.settle(now)
            return Remedy.NOTHING
        step = _STEPS[self._next]
        self._next += 1
        if step is Remedy.CUT_ALL:
            if now < self._all_at:
                return self.look(taken_bytes, limit_bytes, now)
            self._all_at = now + self._patience_s
            self._patience_s = min(2 * self._patience_s, MOST_PATIENCE_S)
        return step

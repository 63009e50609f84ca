"""Memory that ZeroMQ holds without telling: messages that have not come to their end. Pure.

It is what the process has taken beyond what is accounted for, and beyond what it took at its best.
While that is too much, peers are cut off, more of them step by step, since nobody can tell which
one it is, and the allocator gives back what is free: first those that are in the middle of sending
or were never heard, then those that were not heard for a moment, then all. If none of that helps
for long, it is something else.
"""

from __future__ import annotations

import math
from enum import Enum, auto

SETTLE_S = 0.1  # for ZeroMQ to let go of what it held for a peer
PATIENCE_S, MOST_PATIENCE_S = 2.0, 64.0  # between two cuts of all; doubled by each
GIVE_UP_S = 10.0


class Remedy(Enum):
    """What is to be done now."""

    NOTHING = auto()
    TRIM = auto()  # have the allocator give back what is free
    CUT_SENDING = auto()
    CUT_SILENT = auto()
    CUT_ALL = auto()
    GIVE_UP = auto()  # say so


# To trim takes a while, in which who is sending could send hundreds of megabytes.
_STEPS = (
    Remedy.CUT_SENDING,
    Remedy.TRIM,
    Remedy.CUT_SILENT,
    Remedy.TRIM,
    Remedy.CUT_ALL,
    Remedy.TRIM,
)


class Hidden:
    """Looks at the figures, again and again: after each step, until there is nothing to do."""

    def __init__(self) -> None:
        self._least_bytes = math.inf
        self._next = 0  # of the steps
        self._again_at = -math.inf
        self._too_much_since: float | None = None
        self._all_at = -math.inf
        self._patience_s = PATIENCE_S

    def begin(self) -> None:
        """What is taken at the next look is as it should be."""
        self._least_bytes = math.inf

    def settle(self, now: float) -> None:
        """Somebody was cut off: wait for what comes of it."""
        self._again_at = now + SETTLE_S

    def look(self, taken_bytes: int, limit_bytes: int, now: float) -> Remedy:
        """`taken_bytes`: by the process, without what is accounted for."""
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

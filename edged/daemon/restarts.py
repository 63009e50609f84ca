"""When to start the next worker after one has ended. Pure: the time is an argument."""

from __future__ import annotations

FIRST_S = 0.2  # the wait after a worker that had been stable
LONGEST_S = 30.0  # the wait doubles up to this time
STABLE_S = 60.0  # a worker that has served for this long is stable


class Restarts:
    """Exponential back-off: soon after a rare crash, seldom when each worker crashes at once."""

    def __init__(self) -> None:
        self._delay_s = FIRST_S
        self._ready_at: float | None = None

    def on_ready(self, now: float) -> None:
        self._ready_at = now

    def on_ended(self, now: float) -> float:
        """When to start the next one."""
        if self._ready_at is not None and now - self._ready_at >= STABLE_S:
            self._delay_s = FIRST_S
        self._ready_at = None
        at = now + self._delay_s
        self._delay_s = min(LONGEST_S, self._delay_s * 2)
        return at

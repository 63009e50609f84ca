"""Whether a worker is to be given up. Pure: the time is an argument."""

from __future__ import annotations


class Vigil:
    """Over one worker after the other: `heard` restarts the count, `verdict` is asked each second.

    A worker has `start_timeout_s` to get ready. After that it owes a word every `hang_timeout_s`
    while it holds requests; the silence of one that has nothing to do means nothing, however long.
    """

    def __init__(self, start_timeout_s: float, hang_timeout_s: float) -> None:
        self._start_timeout_s = start_timeout_s
        self._hang_timeout_s = hang_timeout_s
        self.heard_at = 0.0

    def heard(self, now: float) -> None:
        """The worker was started, or has said something."""
        self.heard_at = now

    def verdict(self, now: float, *, up: bool, busy: bool) -> str | None:
        """Why to give it up; None while there is hope."""
        if up and not busy:
            self.heard_at = now
        silence_s = now - self.heard_at
        if not up and silence_s > self._start_timeout_s:
            return f"the device worker was not ready within {self._start_timeout_s:g} s"
        if up and silence_s > self._hang_timeout_s:
            return f"the device worker hung for {self._hang_timeout_s:g} s"
        return None

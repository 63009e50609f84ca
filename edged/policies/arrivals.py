"""How fast rows arrive: a sliding window, looked at on a fixed beat."""

from __future__ import annotations

from collections import deque


class ArrivalRate:
    """Rows a second over the last `window_s`, as of the latest beat of `beat_s`.

    The rate is held between beats, as SMOOTH's scheduler looks at the load periodically. O(1)
    amortised. Until the window is full, the rate is over what there is of it: a load that has just
    begun is not a low one.
    """

    def __init__(self, *, window_s: float, beat_s: float, since: float) -> None:
        self._window_s = window_s
        self._beat_s = beat_s
        self._since = since
        self._beat = 0
        self._counted: deque[tuple[float, int]] = (
            deque()
        )  # rows in the window that ends at the beat
        self._fresh: deque[tuple[float, int]] = deque()  # rows that came after the beat
        self._rows = 0

    def add(self, rows: int, now: float) -> None:
        """Rows have arrived."""
        self._advance(now)
        self._fresh.append((now, rows))

    def rows_per_s(self, now: float) -> float:
        """The rate as of the latest beat."""
        self._advance(now)
        counted_s = max(self._beat * self._beat_s - self._since, self._beat_s)
        return self._rows / min(counted_s, self._window_s)

    def next_beat_s(self, now: float) -> float:
        """When the rate can change next."""
        self._advance(now)
        return (self._beat + 1) * self._beat_s

    def _advance(self, now: float) -> None:
        beat = int(now / self._beat_s + 1e-9)
        if beat <= self._beat:
            return
        self._beat = beat
        at = beat * self._beat_s
        while self._fresh and self._fresh[0][0] <= at:
            self._counted.append(self._fresh.popleft())
            self._rows += self._counted[-1][1]
        while self._counted and self._counted[0][0] <= at - self._window_s:
            self._rows -= self._counted.popleft()[1]

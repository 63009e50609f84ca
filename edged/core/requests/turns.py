"""Whose turn it is among clients that want the same thing, by rows. Pure.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): what a client asks for begins where
its last ends, or, if that is past, where the service is now; what begins first goes first. So a
client that asks for much stands behind itself, one that asks for little behind one request of each
other, and who is alone has all there is.
"""

from __future__ import annotations

_FEW = 64  # clients that are remembered in any case


class Turns:
    """Gives out turns; the lower goes first, and equal ones in the order in which they came."""

    def __init__(self) -> None:
        self._now = 0  # the latest turn that was taken
        self._ends: dict[int, int] = {}  # by client: where its last turn ends
        self._most = _FEW

    def enter(self, client: int, rows: int) -> int:
        """The turn of a client's next rows."""
        turn = self._ends.get(client, 0)
        if turn < self._now:
            turn = self._now
        self._ends[client] = turn + rows
        if len(self._ends) > self._most:
            self._tidy()
        return turn

    def take(self, turn: int) -> None:
        """What had this turn is served."""
        if turn > self._now:
            self._now = turn

    def _tidy(self) -> None:
        """Forget clients that a new one would have nothing ahead of."""
        self._ends = {client: end for client, end in self._ends.items() if end > self._now}
        self._most = max(_FEW, 2 * len(self._ends))

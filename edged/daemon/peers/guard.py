"""Keeps peers from taking all descriptors, or memory that nobody accounts for.

It cuts off such peers, and keeps their processes out for a while: a program that connects again at
once would leave no time for the others.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence

from edged import malloc as heap
from edged.budget import anonymous_bytes
from edged.daemon.endpoint import Endpoint
from edged.daemon.peers.connections import PeerConnection, is_sending, process_of
from edged.daemon.peers.door import Door
from edged.daemon.peers.hidden import Hidden, Remedy

log = logging.getLogger("edged")

LOOK_S = 0.02  # the time between two looks at the memory; a local peer can send 20 MB in it
SILENT_S = 0.25  # a peer without a whole message for this long may be in the middle of one
MUTE_S = 3.0  # a peer that has sent nothing at all for this long makes room for others
KEPT_OUT_S, MOST_KEPT_OUT_S = 1.0, 60.0  # a process is kept out for this long: first, and at most
MOST_KNOWN = 1_024  # the most processes that are kept out


class Guard:
    """Watches the peers of some endpoints."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        door: Door,
        taken_bytes: Callable[[], int] = anonymous_bytes,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._door = door
        self._taken_bytes = taken_bytes
        self._hidden = Hidden()
        self._caught = Caught()
        self.look_at = -math.inf

    def update(self, now: float) -> None:
        """Peers have connected or left."""
        for endpoint in self._endpoints:
            come, gone = endpoint.update(now)
            for connection in come if self._caught.anyone else ():
                if self._caught.is_kept_out(process_of(connection), now):
                    endpoint.connections.cut(connection)
            self._door.update(endpoint, come, gone)
            if come:
                self.look_at = min(self.look_at, now + LOOK_S)

    def caught(self, connection: PeerConnection, now: float) -> None:
        """Keep the process of a peer out for long, which did what nobody does by mistake."""
        self._caught.catch(process_of(connection), now, at_least_s=MOST_KEPT_OUT_S)

    def begin(self) -> None:
        """The memory and the descriptors that are taken now are as they should be."""
        self._hidden.begin()
        self._door.begin()
        self.look_at = -math.inf

    def look(self, accounted_bytes: int, limit_bytes: int, now: float) -> None:
        """Check the memory of this process; `accounted_bytes` of it are known.

        While the frames of one message are skipped no other message is read, so that silence means
        nothing, and the memory becomes free anyway.
        """
        self.look_at = now + LOOK_S if any(len(e.connections) for e in self._endpoints) else now + 1
        for endpoint in self._endpoints:
            offenders, endpoint.offenders = set(endpoint.offenders), []
            for process in offenders:
                self._keep_out(process, now)
        step = Remedy.NOTHING if any(e.is_skipping for e in self._endpoints) else Remedy.TRIM
        while step is not Remedy.NOTHING:
            unread_bytes = sum(endpoint.unread.total_bytes for endpoint in self._endpoints)
            taken_bytes = self._taken_bytes() - accounted_bytes - unread_bytes
            step = self._hidden.look(taken_bytes, limit_bytes, now)
            if step is Remedy.TRIM:
                heap.give_back()
            elif step is Remedy.GIVE_UP:
                log.warning("%d bytes are in use that nobody accounts for", taken_bytes)
            elif step is not Remedy.NOTHING and self._cut(step, now):
                self._hidden.settle(now)

    def sweep(self, unread_bytes: int, now: float) -> None:
        """Now and then: make room for clients that wait to be let in, and for answers.

        `unread_bytes`: the most that all peers of an endpoint may leave unread together.
        """
        for endpoint in self._endpoints:
            endpoint.unread.most_bytes = unread_bytes
            endpoint.relieve()
            self._door.update(endpoint, [], endpoint.lost())
        if not self._door.try_open():
            for endpoint, connection in self._all():
                if connection.heard_at is None and now - connection.since > MUTE_S:
                    endpoint.connections.cut(connection)

    def _cut(self, step: Remedy, now: float) -> int:
        """Cut off the peers that a step is for; their number."""
        cut = 0
        for endpoint, connection in self._all():
            heard_at = connection.heard_at
            if step is not Remedy.CUT_ALL and heard_at is not None and now - heard_at < SILENT_S:
                continue
            if step is Remedy.CUT_SENDING:
                if heard_at is not None and not is_sending(connection):
                    continue
                self._caught.catch(process_of(connection), now)
            endpoint.connections.cut(connection)
            cut += 1
        if cut:
            log.warning("messages that do not end take too much memory: %d clients cut off", cut)
        return cut

    def _keep_out(self, process: int, now: float) -> None:
        """Cut off all connections of a process, and take no new ones for a while."""
        if self._caught.catch(process, now):
            for endpoint, connection in self._all():
                if process_of(connection) == process:
                    endpoint.connections.cut(connection)

    def _all(self) -> Iterable[tuple[Endpoint, PeerConnection]]:
        return ((e, connection) for e in self._endpoints for connection in e.connections)


class Caught:
    """Processes that are kept out, for twice as long each time. Pure."""

    def __init__(self) -> None:
        # The end of the time in which each is kept out, and its length.
        self._until: dict[int, tuple[float, float]] = {}

    @property
    def anyone(self) -> bool:
        return bool(self._until)

    def catch(self, process: int | None, now: float, at_least_s: float = KEPT_OUT_S) -> bool:
        """Keep it out, unless it is already. False if it was, or is None: an unknown process."""
        if process is None or self.is_kept_out(process, now):
            return False
        _, last_s = self._until.pop(process, (0.0, 0.0))
        wait_s = min(max(2 * last_s, at_least_s), MOST_KEPT_OUT_S)
        self._until[process] = now + wait_s, wait_s
        if len(self._until) > MOST_KNOWN:
            del self._until[next(iter(self._until))]
        return True

    def is_kept_out(self, process: int | None, now: float) -> bool:
        if process is None or process not in self._until:
            return False
        until, _ = self._until[process]
        if now > until + MOST_KEPT_OUT_S:  # it behaves now, or its number is another process
            del self._until[process]
        return now < until

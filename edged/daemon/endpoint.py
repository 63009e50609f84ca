"""A ZeroMQ socket that clients connect to, among the other descriptors of a poll loop.

Knows no clients, and does not look into messages. What it holds for a peer is bounded: the frames
of a message, and the bytes of answers that the peer does not read. A peer that exceeds a bound is
cut off, and the rest of its message is dropped in slices, so that no turn of the loop is long.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import zmq

from edged import wire
from edged.daemon.peers.connections import Connections, PeerConnection, process_of
from edged.daemon.peers.unread import MARK_BYTES, Unread, lent
from edged.sockets import has_message, receive, send, skip

log = logging.getLogger("edged")

BURST = 64  # messages that are taken before other descriptors are looked at
SLICE = 2_000  # surplus frames of a message that are dropped in one turn
COPIED_BYTES = MARK_BYTES  # it is quicker to copy a smaller message than to lend it to ZeroMQ
GATHER_MS = 3  # the longest time that one message waits for others


class Endpoint:
    """A ROUTER. While `unsure` it may have messages, though its descriptor is not readable."""

    def __init__(self, make: Callable[[], zmq.Socket[Any]], limits: wire.Limits) -> None:
        self._make = make
        self._limits = limits
        # The sender's name comes first, and one frame too many shows that a message is too long.
        self._most = limits.max_frames + 2
        self.offenders: list[int] = []  # the processes of peers that were cut off
        self._begin()

    def _begin(self) -> None:
        self.socket = self._make()
        self.descriptor: int = self.socket.FD
        self.unsure = True
        self.connections = Connections(self.socket)
        self.unread = Unread(self._limits.max_message_bytes)
        self._skipping: PeerConnection | None = None  # the sender of a message that is dropped
        self._skipped = 0  # the number of its frames that were dropped

    def renew(self) -> None:
        """Take another socket, which is bound nowhere. ZeroMQ drops at once what the old one held,
        and all its connections: their peers connect again, and send again.
        """
        self.close(linger=0)
        self._begin()

    def send(self, routing_id: bytes, frames: Sequence[wire.Buffer]) -> None:
        """Raises ZMQError when nobody takes it at once: EAGAIN, EHOSTUNREACH."""
        self.unsure = True
        size = sum(map(len, frames))
        copy = size < COPIED_BYTES
        connection = self.connections.by_routing_id.get(routing_id)
        if connection is None:
            send(self.socket, [routing_id, *frames], copy=copy)
            return
        if connection.unread_bytes and not self.unread.has_room(connection, size):
            self._cut(connection, f"{connection.unread_bytes} bytes of answers are not read")
            raise zmq.Again
        unmarked_bytes = connection.unmarked_bytes + size
        if unmarked_bytes < MARK_BYTES:
            send(self.socket, [routing_id, *frames])
            connection.unmarked_bytes = unmarked_bytes
        else:
            last = lent(frames[-1])
            send(self.socket, [routing_id, *frames[:-1], last], copy=copy)
            self.unread.sent(connection, unmarked_bytes, last.tracker)
            if self.unread.is_too_much:
                self.relieve()

    def messages(self, now: float) -> Iterator[tuple[bytes, list[wire.Buffer]]]:
        """The sender and the frames of each message of a burst. A message that has too many frames
        comes with one frame too many.
        """
        for _ in range(BURST):
            if self._skipping is not None and not self._skip():
                return
            self.unsure = has_message(self.socket)
            if not self.unsure:
                return
            # The payload stays ZeroMQ's: the very frames go on without a copy.
            frames: list[Any] = receive(self.socket, self._most)
            routing_id = frames[0].bytes
            connection = self.connections.heard(frames[-1], routing_id, now)
            if frames[-1].more:
                self._skipping, self._skipped = connection, 0
            if not connection.is_cut:
                yield routing_id, frames[1:]

    @property
    def is_skipping(self) -> bool:
        """Whether no message can be read now, since the frames of one message come in a row."""
        return self._skipping is not None

    @property
    def flooder(self) -> PeerConnection | None:
        """The sender of a message that takes too long to skip: the socket is to be renewed."""
        return self._skipping if self._skipped >= SLICE else None

    def update(self, now: float) -> tuple[list[PeerConnection], list[PeerConnection]]:
        """The connections that are new, and those that have ended."""
        come, gone = self.connections.update(now)
        for connection in gone:
            self.unread.forget(connection)
        return come, gone

    def lost(self) -> list[PeerConnection]:
        """Connections that have ended without notice."""
        gone = self.connections.lost()
        for connection in gone:
            self.unread.forget(connection)
        return gone

    def relieve(self) -> None:
        """Count what peers have read. While they leave too much unread together, cut off the one
        that leaves most.
        """
        for connection in self.connections:
            self.unread.settle(connection)
        while self.unread.is_too_much:
            worst = max(self.connections, key=lambda c: c.unread_bytes, default=None)
            if worst is None or not worst.unread_bytes:
                return
            self._cut(worst, f"{worst.unread_bytes} bytes of answers are not read")
            self.unread.forget(worst)

    def close(self, *, linger: int | None) -> None:
        self.connections.close()
        self.socket.close(linger=linger)

    def _skip(self) -> bool:
        """Drop a slice of a message. Whether this was the last one."""
        self.unsure = True
        count = skip(self.socket, SLICE)
        self._skipped += count
        if count < SLICE:
            self._skipping = None
        return count < SLICE

    def _cut(self, connection: PeerConnection, reason: str) -> None:
        log.warning("a client is cut off: %s", reason)
        process = process_of(connection)
        if process is not None:
            self.offenders.append(process)
        self.connections.cut(connection)


def gather_ms(settled_until_s: float, now: float) -> int:
    """The time that a message waits for others while the device needs no orders anyway.

    A turn of the loop begins with cold caches, for which several messages pay as much as one. A
    millisecond is left for the turn itself. `settled_until_s` minus infinity: not at all.
    """
    spare_ms = min(GATHER_MS, 1e3 * (settled_until_s - now) - 1.0)
    return math.floor(spare_ms) if spare_ms > 0.0 else 0

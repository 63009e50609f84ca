"""How much of what was sent to a peer it has not read yet, which ZeroMQ does not tell.

Now and then a frame is lent to ZeroMQ instead of copied. When ZeroMQ gives it back, all that was
sent to the peer before has left this process. So up to `MARK_BYTES` for each peer are not counted,
and a small message costs only an addition.
"""

from __future__ import annotations

from typing import Any

import zmq

from edged import wire
from edged.daemon.peers.connections import PeerConnection

MARK_BYTES = 65_536  # the bytes after which a frame is lent


class Unread:
    """Counts for all connections of a socket; the figures of one are in its PeerConnection."""

    def __init__(self, peer_bytes: int) -> None:
        """`peer_bytes`: the most that one peer may leave unread, unless it is a single message."""
        self.peer_bytes = peer_bytes
        self.most_bytes = peer_bytes  # the most that all peers may leave unread together
        self.total_bytes = 0  # what all peers have left unread, as far as is known

    @property
    def is_too_much(self) -> bool:
        return self.total_bytes > self.most_bytes

    def has_room(self, connection: PeerConnection, size: int) -> bool:
        """Whether a peer that has bytes unread already may get `size` more."""
        if connection.unread_bytes + size <= self.peer_bytes:
            return True
        self.settle(connection)
        unread_bytes = connection.unread_bytes
        return not unread_bytes or unread_bytes + size <= self.peer_bytes

    def sent(self, connection: PeerConnection, size: int, tracker: zmq.MessageTracker) -> None:
        """A message was sent whose last frame was lent.

        size     all bytes that were sent since the last message of that kind
        tracker  says whether ZeroMQ has given the frame back
        """
        connection.unmarked_bytes = 0
        connection.marks.append((size, tracker))
        connection.unread_bytes += size
        self.total_bytes += size
        self.settle(connection)

    def settle(self, connection: PeerConnection) -> None:
        """Subtract what the peer has read."""
        marks = connection.marks
        while marks and marks[0][1].done:
            size, _ = marks.popleft()
            connection.unread_bytes -= size
            self.total_bytes -= size

    def forget(self, connection: PeerConnection) -> None:
        """The connection has ended, and ZeroMQ has freed what was for it."""
        self.total_bytes -= connection.unread_bytes
        connection.unread_bytes = connection.unmarked_bytes = 0
        connection.marks.clear()


def lent(frame: wire.Buffer) -> Any:
    """A frame that is not copied, however small, and can be asked whether it has left."""
    return zmq.Frame(frame, track=True, copy=False, copy_threshold=0)

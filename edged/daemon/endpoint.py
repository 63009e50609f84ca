"""A ZeroMQ socket that clients connect to, among the other descriptors of a poll loop.

Knows no clients, and does not look into messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import zmq

from edged import wire
from edged.sockets import has_message, receive, send

BURST = 64  # messages that are taken before others are looked at


class Endpoint:
    """A ROUTER. While it is `unsure`, it may have messages that its descriptor does not tell of."""

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self.socket = socket
        self.descriptor: int = socket.FD
        self.unsure = True

    def send(self, routing_id: bytes, frames: Sequence[wire.Buffer], *, copy: bool = True) -> None:
        """Raises ZMQError when nobody takes it at once."""
        self.unsure = True
        send(self.socket, [routing_id, *frames], copy=copy)

    def messages(self) -> Iterator[tuple[bytes, list[wire.Buffer]]]:
        """The sender and the frames of each of a burst."""
        for _ in range(BURST):
            self.unsure = has_message(self.socket)
            if not self.unsure:
                return
            # The payload stays ZeroMQ's: the very frames go on without a copy.
            frames: list[Any] = receive(self.socket)
            yield frames[0].bytes, frames[1:]

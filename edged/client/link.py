"""The client's end of a ZeroMQ connection: its options and its monitor. Knows no protocol."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from edged.errors import InvalidArgument

_ENDPOINT = re.compile(r"ipc://.+|tcp://(\[[0-9A-Fa-f:.%\w]+\]|[^:/\s]+):(?P<port>\d{1,5})")

_OPTIONS = {
    # IMMEDIATE is not set. With it, ZeroMQ drops replies that have arrived but were not read when
    # the connection breaks, as after a daemon that answered everything and ended. The session sees
    # to it that requests do not pile up without a connection.
    zmq.RECONNECT_IVL: 100,  # ms
    zmq.RECONNECT_IVL_MAX: 2_000,
    zmq.HEARTBEAT_IVL: 2_000,  # ms; shows that a peer has vanished silently
    zmq.HEARTBEAT_TIMEOUT: 6_000,
    zmq.IPV6: 1,
    zmq.LINGER: 200,  # ms; time for a last CANCEL when the client closes
}

_EVENTS: int = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


class Link(Enum):
    """Whether the connection stands."""

    UP = auto()
    DOWN = auto()


def checked_endpoint(endpoint: str) -> str:
    """`endpoint`, if a client can connect to it. Raises InvalidArgument."""
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match["port"] or 1) < 65_536:
        raise InvalidArgument(f"endpoint {endpoint!r}: give ipc:///path/of.sock or tcp://host:port")
    return endpoint


@dataclass(frozen=True, slots=True)
class DealerConnection:
    """A DEALER socket, the monitor of its connection, and the context of both.

    All three are blocking ones, or all three are asyncio ones.
    """

    context: zmq.Context[Any]
    socket: Any
    monitor: Any

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()
        self.context.term()


def connect(context: zmq.Context[Any], endpoint: str) -> DealerConnection:
    """Connect to `endpoint`, where no daemon needs to be yet. The connection owns the context.

    The routing id stays the same on every reconnection, so that the daemon recognises a request
    that is sent again.
    """
    socket = context.socket(zmq.DEALER)
    for option, value in _OPTIONS.items():
        socket.setsockopt(option, value)
    # ZeroMQ chooses ids that begin with 0x00 for peers that set none.
    socket.setsockopt(zmq.ROUTING_ID, b"\x01" + secrets.token_bytes(15))
    connection = DealerConnection(context, socket, socket.get_monitor_socket(_EVENTS))
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        connection.close()
        raise InvalidArgument(f"endpoint {endpoint}: {error.strerror}") from error
    return connection


def link_event(frames: Sequence[bytes]) -> Link:
    """The event that a message of the monitor tells."""
    event = parse_monitor_message(list(frames))["event"]
    return Link.UP if event == zmq.EVENT_HANDSHAKE_SUCCEEDED else Link.DOWN

"""The connections of a ZeroMQ socket, by their descriptors, and how one of them is cut.

ZeroMQ has no call that counts its peers or ends a connection. But its monitor tells the descriptor
of each connection, and each message tells the descriptor that it came by. When a connection is shut
down from this side, ZeroMQ behaves as if the peer had left: it frees what it holds for the peer,
with messages that never ended and answers that nobody read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
import termios
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import zmq

from edged.sockets import has_message

_EVENTS = int(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
_ACCEPTED = int(zmq.EVENT_ACCEPTED)
_EVENT = struct.Struct("=Hi")  # what the monitor sends: the event, and the descriptor
_SOURCE = 2  # ZMQ_SRCFD, which pyzmq does not name


@dataclass(slots=True, eq=False)
class PeerConnection:
    """One peer. `edged.daemon.peers.unread` counts what it has not read."""

    descriptor: int
    inode: int | None  # the inode of its socket, which tells it from a later one of this descriptor
    since: float
    origin: bytes = b""  # the address that it came by
    heard_at: float | None = None  # the time at which its last whole message was read
    routing_id: bytes | None = None
    is_cut: bool = False  # ZeroMQ notices that when all its messages have been read
    unmarked_bytes: int = 0
    unread_bytes: int = 0
    marks: deque[tuple[int, zmq.MessageTracker]] = field(default_factory=deque)


class Connections:
    """Owns the table of one socket."""

    def __init__(self, zmq_socket: zmq.Socket[Any]) -> None:
        self._socket = zmq_socket
        self._monitor = zmq_socket.get_monitor_socket(_EVENTS)
        self.descriptor: int = self._monitor.FD
        has_message(self._monitor)  # its descriptor tells of events only after an empty look
        self._by_descriptor: dict[int, PeerConnection] = {}
        self.by_routing_id: dict[bytes, PeerConnection] = {}  # the latest one of each routing id

    def __len__(self) -> int:
        return len(self._by_descriptor)

    def __iter__(self) -> Iterator[PeerConnection]:
        return iter(list(self._by_descriptor.values()))

    def heard(self, frame: zmq.Frame, routing_id: bytes, now: float) -> PeerConnection:
        """The connection of a whole message that has come; `frame` is a frame of it."""
        descriptor = frame.get(_SOURCE)
        connection = self._by_descriptor.get(descriptor)
        if connection is None:  # the monitor tells of it later
            connection = self._add(descriptor, now)
        connection.heard_at = now
        if connection.routing_id != routing_id:
            connection.routing_id = routing_id
        self.by_routing_id[routing_id] = connection
        return connection

    def update(self, now: float) -> tuple[list[PeerConnection], list[PeerConnection]]:
        """The connections that the monitor tells of: new ones, and those that have ended."""
        come, gone = [], []
        while has_message(self._monitor):
            event, origin = self._monitor.recv_multipart()
            number, descriptor = _EVENT.unpack(event)
            known = self._by_descriptor.get(descriptor)
            if known is not None and (number != _ACCEPTED or known.inode != _inode(descriptor)):
                gone.append(self._remove(known))
                known = None
            if number == _ACCEPTED:
                known = known or self._add(descriptor, now)
                known.origin = origin
                come.append(known)
        return come, gone

    def lost(self) -> list[PeerConnection]:
        """Connections that have ended, and the monitor has not told it."""
        return [
            self._remove(connection)
            for connection in self
            if connection.inode is None or connection.inode != _inode(connection.descriptor)
        ]

    def cut(self, connection: PeerConnection) -> None:
        """Shut it down. ZeroMQ notices that, and the monitor tells that it has ended."""
        connection.is_cut = True
        with _socket_of(connection) as peer:
            if peer is not None:
                with contextlib.suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """To be called before the socket is closed, when it takes no connections any more."""
        self.update(0.0)  # so that ZeroMQ's thread does not wait to tell something
        self._socket.disable_monitor()
        self._monitor.close()

    def _add(self, descriptor: int, now: float) -> PeerConnection:
        connection = PeerConnection(descriptor, _inode(descriptor), now)
        self._by_descriptor[descriptor] = connection
        return connection

    def _remove(self, connection: PeerConnection) -> PeerConnection:
        del self._by_descriptor[connection.descriptor]
        name = connection.routing_id
        if name is not None and self.by_routing_id.get(name) is connection:
            del self.by_routing_id[name]
        return connection


def process_of(connection: PeerConnection) -> int | None:
    """The process at the other end, where that is one of this host and can be seen from here."""
    with _socket_of(connection) as peer:
        if peer is None or peer.family != socket.AF_UNIX:
            return None
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return _CREDENTIALS.unpack(credentials)[0] or None


def is_sending(connection: PeerConnection) -> bool:
    """Whether the peer has sent bytes that have not been read."""
    with _socket_of(connection) as peer:
        if peer is None:
            return False
        with contextlib.suppress(OSError):
            return bool(struct.unpack("i", fcntl.ioctl(peer, termios.FIONREAD, b"\0" * 4))[0])
    return False


_CREDENTIALS = struct.Struct("3i")


@contextlib.contextmanager
def _socket_of(connection: PeerConnection) -> Iterator[socket.socket | None]:
    """A socket object for it; None when its descriptor belongs to something else by now."""
    if connection.inode is None:
        yield None
        return
    try:
        descriptor = os.dup(connection.descriptor)
    except OSError:
        yield None
        return
    if _inode(descriptor) != connection.inode:
        os.close(descriptor)
        yield None
        return
    with socket.socket(fileno=descriptor) as peer:
        yield peer if _is_accepted(peer, connection.origin) else None


def _is_accepted(peer: socket.socket, origin: bytes) -> bool:
    """Whether it is a connection to that address. The descriptor may already have belonged to
    something else when the monitor's message was read.
    """
    if peer.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    if peer.family != socket.AF_UNIX:
        return not origin.startswith(b"ipc")
    name = peer.getsockname()
    if not name or not origin or isinstance(name, bytes):
        return bool(name)
    return origin == f"ipc://{name}".encode()


def _inode(descriptor: int) -> int | None:
    """The inode of a socket; None when it is no socket, or not open."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_ino if stat.S_ISSOCK(status.st_mode) else None

"""The addresses at which clients connect; closed while the process is short of descriptors.

Without a descriptor for the next connection ZeroMQ aborts the process (ipc) or spins (tcp). So some
descriptors are reserved, for files and for a worker's restart, and:

* At the path of an ipc socket clients wait at a listener of our own, whose backlog bounds their
  number. Once a client waits, a new listener takes the path, and ZeroMQ is handed the old one with
  the clients that wait at it. ZeroMQ keeps it as long as one of these is connected, since to unbind
  an address cuts off the clients that came by it.
* At a tcp address a client that is one too many is cut off again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import select
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zmq

from edged.daemon.endpoint import Endpoint
from edged.daemon.peers.connections import PeerConnection

log = logging.getLogger("edged")

MOST_DESCRIPTORS = 65_536  # more would only cost memory
RESERVED = 1_024  # descriptors that clients cannot take, or half of those that are free
WAITING = 64  # the most clients that wait at an ipc socket
# An address that was just unbound is bound again in at most so many tries, with pauses.
REBIND_TRIES, REBIND_PAUSE_S = 100, 0.005


class Door:
    """Owns the addresses of some endpoints. When `descriptor` is readable, call `let_in`."""

    def __init__(self, limit: int, count: Callable[[], int] | None = None) -> None:
        """`limit`: the most descriptors of this process; `count` says how many are in use."""
        self._limit = limit
        self._count = count or _descriptors
        self._waiting = select.epoll()
        self.descriptor = self._waiting.fileno()
        self._gates: dict[int, _Gate] = {}  # each by the descriptor of its listener
        self._plain: list[tuple[Endpoint, str]] = []
        self.is_open = True
        self.begin()

    def begin(self) -> None:
        """The process needs the descriptors that are open now for itself."""
        self._taken = self._count()  # an upper bound, until they are counted again
        self._most = self._limit - min((self._limit - self._taken) // 2, RESERVED)

    def bind(self, endpoint: Endpoint, where: str, mode: int) -> None:
        """Listen there. Raises ZMQError or OSError. `mode`: the permissions of an ipc socket."""
        if where.startswith("ipc://") and not where.startswith("ipc://@"):
            gate = _Gate(endpoint, where.removeprefix("ipc://"), mode)
            gate.open(self._room())
            self._watch(gate)
        else:
            _bind(endpoint, where)
            bound = endpoint.socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
            self._plain.append((endpoint, bound))
        self.begin()

    def renewed(self, endpoint: Endpoint) -> None:
        """The endpoint has a new socket: bind that one."""
        for gate in self._gates.values():
            if gate.endpoint is endpoint:
                gate.batches.clear()
        for other, where in self._plain:
            if other is endpoint:
                _bind_soon(endpoint, where)

    def let_in(self) -> None:
        """Let in the clients that wait, if there are descriptors for them."""
        for descriptor, _ in self._waiting.poll(0):
            gate = self._gates[descriptor]
            if not gate.is_empty:
                continue  # ZeroMQ has not accepted the previous ones yet
            if not self._has_room():
                self.shut()
                return
            del self._gates[descriptor]
            self._waiting.unregister(descriptor)
            self._taken += gate.let_in(self._room())
            self._watch(gate)

    def update(
        self, endpoint: Endpoint, come: list[PeerConnection], gone: list[PeerConnection]
    ) -> None:
        """Connections have come and gone."""
        for gate in self._gates.values():
            if gate.endpoint is endpoint:
                gate.update(come, gone)
        if self._plain:
            self._taken += len(come)
            if not self._has_room():
                self.shut()
        if not self.is_open:
            for connection in come:
                if not connection.origin.startswith(b"ipc"):
                    endpoint.connections.cut(connection)

    def shut(self) -> None:
        """Let no more clients in."""
        if self.is_open:
            log.warning("%d descriptors are open: nobody else is let in", self._taken)
        self.is_open = False
        for descriptor in self._gates:
            self._waiting.modify(descriptor, 0)

    def try_open(self) -> bool:
        """Let clients in again if there are descriptors for some. Whether it is open now."""
        for gate in self._gates.values():
            gate.sweep()
        if self.is_open:
            return True
        self._taken = self._count()
        if self._taken >= self._most:
            return False
        for descriptor in self._gates:
            self._waiting.modify(descriptor, select.EPOLLIN)
        self.is_open = True
        log.info("clients are let in again")
        return True

    def close(self) -> None:
        for gate in self._gates.values():
            gate.close()
        self._gates.clear()
        self._waiting.close()

    def _watch(self, gate: _Gate) -> None:
        self._gates[gate.descriptor] = gate
        self._waiting.register(gate.descriptor, select.EPOLLIN)

    def _has_room(self) -> bool:
        if self._taken >= self._most:
            self._taken = self._count()
        return self._taken < self._most

    def _room(self) -> int:
        """The number of clients that may wait at a time: all of these will be let in."""
        return max(1, min(WAITING, (self._most - self._taken) // 2))


class _Gate:
    """The path of one ipc socket."""

    def __init__(self, endpoint: Endpoint, path: str, mode: int) -> None:
        self.endpoint = endpoint
        # The addresses that ZeroMQ was handed, and the number of clients connected by each.
        self.batches: dict[bytes, int] = {}
        self._handed: socket.socket | None = None  # the last one
        self._number = 0
        self._path = path
        self._mode = mode

    @property
    def descriptor(self) -> int:
        return self._listener.fileno()

    @property
    def is_empty(self) -> bool:
        """Whether no client waits any more at the listener that ZeroMQ has."""
        if self._handed is None:
            return True
        looking = select.poll()
        looking.register(self._handed, select.POLLIN)
        return not looking.poll(0)

    def open(self, most: int) -> None:
        """Take the path, with a backlog of `most` clients. Raises OSError."""
        self._most = most
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(os.lstat(self._path).st_mode):
                    raise FileExistsError(17, "it is a file of another kind")
            self._number += 1
            self._beside = f"{self._path}~{self._number}"
            Path(self._beside).unlink(missing_ok=True)
            with _umask(~self._mode & 0o777):  # its mode from the first moment on
                listener.bind(self._beside)
            listener.listen(most)
            os.rename(self._beside, self._path)
        except OSError:
            listener.close()
            raise
        self._listener = listener

    def let_in(self, most: int) -> int:
        """Hand ZeroMQ the clients that wait, and let up to `most` others wait. Returns the most
        descriptors that this takes.
        """
        router, address, count = self.endpoint.socket, f"ipc://{self._beside}", self._most + 2
        if self._handed is not None:
            self._handed.close()
        self._handed = self._listener
        self.open(most)
        router.setsockopt(zmq.USE_FD, os.dup(self._handed.fileno()))
        router.bind(address)
        router.setsockopt(zmq.USE_FD, -1)
        self.batches[address.encode()] = 0
        return count

    def update(self, come: list[PeerConnection], gone: list[PeerConnection]) -> None:
        for connection in come:
            if connection.origin in self.batches:
                self.batches[connection.origin] += 1
        for connection in gone:
            if connection.origin in self.batches:
                self.batches[connection.origin] -= 1

    def sweep(self) -> None:
        """Unbind the addresses by which no client is connected any more."""
        if self.is_empty:
            for address in [address for address, count in self.batches.items() if count <= 0]:
                del self.batches[address]
                with contextlib.suppress(zmq.ZMQError):
                    self.endpoint.socket.unbind(address.decode())

    def close(self) -> None:
        self._listener.close()
        if self._handed is not None:
            self._handed.close()
        Path(self._path).unlink(missing_ok=True)


def allow_descriptors() -> int:
    """Raise the limit on descriptors of this process as far as possible; the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return min(soft, MOST_DESCRIPTORS) if soft != resource.RLIM_INFINITY else MOST_DESCRIPTORS


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _bind_soon(endpoint: Endpoint, where: str) -> None:
    """Bind an address of a socket that was just closed: ZeroMQ frees its port a moment later."""
    for _ in range(REBIND_TRIES):
        with contextlib.suppress(zmq.ZMQError):
            _bind(endpoint, where)
            return
        time.sleep(REBIND_PAUSE_S)
    _bind(endpoint, where)


def _bind(endpoint: Endpoint, where: str) -> None:
    endpoint.socket.setsockopt(zmq.IPV6, int("[" in where))
    endpoint.socket.bind(where)


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)

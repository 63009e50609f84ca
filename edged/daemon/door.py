"""The addresses where clients come in; shut while the process is short of descriptors.

Without a descriptor for the next connection ZeroMQ ends the process (ipc) or turns in circles
(tcp). So some are kept back, for files, for a worker's restart, and for connections that come while
nobody looks: beyond these the addresses are given up, and taken again when peers have left. Who is
connected stays so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zmq

log = logging.getLogger("edged")

MOST_DESCRIPTORS = 65_536  # more would only cost memory
KEPT_BACK = 4_096  # at most, of them; ZeroMQ waits for us when 2,000 connections are untold


@dataclass(frozen=True, slots=True)
class _Address:
    socket: zmq.Socket[Any]
    endpoint: str
    mode: int  # of an ipc socket's file


class Door:
    """Owns the addresses of some sockets."""

    def __init__(self, most: int, taken: Callable[[], int] | None = None) -> None:
        """`most`: descriptors of this process; `taken` counts those that are in use."""
        self._most = most - min(most // 3, KEPT_BACK)
        self._count = taken or _descriptors
        self._addresses: list[_Address] = []
        self._taken = 0  # at most, since they were counted last
        self.is_open = True

    def bind(self, socket: zmq.Socket[Any], endpoint: str, mode: int) -> None:
        """Listen there. Raises ZMQError."""
        _bind(_Address(socket, endpoint, mode))
        bound = socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
        self._addresses.append(_Address(socket, bound, mode))
        self._taken = self._count()

    def came(self, count: int) -> bool:
        """So many connections have come. Shut the door if they are too many; whether it was."""
        self._taken += count
        if not self.is_open or self._taken < self._most:
            return False
        self._taken = self._count()
        if self._taken < self._most:
            return False
        self.shut()
        log.warning(
            "%d descriptors are open: nobody else is let in until clients leave", self._taken
        )
        return True

    def shut(self) -> None:
        """Nobody else comes in."""
        self.is_open = False
        for address in self._addresses:
            with contextlib.suppress(zmq.ZMQError):  # it could not be opened again
                address.socket.unbind(address.endpoint)

    def try_open(self) -> bool:
        """Let clients in again if there is room for some; whether it is open now."""
        if self.is_open:
            return True
        self._taken = self._count()
        if self._taken >= self._most * 15 // 16:
            return False
        try:
            for address in self._addresses:
                _bind(address)
        except zmq.ZMQError as error:
            log.warning("cannot listen again yet: %s", error.strerror)
            self.shut()
            return False
        self.is_open = True
        log.info("clients are let in again")
        return True


def allow_descriptors() -> int:
    """Raise the limit of this process as far as it may itself; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return min(soft, MOST_DESCRIPTORS) if soft != resource.RLIM_INFINITY else MOST_DESCRIPTORS


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _bind(address: _Address) -> None:
    """The file of an ipc socket has its mode from the first moment on."""
    before = os.umask(~address.mode & 0o777)
    try:
        address.socket.bind(address.endpoint)
    finally:
        os.umask(before)

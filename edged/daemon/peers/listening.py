"""Listens at addresses so that only those who may can connect, or take an address away."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import zmq

from edged.endpoints import Endpoint, Ipc
from edged.errors import Unavailable

log = logging.getLogger("edged")


Bind: TypeAlias = "Callable[[str, int], None]"
"""Binds to an address. An ipc socket must have this mode from its first moment on."""


def listen(bind: Bind, endpoint: Endpoint, mode: int, purpose: str = "listening") -> list[int]:
    """Bind to an endpoint. `mode`: the permissions of an ipc socket.

    Returns descriptors that are to stay open as long as the daemon listens. Raises Unavailable.
    """
    if isinstance(endpoint, Ipc):
        lock = _listen_in_file_system(bind, endpoint, mode)
        log.info("%s at ipc://%s", purpose, endpoint.path)
        return [lock]
    address = f"tcp://{endpoint.host}:{endpoint.port}"
    _bind(bind, address, mode)
    who = "every account of this machine" if endpoint.is_loopback else "every host of the network"
    log.info("%s at %s, where %s may connect", purpose, address, who)
    return []


def _listen_in_file_system(bind: Bind, endpoint: Ipc, mode: int) -> int:
    _prepare_directory(endpoint)
    lock = _claim(endpoint)
    try:
        _bind(bind, f"ipc://{endpoint.path}", mode)
    except Unavailable:
        os.close(lock)
        raise
    return lock


def _bind(bind: Bind, address: str, mode: int) -> None:
    try:
        bind(address, mode)
    except (zmq.ZMQError, OSError) as error:
        raise Unavailable(
            f"cannot listen at {address}: {error.strerror or error}; is another daemon running?"
        ) from error


def _prepare_directory(endpoint: Ipc) -> None:
    """Make the directory if it alone is missing. Warn if every account may write to it."""
    directory = Path(endpoint.path).absolute().parent
    try:
        directory.mkdir(0o755, exist_ok=True)
        permissions = directory.stat().st_mode
    except OSError as error:
        raise Unavailable(
            f"cannot listen at ipc://{endpoint.path}: {directory}: {error.strerror}; make its "
            "directory first"
        ) from error
    if permissions & stat.S_IWOTH and not permissions & stat.S_ISVTX:
        log.warning(
            "every account may write to %s, and put a socket of its own in place of the daemon's",
            directory,
        )


def _claim(endpoint: Ipc) -> int:
    """Lock the path of an ipc socket: ZeroMQ would take it away from a living daemon.

    A lock file that is another account's is not taken: that account could hold it at any time.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    cannot = f"cannot listen at ipc://{endpoint.path}: "
    try:
        lock = os.open(endpoint.lock, flags, 0o600)
    except OSError as error:
        raise Unavailable(
            f"{cannot}{endpoint.lock}: {error.strerror}; remove it, or name another socket"
        ) from error
    try:
        found = os.fstat(lock)
        if found.st_uid not in (os.geteuid(), 0) or not stat.S_ISREG(found.st_mode):
            raise Unavailable(
                f"{cannot}{endpoint.lock} is not the daemon's: remove it, or name a socket in a "
                "directory that other accounts may not write"
            )
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise Unavailable(
            f"{cannot}another daemon does; stop it, or name another socket"
        ) from error
    except Unavailable:
        os.close(lock)
        raise
    return lock

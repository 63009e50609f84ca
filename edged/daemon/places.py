"""Directories and addresses that a start needs, tried before anything is started.

Each trial makes something and takes it away again: access(2) says yes to root in /proc. What is
in use by another daemon is no error, since that daemon may be the one that is to be restarted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edged.config import Config
from edged.endpoints import Endpoint, Ipc, Tcp
from edged.errors import ConfigError, EdgedError, Unavailable

_WRONG_PATH = (errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR)


def check_directory(key: str, directory: str, purpose: str) -> None:
    """Raises ConfigError for a path that can be no directory. Raises Unavailable for one that
    cannot be written at present: it may be mounted, or get room, later.
    """
    try:
        _make_something_in(Path(directory))
    except OSError as error:
        kind: type[EdgedError] = ConfigError if error.errno in _WRONG_PATH else Unavailable
        raise kind(
            f"{key}: {purpose} cannot be kept in {directory} ({error.strerror}): name a directory "
            "that the daemon may write"
        ) from error


def check_endpoint(key: str, endpoint: Endpoint) -> None:
    """Raises ConfigError or Unavailable where the daemon could not listen, whoever else does."""
    if isinstance(endpoint, Tcp):
        _check_port(key, endpoint)
    else:
        _check_path(key, endpoint)


def addresses_in_use(config: Config) -> Iterator[str]:
    """A line for people about each address that a start would have to wait for."""
    for key, endpoint in endpoints(config):
        if isinstance(endpoint, Tcp):
            if _bind_error(endpoint) == errno.EADDRINUSE:
                yield f"{key}: port {endpoint.port} is in use"
        elif (why := _lock_in_use(endpoint)) is not None:
            yield f"{key}: {why}"


def endpoints(config: Config) -> Iterator[tuple[str, Endpoint]]:
    """All that the daemon listens at, with the key that names it."""
    for endpoint in config.server.parsed_endpoints:
        yield "server.endpoints", endpoint
    if (admin := config.server.parsed_admin) is not None:
        yield "server.admin", admin
    if (metrics := config.metrics.parsed_bind) is not None:
        yield "metrics.bind", metrics


def _check_path(key: str, endpoint: Ipc) -> None:
    path = Path(endpoint.path).absolute()
    lock = Path(endpoint.lock).absolute()
    try:
        if not path.parent.exists() and not path.parent.parent.exists():
            raise Unavailable(
                f"{key}: there is no directory {path.parent.parent}: make it first, or name another"
            )
        _make_something_in(path.parent)
        is_taken = os.path.lexists(path) and not path.is_socket()
        is_no_lock = os.path.lexists(lock) and not _may_be_lock(lock)
    except OSError as error:
        raise Unavailable(
            f"{key}: no socket can be made in {path.parent} ({error.strerror}): name a directory "
            "that the daemon may write"
        ) from error
    if is_taken:  # ZeroMQ would remove a file
        raise ConfigError(f"{key}: {path} is there, and is no socket: name another path")
    if is_no_lock:
        raise Unavailable(
            f"{key}: {lock} is not the daemon's: remove it, or name a socket in a directory that "
            "other accounts may not write"
        )


def _may_be_lock(path: Path) -> bool:
    """Whether the daemon could take it as its lock. To root the lock of any account is good here:
    root may look at the configuration of a service that runs as another account.
    """
    found = path.lstat()
    owner = os.geteuid()
    return stat.S_ISREG(found.st_mode) and (owner == 0 or found.st_uid in (owner, 0))


def _lock_in_use(endpoint: Ipc) -> str | None:
    """What keeps this account from the lock of a socket, though the path is good."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        lock = os.open(endpoint.lock, flags)
    except OSError:
        return None  # there is none yet
    try:
        owner = os.fstat(lock).st_uid
        if owner not in (os.geteuid(), 0):
            return f"{endpoint.lock} belongs to account {owner}, which alone may start there"
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return f"a daemon listens at ipc://{endpoint.path}"
    finally:
        os.close(lock)
    return None


def _check_port(key: str, endpoint: Tcp) -> None:
    """Whether this account could listen there if nobody else did."""
    found = _bind_error(endpoint)
    if found not in (None, errno.EADDRINUSE):
        raise Unavailable(
            f"{key}: cannot listen at tcp://{endpoint.host}:{endpoint.port} "
            f"({found if isinstance(found, str) else os.strerror(found or 0)}): name an address "
            "of this machine, and a port that the daemon's account may take"
        )


def _bind_error(endpoint: Tcp) -> int | str | None:
    """The errno, or the words of a failed look-up; None where the address can be bound to."""
    if endpoint.host != "*" and endpoint.host in {name for _, name in socket.if_nameindex()}:
        return None
    family = socket.AF_INET6 if endpoint.is_ipv6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("" if endpoint.host == "*" else endpoint.address, endpoint.port))
    except socket.gaierror as error:
        return str(error.strerror)
    except OSError as error:
        return error.errno
    return None


def _make_something_in(directory: Path) -> None:
    """Make a file in it or, if the directory is not there, in the next one above. Raises OSError.

    Nothing stays: root may look, and the daemon be another account.
    """
    directory = directory.absolute()
    if not directory.exists():
        directory = next(parent for parent in directory.parents if parent.exists())
    with tempfile.TemporaryDirectory(prefix=".edged-", dir=directory):
        pass

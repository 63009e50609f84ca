"""Endpoints, as a configuration writes them: `ipc://PATH` and `tcp://HOST:PORT`. Pure."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from edged.errors import InvalidArgument

PATH_BYTES = 107  # longest path in the address of a Unix socket; unix(7)
_INTERFACE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class Ipc:
    """A socket in the file system, whose permissions say who may connect."""

    path: str

    @property
    def companions(self) -> tuple[str, str, str]:
        """The files of the endpoint: its socket, its lock, and the socket of shared memory."""
        return (self.path, self.lock, f"{self.path}.shared")

    @property
    def lock(self) -> str:
        return f"{self.path}.lock"


@dataclass(frozen=True, slots=True)
class Tcp:
    """A port of an IP address (v6 in brackets) or of an interface; host `*` is all addresses."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """The host without brackets."""
        return self.host.strip("[]")

    @property
    def is_ipv6(self) -> bool:
        return self.host.startswith("[")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect, with all its accounts."""
        return _is_ip(self.address) and ipaddress.ip_address(self.address).is_loopback

    @property
    def is_address(self) -> bool:
        """Whether the host is an address, or all of them, and not the name of an interface."""
        return self.is_any or _is_ip(self.address)

    @property
    def is_any(self) -> bool:
        """Whether the port is open on all addresses of the machine."""
        return self.host in ("*", "0.0.0.0", "[::]")


Endpoint: TypeAlias = Ipc | Tcp


def parse(endpoint: str) -> Endpoint:
    """The endpoint that a text names. Raises InvalidArgument that says what is wrong with it."""
    transport, colons, rest = endpoint.partition("://")
    if colons and transport == "ipc":
        return _ipc(endpoint, rest)
    if colons and transport == "tcp":
        return _tcp(endpoint, rest)
    raise InvalidArgument(f"{endpoint!r} must begin with ipc:// or tcp://")


def clash(endpoints: Iterable[Endpoint]) -> str | None:
    """The path or port that two endpoints would share; None: they do not conflict."""
    taken: set[str] = set()
    ports: dict[int, list[Tcp]] = {}
    for endpoint in endpoints:
        if isinstance(endpoint, Ipc):
            paths = {os.path.normpath(path) for path in endpoint.companions}
            if both := sorted(taken & paths):
                return both[0]
            taken |= paths
            continue
        for other in ports.setdefault(endpoint.port, []):
            if other.is_any or endpoint.is_any or other.host == endpoint.host:
                return f"port {endpoint.port}"
        ports[endpoint.port].append(endpoint)
    return None


def _ipc(endpoint: str, path: str) -> Ipc:
    if path.startswith("@"):
        raise InvalidArgument(
            f"{endpoint!r} is an abstract socket, which every account of the machine may connect "
            "to: name a path"
        )
    if os.path.basename(path) in ("", ".", "..", "*") or "\0" in path:
        raise InvalidArgument(f"{endpoint!r} names no socket: write it as ipc:///run/edged.sock")
    size = len(os.fsencode(path))
    if size > PATH_BYTES:
        raise InvalidArgument(
            f"the path of {endpoint!r} has {size} bytes: the address of a Unix socket has room for "
            f"{PATH_BYTES}"
        )
    return Ipc(path)


def _tcp(endpoint: str, rest: str) -> Tcp:
    host, _, port = rest.rpartition(":")
    if not _PORT.fullmatch(port) or int(port) > 65_535:
        raise InvalidArgument(f"{endpoint!r} needs a port from 1 to 65535, as tcp://127.0.0.1:5555")
    if host == "localhost":
        host = "127.0.0.1"
    bracketed = host.startswith("[") and host.endswith("]")
    address = host[1:-1] if bracketed else host
    is_address = _is_ip(address) and bracketed == (":" in address)
    if not (is_address or host == "*" or _INTERFACE.fullmatch(host)):
        raise InvalidArgument(
            f"{endpoint!r}: {host!r} is no address: write 127.0.0.1, [::1], *, another address of "
            "this machine, or an interface as eth0"
        )
    return Tcp(host, int(port))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

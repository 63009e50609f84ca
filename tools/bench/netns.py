"""Three network namespaces, field - road - edge, joined by a link of a set rate. Needs root.

The rate limits the direction from field to edge, like an uplink: it is a token bucket (tc-tbf)
between road and edge. Everything is removed when the `with` block ends, or when no process is left
in the namespaces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

EDGE_ADDRESS = "10.77.2.2"


def why_not() -> str | None:
    """The reason why there can be no namespaces here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [name for name in ("ip", "tc") if shutil.which(name) is None]:
        return f"needs {' and '.join(missing)} (Debian: apt install iproute2)"
    name = f"edged-{os.getpid()}-try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespace can be made: {tried.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


@dataclass(frozen=True, slots=True)
class Link:
    """The names of the two ends."""

    field: str
    edge: str


def inside(namespace: str, command: list[str]) -> list[str]:
    """The command that runs `command` in a namespace."""
    return ["ip", "netns", "exec", namespace, *command]


@contextlib.contextmanager
def uplink(rate_bits_s: int) -> Iterator[Link]:
    """The link, which exists until the `with` block ends. The edge is at `EDGE_ADDRESS`."""
    field, road, edge = (f"edged-{os.getpid()}-{name}" for name in ("field", "road", "edge"))
    with contextlib.ExitStack() as stack:
        for name in (field, road, edge):
            _run("ip", "netns", "add", name)
            stack.callback(_run, "ip", "netns", "del", name)
        _join((field, "10.77.1.2"), (road, "10.77.1.1"), "a")
        _join((road, "10.77.2.1"), (edge, EDGE_ADDRESS), "b")
        _run("ip", "-n", field, "route", "add", "default", "via", "10.77.1.1")
        _run("ip", "-n", edge, "route", "add", "default", "via", "10.77.2.1")
        _run(*inside(road, ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]))
        shape = ("rate", f"{rate_bits_s}bit", "burst", "32kbit", "latency", "400ms")
        _run("tc", "-n", road, "qdisc", "add", "dev", "b0", "root", "tbf", *shape)
        yield Link(field, edge)


def _join(near: tuple[str, str], far: tuple[str, str], name: str) -> None:
    """A pair of interfaces, `name`0 here and `name`1 there, with their addresses."""
    ends = ((f"{name}0", *near), (f"{name}1", *far))
    (here, here_in, _), (there, there_in, _) = ends
    peer = ("peer", "name", there, "netns", there_in)
    _run("ip", "link", "add", here, "netns", here_in, "type", "veth", *peer)
    for interface, namespace, address in ends:
        _run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", interface)
        _run("ip", "-n", namespace, "link", "set", interface, "up")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)

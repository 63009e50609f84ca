"""Tells clients of a fork: the child has them in its memory, but not the threads that serve them.

ZeroMQ's threads stay with the parent, and every call on one of its sockets in the child would wait
for them for ever. So each client that was connected is told in the child, and refuses to be used
from then on; the parent's client goes on. A request itself looks at nothing.
"""

from __future__ import annotations

import ctypes
import os
from typing import Protocol
from weakref import WeakSet

from edged.client.link import DealerConnection
from edged.errors import InvalidArgument


class Connected(Protocol):
    """A client with a connection."""

    def on_fork(self) -> None:
        """This process is a child of the one that connected: leave the connection to the parent."""


# This belongs to the whole process, as does the hook, which Python keeps for its lifetime.
_connected: WeakSet[Connected] = WeakSet()


def watch(client: Connected) -> None:
    """Tell `client` of a fork, until `forget` or as long as it lives."""
    _connected.add(client)


def forget(client: Connected) -> None:
    _connected.discard(client)


def refusal() -> InvalidArgument:
    """The error of any use of a client that belongs to the parent."""
    return InvalidArgument(
        "this client belongs to the process that this one was forked from: open one in each process"
    )


def leave(connection: DealerConnection) -> None:
    """Keep the parent's connection in a child for ever, so that it is never destroyed there.

    pyzmq closes a socket that is not needed any more, at the latest when the process ends. Before
    that it removes the socket from its event loop, whose kernel state parent and child share.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _tell() -> None:
    for client in list(_connected):
        client.on_fork()
    _connected.clear()


os.register_at_fork(after_in_child=_tell)

"""Tells clients of a fork: the child has them in its memory, but not the threads that serve them.

ZeroMQ's threads stay with the parent, and every call on one of its sockets would wait for them for
ever. So in the child each client that was connected is told, and refuses to be used from then on;
the parent's goes on. Nothing is looked at when a request is made.
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
        """This is a child of the process that connected. Must leave the parent's connection be."""


# Of the whole process, as is the hook, which Python keeps for its lifetime.
_connected: WeakSet[Connected] = WeakSet()


def watch(client: Connected) -> None:
    """Tell `client` of a fork, until `forget`, or as long as it lives."""
    _connected.add(client)


def forget(client: Connected) -> None:
    _connected.discard(client)


def refusal() -> InvalidArgument:
    """What any use of such a client raises."""
    return InvalidArgument(
        "this client belongs to the process that this one was forked from: open one in each process"
    )


def leave(connection: DealerConnection) -> None:
    """In a child: keep what is the parent's for ever, so that nobody takes it apart.

    pyzmq closes a socket that is not needed any more, at the latest when the process ends, and
    takes it off its event loop first, whose place in the kernel the parent and the child share.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _tell() -> None:
    for client in list(_connected):
        client.on_fork()
    _connected.clear()


os.register_at_fork(after_in_child=_tell)

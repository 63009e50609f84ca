"""ZeroMQ sockets in a poll loop, for daemon and clients. Knows no messages.

The descriptor of a socket becomes readable at a change, not for a state (ZMQ_FD in
zmq_getsockopt(3)), and any call on the socket may consume a change. So one may wait for the
descriptor only if `has_message` was the last call and found nothing. zmq.Poller needs no such care,
but several times as many system calls.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import zmq

# Plain numbers, since an operation on ZeroMQ's enumerations is a call of a Python method.
_READABLE, _WRITABLE = int(zmq.POLLIN), int(zmq.POLLOUT)
_NO_WAIT = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)


def has_message(socket: zmq.Socket[Any]) -> bool:
    """Whether there is something to `receive`."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _READABLE)


def has_room(socket: zmq.Socket[Any]) -> bool:
    """Whether a message would be taken at once."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _WRITABLE)


def receive(socket: zmq.Socket[Any], most: int = sys.maxsize) -> list[zmq.Frame]:
    """The next message, as buffers that share ZeroMQ's memory.

    At most `most` frames: when the last of them has `more`, the rest has to be skipped.
    """
    frames = [socket.recv(_NO_WAIT, copy=False)]
    while frames[-1].more and len(frames) < most:
        frames.append(socket.recv(_NO_WAIT, copy=False))
    return frames


def owned(frames: Sequence[Any]) -> list[Any]:
    """`frames`, the large ones copied to ZeroMQ's own memory, to be sent with `copy=False`.

    Otherwise pyzmq sends them from Python's memory. To learn when that is free again it makes a
    thread, a socket and a lock at the first such message of the process, without protection: when
    several threads send their first one together, some are made twice, and the process may hang.
    """
    return [
        frame if isinstance(frame, zmq.Frame) or _is_small(frame) else zmq.Frame(frame, copy=True)
        for frame in frames
    ]


def _is_small(frame: Any) -> bool:
    """Whether pyzmq copies it even with `copy=False`."""
    return memoryview(frame).nbytes < zmq.COPY_THRESHOLD


def skip(socket: zmq.Socket[Any], most: int) -> int:
    """Drop up to `most` frames of the rest of a message; how many, less than `most` at its end."""
    receive_one = socket.recv
    for count in range(most):
        if not receive_one(_NO_WAIT, copy=False).more:
            return count
    return most


def send(socket: zmq.Socket[Any], frames: Sequence[Any], *, copy: bool = True) -> None:
    """Send a message. Raises ZMQError when it is not taken at once."""
    for frame in frames[:-1]:
        socket.send(frame, _MORE, copy=copy)
    socket.send(frames[-1], _NO_WAIT, copy=copy)

"""How both ends read their ZeroMQ sockets in a poll loop of their own. Knows no messages.

A socket's descriptor tells of changes, not of a state (ZMQ_FD in zmq_getsockopt(3)), and any call
on the socket may take a change in. So it may be slept on only when `has_message` was the last call
and found nothing. zmq.Poller needs no such care, and four times as many system calls.
"""

from __future__ import annotations

from typing import Any

import zmq


def has_message(socket: zmq.Socket[Any]) -> bool:
    """Whether there is something to `receive`."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


def receive(socket: zmq.Socket[Any]) -> list[zmq.Frame]:
    """The message that is there. Its frames are buffers that share ZeroMQ's memory."""
    frames = [socket.recv(zmq.NOBLOCK, copy=False)]
    while frames[-1].more:
        frames.append(socket.recv(zmq.NOBLOCK, copy=False))
    return frames

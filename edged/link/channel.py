"""Messages of several frames over a stream socket, without threads or queues of its own.

Each direction has a socket pair of its own. With one pair, reading would make room for the writer
at the other end, and the kernel would wake it though it only waits for messages.

Knows nothing of what frames mean. On the stream a message is the number of its payload frames, the
bytes of its first frame and of each payload frame, then the frames. Both ends run on one host.

ZeroMQ would hand each message to a thread of its own at either end, which costs more time than
everything else that a small message needs.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TypeAlias

from edged.errors import EdgedError, Unavailable

Buffer: TypeAlias = "bytes | bytearray | memoryview"

_AHEAD_BYTES = 4096  # read in one call: a few short messages, or the beginning of a long one
_GATHER = 64  # the most buffers that one call sends
_SOCKET_BYTES = 1 << 20  # the kernel is asked to hold this much for the other end
_COUNT = struct.Struct("=II")  # the number of payload frames, and the bytes of the first frame
_MAX_FRAMES, _MAX_FIRST_BYTES = 1 << 20, 1 << 30  # a message that claims more makes no sense


class Garbled(EdgedError):
    """What was read is no message, so nobody knows where the next one begins."""


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a channel between two processes, to be used in one direction."""
    ends = socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
    return ends


class Receiver:
    """Reads messages, one thread at a time."""

    def __init__(self, source: socket.socket) -> None:
        self._source = source
        self.descriptor = source.fileno()
        self._ahead = bytearray(_AHEAD_BYTES)
        self._begin = self._end = 0  # the part of it that has been read and not been used
        self._first: memoryview | None = None  # the first frame, when a message has begun
        self.sizes: tuple[int, ...] = ()  # bytes of the payload frames that are still to be read
        self._payload: list[memoryview] | None = None  # the payload while it is being read
        self._missing: deque[memoryview] = deque()  # the parts of it that have not been read
        self.ended = False  # the other end has closed: nothing more comes

    @property
    def has_read_ahead(self) -> bool:
        """Whether more has been read than the messages that were taken."""
        return self._end > self._begin

    def receive(self) -> list[memoryview] | None:
        """The next message; None at the end, or if it has not come and the socket does not block.

        `receive`, `begin` and `payload` raise Garbled when what comes is no message.
        The first frame is valid until the next call, payload frames for as long as they are used.
        """
        first = self._first if self._first is not None else self.begin()
        if first is None:
            return None
        payload = self.payload()
        return None if payload is None else [first, *payload]

    def begin(self) -> memoryview | None:
        """The first frame of the next message, or None as above.

        The rest of the payload of the last message is skipped.
        """
        if self.sizes and self.payload() is None:
            return None
        self._first = None
        while (wanted := self._parse()) > 0:
            if not self._read_ahead(wanted):
                return None
        return self._first

    def payload(self, into: Sequence[memoryview] | None = None) -> list[memoryview] | None:
        """The payload frames of the message that has begun, or None as above.

        They are read `into` memory of these sizes if the caller gives it.
        """
        if self._payload is None:
            self._payload = self._lay_out(into)
        while self._missing:
            part = self._missing[0]
            count = self._read_into(part)
            if not count:
                return None
            if count == part.nbytes:
                self._missing.popleft()
            else:
                self._missing[0] = part[count:]
        payload, self._payload = self._payload, None
        self._first, self.sizes = None, ()
        return payload

    def _parse(self) -> int:
        """Begin a message if its first frame has come. Returns the bytes that this still lacks."""
        have = self._end - self._begin
        if have < _COUNT.size:
            return _COUNT.size - have
        count, first_bytes = _COUNT.unpack_from(self._ahead, self._begin)
        if count > _MAX_FRAMES or first_bytes > _MAX_FIRST_BYTES:
            raise Garbled(
                f"a message of {count} frames after one of {first_bytes} bytes; this is a bug of "
                "whoever sent it"
            )
        head = _COUNT.size + 8 * count
        if have < head + first_bytes:
            return int(head + first_bytes - have)
        self.sizes = struct.unpack_from(f"={count}Q", self._ahead, self._begin + _COUNT.size)
        self._begin += head + first_bytes
        self._first = memoryview(self._ahead)[self._begin - first_bytes : self._begin]
        return 0

    def _lay_out(self, into: Sequence[memoryview] | None) -> list[memoryview]:
        """Memory for the payload, with the part that has been read. Raises Garbled for too much."""
        view = memoryview(self._ahead)
        if into is None:
            try:
                into = [memoryview(bytearray(size)) for size in self.sizes]
            except (MemoryError, OverflowError):
                size = sum(self.sizes)
                raise Garbled(f"there is no memory for a message of {size} bytes") from None
        for frame in into:
            here = min(frame.nbytes, self._end - self._begin)
            frame[:here] = view[self._begin : self._begin + here]
            self._begin += here
            if here < frame.nbytes:
                self._missing.append(frame[here:])
        return list(into)

    def _read_ahead(self, wanted: int) -> bool:
        """Read `wanted` bytes or more, as far as they have come."""
        have = self._end - self._begin
        if self._begin:
            self._ahead[:have] = self._ahead[self._begin : self._end]
            self._begin, self._end = 0, have
        if have + wanted > len(self._ahead):  # a long first frame; views of the old buffer stay
            self._ahead = self._ahead + bytearray(have + wanted - len(self._ahead))
        count = self._read_into(memoryview(self._ahead)[have:])
        self._end += count
        return count > 0

    def _read_into(self, target: memoryview) -> int:
        try:
            count = self._source.recv_into(target)
        except BlockingIOError:
            return 0
        except ConnectionResetError:  # the other end closed without reading all that we sent
            count = 0
        self.ended = not count
        return count


class Sender:
    """Writes messages, several with one call. What the socket does not take waits here."""

    def __init__(self, target: socket.socket) -> None:
        self._target = target
        self.descriptor = target.fileno()
        self._waiting: deque[memoryview] = deque()

    @property
    def waits(self) -> bool:
        """Whether there is something to `flush`."""
        return bool(self._waiting)

    def put(self, frames: Sequence[Buffer]) -> None:
        """Leave a message for the next `flush`; its frames must stay as they are until then."""
        views = [memoryview(frame) for frame in frames]
        sizes = [view.nbytes for view in views]
        count = len(sizes) - 1
        head = struct.pack(f"=II{count}Q", count, *sizes)
        self._waiting.extend((memoryview(head), *views))

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it. Raises Unavailable if it is closed."""
        waiting = self._waiting
        while waiting:
            try:
                sent = self._target.sendmsg(list(islice(waiting, _GATHER)))
            except BlockingIOError:
                return
            except ConnectionError:
                waiting.clear()
                raise Unavailable("the other end is gone: try again") from None
            while waiting and sent >= waiting[0].nbytes:
                sent -= waiting.popleft().nbytes
            if sent:
                waiting[0] = waiting[0].cast("B")[sent:]


class SharedSender:
    """Writes messages of several threads to a socket that blocks until they are taken."""

    def __init__(self, target: socket.socket) -> None:
        self._sender = Sender(target)
        self._lock = threading.Lock()

    def send(self, frames: Sequence[Buffer]) -> None:
        """The memory of the frames may be used again when this returns."""
        with self._lock:
            self._sender.put(frames)
            self._sender.flush()

"""Memory that a client shares with a daemon on its own host, so that payloads need not be sent.

The daemon makes a file that is memory and gives it to the client that knows its name.
`MemorySharing` maps the file and hands it out in pieces, one for each request until its end. A
payload that does not fit is sent in the message, and so are all before the file is there. Knows no
messages and no clock.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import socket
from collections.abc import Sequence
from io import FileIO
from stat import S_ISREG, S_ISSOCK

import msgspec

from edged import wire
from edged.errors import InvalidArgument, Unavailable

log = logging.getLogger("edged.client")

DEFAULT_BYTES = 64 * 2**20  # size of the memory that a client asks for
LEAST_BYTES = 32 * 2**10  # the smallest payload that is shared: sending a smaller one is cheaper
PATIENCE_S = 2.0  # time for the daemon to hand out the file, which it does at once
GRAIN_BYTES = 64 * 2**10  # pieces are multiples of this, so that a free piece fits many payloads


def shared_bytes(endpoint: str, wanted_bytes: int) -> int:
    """The size of the memory to share with the daemon at `endpoint`. Raises InvalidArgument."""
    if type(wanted_bytes) is not int or wanted_bytes < 0:
        raise InvalidArgument(f"share_bytes is {wanted_bytes!r}: give a whole number from 0 up")
    return wanted_bytes if endpoint.startswith("ipc://") else 0


class Piece(msgspec.Struct, frozen=True, eq=False):
    """The payload of one request, until `release`."""

    region: Region
    frames: tuple[memoryview, ...]
    where: wire.SharedPayload
    grains: range

    def release(self) -> None:
        """Give the piece back. The request has its outcome, so nobody needs what is there."""
        self.region.grains.give_back(self.grains)


class Grains:
    """Which parts of a region are in use. A part that was used last is used next, as it is warm."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._end = 0  # number of grains that were ever handed out
        self._free: dict[int, list[range]] = {}  # free parts, by their length
        self._taken = 0

    def take(self, length: int) -> range | None:
        """Take that many grains side by side; None: there are not that many."""
        free = self._free.get(length)
        if free:
            found = free.pop()
        elif self._end + length <= self._count:
            found = range(self._end, self._end + length)
            self._end = found.stop
        else:
            return None
        self._taken += length
        return found

    def give_back(self, grains: range) -> None:
        self._taken -= len(grains)
        if self._taken:
            self._free.setdefault(len(grains), []).append(grains)
        else:  # all are free: forget the lengths, later pieces may have others
            self._free.clear()
            self._end = 0


class Region:
    """The client's end of one file that is shared memory."""

    def __init__(self, reply: wire.ShareReply) -> None:
        """Map the file that the daemon names.

        Raises Unavailable if it cannot be opened, as in another container, or if it is not an empty
        file of that size: a false daemon must not make the client overwrite another file.
        """
        self.name = reply.region
        self.grains = Grains(reply.bytes // GRAIN_BYTES)
        self._reserved_bytes = 0  # memory that the file system has promised
        try:
            self._file = FileIO(_fetch(reply), "r+")
        except OSError as error:
            raise Unavailable(f"{reply.path}: {error.strerror or error}") from error
        try:
            _check(self._file, reply.bytes)
            # The lock is held until the file is closed or this process ends, which tells the daemon
            # that the memory is in use. It waits for no longer than the daemon's test of the lock.
            fcntl.flock(self._file, fcntl.LOCK_SH)
            self._memory = mmap.mmap(self._file.fileno(), reply.bytes)
        except (OSError, ValueError) as error:
            self._file.close()
            raise Unavailable(f"{reply.path}: {error}") from error

    def put(self, frames: Sequence[wire.Buffer], size: int) -> Piece | None:
        """Copy the frames, `size` bytes together, to the region; None: there is no room."""
        grains = self.grains.take(-(-size // GRAIN_BYTES))
        if grains is None:
            return None
        end = grains.stop * GRAIN_BYTES
        if end > self._reserved_bytes and not self._extend(end):
            self.grains.give_back(grains)
            return None
        view, offset = memoryview(self._memory), grains.start * GRAIN_BYTES
        there, where = [], []
        for frame in frames:
            data = memoryview(frame).cast("B")
            part = view[offset : offset + data.nbytes]
            part[:] = data
            there.append(part)
            where.append((offset, data.nbytes))
            offset += data.nbytes
        return Piece(self, tuple(there), wire.SharedPayload(self.name, tuple(where)), grains)

    def close(self) -> None:
        """Release the lock. Pieces that are in use stay readable."""
        if not self._file.closed:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # the mapping keeps the file open
            self._file.close()

    def _extend(self, end: int) -> bool:
        """Reserve memory up to `end`. False: there is none, and writing would end this process."""
        try:
            new_bytes = end - self._reserved_bytes
            os.posix_fallocate(self._file.fileno(), self._reserved_bytes, new_bytes)
        except OSError as error:
            log.debug("no more memory to share with the daemon: %s", error.strerror)
            return False
        self._reserved_bytes = end
        return True


def _fetch(reply: wire.ShareReply) -> int:
    """The open file. Raises OSError."""
    if not S_ISSOCK(os.stat(reply.path).st_mode):  # an older daemon names the file itself
        return os.open(reply.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.settimeout(PATIENCE_S)
        daemon.connect(reply.path)
        daemon.sendall(reply.region.encode())
        _, descriptors, _, _ = socket.recv_fds(daemon, 1, 1, socket.MSG_CMSG_CLOEXEC)
    if not descriptors:
        raise OSError(errno.ENOENT, "the daemon does not hand it out")
    return descriptors[0]


def _check(file: FileIO, size: int) -> None:
    """Raises ValueError unless this is an empty file of `size` bytes."""
    found = os.fstat(file.fileno())
    if not S_ISREG(found.st_mode) or (found.st_size, found.st_blocks) != (size, 0):
        raise ValueError(f"it is not a file of {size} bytes without content")


class MemorySharing:
    """Owns the region, if there is one, and knows when to ask the daemon for it."""

    def __init__(self, wanted_bytes: int) -> None:
        """`wanted_bytes` is the size to ask for; with 0 nothing is shared."""
        self._wanted_bytes = wanted_bytes
        self.current: Region | None = None  # the region that the connected daemon has
        self._region: Region | None = None  # the last region; it may be an earlier daemon's
        self._is_asked = False

    def on_connected(self) -> None:
        """There is a connection, perhaps to another daemon than before."""
        self.current, self._is_asked = None, False

    def bytes_to_ask(self, server: wire.ServerMetadataReply | None) -> int:
        """The size of the region to ask the daemon for now; 0: it is not to be asked (again)."""
        if self._is_asked or not self._wanted_bytes:
            return 0
        if server is None or wire.SHARED_MEMORY not in server.extensions:
            return 0
        self._is_asked = True
        return min(self._wanted_bytes, server.limits.max_shared_bytes)

    def on_reply(self, reply: wire.ShareReply) -> None:
        """The daemon has made a region, or named the one that it made before."""
        if self._region is None or self._region.name != reply.region:
            self.close()
            try:
                self._region = Region(reply)
            except Unavailable as error:
                log.info("payloads are sent, not shared with the daemon: %s", error)
                return
        self.current = self._region

    def close(self) -> None:
        if self._region is not None:
            self._region.close()
        self.current = self._region = None

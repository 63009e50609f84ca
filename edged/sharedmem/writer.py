"""Memory that a client shares with a daemon on its own host, so that payloads need not be sent.

The daemon makes a file that is memory, and gives it to who knows its name; `Sharing` maps it and
hands it out in pieces, one for each request until its end. What does not fit goes in the message,
as does all before the file is there. No messages and no clock.
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

DEFAULT_BYTES = 64 * 2**20
LEAST_BYTES = 32 * 2**10  # of a payload; to send a smaller one costs less than it saves
PATIENCE_S = 2.0  # with a daemon that is to hand out memory, which it does at once
GRAIN_BYTES = 64 * 2**10  # pieces are multiples of it, so that one can be used for another


def shared_bytes(endpoint: str, wanted_bytes: int) -> int:
    """What can be shared with the daemon at `endpoint`. Raises InvalidArgument."""
    if type(wanted_bytes) is not int or wanted_bytes < 0:
        raise InvalidArgument(f"share_bytes is {wanted_bytes!r}: give a whole number from 0 up")
    return wanted_bytes if endpoint.startswith("ipc://") else 0


class Piece(msgspec.Struct, frozen=True, eq=False):
    """The payload of one request, until `release`."""

    region: Region
    frames: tuple[memoryview, ...]
    where: wire.Shared
    grains: range

    def release(self) -> None:
        """The request has its outcome: whatever the daemon still reads is for nobody."""
        self.region.grains.give_back(self.grains)


class Grains:
    """Which parts of a region are in use. Ones that were used last are used next: they are warm."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._end = 0  # of what was ever handed out
        self._free: dict[int, list[range]] = {}  # by length
        self._taken = 0

    def take(self, length: int) -> range | None:
        """None: there are not so many in a row."""
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
        else:  # begin anew, perhaps with other lengths
            self._free.clear()
            self._end = 0


class Region:
    """The client's end of one such file."""

    def __init__(self, reply: wire.ShareReply) -> None:
        """Raises Unavailable where the file cannot be opened, as in another container, or is not
        one that was made for this: whoever answers cannot have us write over another.
        """
        self.name = reply.region
        self.grains = Grains(reply.bytes // GRAIN_BYTES)
        self._there_bytes = 0  # that the file system has promised
        try:
            self._file = FileIO(_fetch(reply), "r+")
        except OSError as error:
            raise Unavailable(f"{reply.path}: {error.strerror or error}") from error
        try:
            _check(self._file, reply.bytes)
            # Until it is closed or this process ends: so the daemon knows that somebody is here.
            fcntl.flock(self._file, fcntl.LOCK_SH)  # at most while the daemon looks whether it is
            self._memory = mmap.mmap(self._file.fileno(), reply.bytes)
        except (OSError, ValueError) as error:
            self._file.close()
            raise Unavailable(f"{reply.path}: {error}") from error

    def put(self, frames: Sequence[wire.Buffer], size: int) -> Piece | None:
        """Copy the frames, of `size` bytes together, there; None where no room is left."""
        grains = self.grains.take(-(-size // GRAIN_BYTES))
        if grains is None:
            return None
        end = grains.stop * GRAIN_BYTES
        if end > self._there_bytes and not self._extend(end):
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
        return Piece(self, tuple(there), wire.Shared(self.name, tuple(where)), grains)

    def close(self) -> None:
        """Give up the lock. Pieces that are in use stay readable."""
        if not self._file.closed:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # the mapping keeps the file open
            self._file.close()

    def _extend(self, end: int) -> bool:
        """Whether memory up to `end` can be written: else the kernel would end this process."""
        try:
            new_bytes = end - self._there_bytes
            os.posix_fallocate(self._file.fileno(), self._there_bytes, new_bytes)
        except OSError as error:
            log.debug("no more memory to share with the daemon: %s", error.strerror)
            return False
        self._there_bytes = end
        return True


def _fetch(reply: wire.ShareReply) -> int:
    """The open file. Raises OSError."""
    if not S_ISSOCK(os.stat(reply.path).st_mode):  # of an older daemon, which gives a file a name
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
    """Raises ValueError if this is no file for us to fill."""
    found = os.fstat(file.fileno())
    if not S_ISREG(found.st_mode) or (found.st_size, found.st_blocks) != (size, 0):
        raise ValueError(f"it is not a file of {size} bytes without content")


class Sharing:
    """Owns the region, if there is one, and knows when to ask for it."""

    def __init__(self, wanted_bytes: int) -> None:
        """`wanted_bytes`: 0 never shares."""
        self._wanted_bytes = wanted_bytes
        self.current: Region | None = None  # which the daemon at the other end has
        self._region: Region | None = None  # the last one; perhaps of a daemon before
        self._is_asked = False

    def on_connected(self) -> None:
        """Perhaps to another daemon than before."""
        self.current, self._is_asked = None, False

    def bytes_to_ask(self, server: wire.ServerMetadataReply | None) -> int:
        """Of the region that the daemon is to be asked for now, once; 0: none."""
        if self._is_asked or not self._wanted_bytes:
            return 0
        if server is None or wire.SHARED_MEMORY not in server.extensions:
            return 0
        self._is_asked = True
        return min(self._wanted_bytes, server.limits.max_shared_bytes)

    def on_reply(self, reply: wire.ShareReply) -> None:
        """The daemon has made a region, or has the one that is known."""
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

"""Memory that clients on this host share with the daemon: an unnamed file for each of them.

The front makes the file and seals its size, the client maps and fills it, and the worker reads
payloads from it. A client gets the open file through a second socket beside the endpoint
(SCM_RIGHTS), where it sends the name of its region, which cannot be guessed.

A client locks its file. The kernel takes the lock away from a process that has died, so a region
ends when its lock is gone, or, if it never had one, when the client has not been heard for long.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edged import wire
from edged.errors import InvalidArgument, ResourceExhausted, Unavailable, Unsupported
from edged.link import messages as link
from edged.pictures.files import PEEK_BYTES

log = logging.getLogger("edged")

MAX_REGIONS = 256  # each takes a descriptor of the front and one of the worker
MAX_ASKING = 16  # the most connections that have not said yet which region they want
_NAME_BYTES = 32  # the length of a region's name, as text
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(slots=True)
class _Region:
    name: str
    bytes: int
    descriptor: int
    path: str  # the path by which processes of our own account open it
    was_locked: bool = False

    @classmethod
    def make(cls, size: int) -> _Region:
        """A new region. Raises OSError, and leaves nothing behind then."""
        descriptor = os.memfd_create("edged", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except OSError:
            os.close(descriptor)
            raise
        name, path = secrets.token_hex(_NAME_BYTES // 2), f"/proc/{os.getpid()}/fd/{descriptor}"
        return cls(name, size, descriptor, path)

    def opened(self) -> int:
        """A new descriptor that the client can lock: a lock belongs to one opening of the file."""
        return os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def end(self) -> None:
        os.close(self.descriptor)


class SharedRegions:
    """Owns the files, and the socket that hands them out, from `open` to `close`."""

    def __init__(self, mode: int) -> None:
        """`mode`: the permissions of the socket, which are those of the endpoint."""
        self._mode = mode
        self._listener: socket.socket | None = None
        self._path = ""  # the path of the listener
        self._asking: dict[int, socket.socket] = {}  # connections by descriptor, the oldest first
        self._ready: select.epoll | None = None  # watches the listener and these connections
        self.descriptor: int | None = None  # readable when clients want their regions: `hand_out`
        self._regions: dict[bytes, _Region] = {}  # each by the routing id of its client

    def open(self, endpoints: Sequence[str]) -> None:
        """Share from now on, if there is an endpoint for clients of this host."""
        paths = [e.removeprefix("ipc://") for e in endpoints if e.startswith("ipc://")]
        paths = [os.path.abspath(path) for path in paths if not path.startswith("@")]
        if not paths:
            return
        path = f"{paths[0]}.shared"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        before = os.umask(~self._mode & 0o777)
        try:
            with contextlib.suppress(FileNotFoundError):  # a daemon that was killed left it
                os.unlink(path)
            listener.bind(path)
            listener.listen(MAX_ASKING)
        except OSError as error:
            log.warning("no memory is shared with clients: %s: %s", path, error.strerror)
            listener.close()
            return
        finally:
            os.umask(before)
        self._listener, self._path = listener, path
        self._ready = select.epoll()
        self.descriptor = self._ready.fileno()
        self._ready.register(listener, select.EPOLLIN)

    def close(self) -> None:
        for routing_id in list(self._regions):
            self._end(routing_id)
        for descriptor in list(self._asking):
            self._dismiss(descriptor)
        if self._ready is not None:
            self._ready.close()
            self._ready = self.descriptor = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    @property
    def are_open(self) -> bool:
        return self._listener is not None

    @property
    def nbytes(self) -> int:
        """Memory that clients have filled."""
        return sum(512 * os.fstat(r.descriptor).st_blocks for r in self._regions.values())

    def share(self, routing_id: bytes, header: wire.Share) -> wire.ShareReply:
        """The client's region, which is made if it has none.

        Raises Unsupported, ResourceExhausted, or Unavailable when the file cannot be made.
        """
        region = self._regions.get(routing_id)
        if region is None:
            region = self._regions[routing_id] = self._make_region(header.bytes)
        return wire.ShareReply(header.id, region.name, self._path, region.bytes)

    def hand_out(self) -> None:
        """Take new connections, and give those that have sent a name their region."""
        assert self._ready is not None
        assert self._listener is not None
        for descriptor, _ in self._ready.poll(0, MAX_ASKING):
            asking = self._asking.get(descriptor)
            if asking is not None:
                self._answer(asking)
                self._dismiss(descriptor)
                continue
            with contextlib.suppress(OSError):  # it has left again
                asking, _ = self._listener.accept()
                asking.setblocking(False)
                self._asking[asking.fileno()] = asking
                self._ready.register(asking, select.EPOLLIN)
        while len(self._asking) > MAX_ASKING:
            self._dismiss(next(iter(self._asking)))

    def find(self, routing_id: bytes, where: wire.SharedPayload) -> link.PayloadFile:
        """Where the worker reads this payload. Raises Unavailable, or InvalidArgument."""
        region = self._regions.get(routing_id)
        if region is None or region.name != where.region:
            raise Unavailable(
                f"shared memory {where.region!r} is not this client's (any more): send the payload "
                "in the message, or ask for memory again",
                retry_after_s=0.0,
            )
        end = max([offset + size for offset, size in where.frames])
        if end > region.bytes:
            raise InvalidArgument(
                f"the payload ends at byte {end} of shared memory that has {region.bytes}"
            )
        region.was_locked = region.was_locked or _is_locked(region.descriptor)
        return link.PayloadFile(region.path, where.frames)

    def beginnings(self, routing_id: bytes, where: link.PayloadFile) -> list[bytes]:
        """The first bytes of each frame of a payload, which say what picture it is."""
        descriptor = self._regions[routing_id].descriptor
        return [
            os.pread(descriptor, min(size, PEEK_BYTES), offset) for offset, size in where.frames
        ]

    def sweep(self, is_known: Callable[[bytes], bool]) -> Iterator[str]:
        """End the regions of clients that are gone. Yields their paths."""
        for routing_id, region in list(self._regions.items()):
            if _is_locked(region.descriptor):
                region.was_locked = True
            elif region.was_locked or not is_known(routing_id):
                path = region.path
                self._end(routing_id)
                yield path

    def _make_region(self, size: int) -> _Region:
        if self._listener is None:
            raise Unsupported("no memory is shared with clients here: send payloads in messages")
        if len(self._regions) >= MAX_REGIONS:
            raise ResourceExhausted(
                f"{MAX_REGIONS} clients share memory with the daemon, which is the limit: send "
                "payloads in messages"
            )
        try:
            return _Region.make(size)
        except OSError as error:
            log.warning("no memory is shared with a client: %s", error.strerror)
            raise Unavailable(f"memory cannot be shared: {error.strerror}") from error

    def _answer(self, asking: socket.socket) -> None:
        """Give it the region that it names, if there is one."""
        with contextlib.suppress(OSError):  # it has left
            name = asking.recv(_NAME_BYTES).decode("ascii", "replace")
            for region in self._regions.values():
                if region.name == name:
                    descriptor = region.opened()
                    try:
                        socket.send_fds(asking, [b"\0"], [descriptor])
                    finally:
                        os.close(descriptor)

    def _dismiss(self, descriptor: int) -> None:
        self._asking.pop(descriptor).close()  # this removes it from the epoll as well

    def _end(self, routing_id: bytes) -> None:
        self._regions.pop(routing_id).end()


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False

"""Memory that clients on this host share with the daemon: for each of them a file that is memory.

The front makes the file, its client maps and fills it, the worker reads payloads from it. Nobody
in the daemon maps it: a client that cuts it short makes a read fail, not a process. A name that
cannot be guessed, in a directory that cannot be listed, keeps clients out of each other's.

A client locks its file. The kernel takes the lock away from a process that has died, so a region
ends when its lock is gone, or, if it never had one, when the client has not been heard for long.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from edged import wire
from edged.device import link
from edged.errors import InvalidArgument, ResourceExhausted, Unavailable, Unsupported
from edged.pictures.files import PEEK_BYTES

log = logging.getLogger("edged")

MAX_REGIONS = 256  # each takes a descriptor of the front and one of the worker
_TRIES = 100  # to make a directory that others take away
_ANYWHERE, _PREFIX = Path("/dev/shm"), "edged-"


@dataclass(slots=True)
class _Region:
    name: str
    path: str
    bytes: int
    descriptor: int
    was_locked: bool = False

    @classmethod
    def make(cls, directory: Path, size: int, mode: int) -> _Region:
        """A new one. Raises OSError, and leaves nothing then."""
        name = secrets.token_hex(16)
        path = str(directory / name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        region = cls(name, path, size, os.open(path, flags, 0o600))
        try:
            os.fchmod(region.descriptor, mode)
            os.ftruncate(region.descriptor, size)
        except OSError:
            region.end()
            raise
        return region

    def end(self) -> None:
        Path(self.path).unlink(missing_ok=True)
        os.close(self.descriptor)


class Regions:
    """Owns the directory and the files in it. Between `open` and `close` clients can share."""

    def __init__(self, file_mode: int) -> None:
        """`file_mode`: of the files, as of the socket that clients come by."""
        self._file_mode = file_mode
        self._place: Path | None = None  # for the directory, which the first region makes
        self._lock: int | None = None  # on it, while we live
        self._regions: dict[bytes, _Region] = {}  # by the routing id of the client

    def open(self, endpoints: Sequence[str]) -> None:
        """Share from now on, if clients of this host can come and there is a place for it.

        What daemons that were killed have left is removed.
        """
        self._place = _place(endpoints)
        if self._place is not None:
            others = _ANYWHERE.glob(f"{_PREFIX}*") if self._place.parent == _ANYWHERE else ()
            for directory in {self._place, *others}:
                _remove_left(directory)

    def close(self) -> None:
        for routing_id in list(self._regions):
            self._end(routing_id)
        if self._place is not None and self._lock is not None:
            with contextlib.suppress(OSError):  # the next one removes what is left
                self._place.rmdir()
            os.close(self._lock)
        self._place = self._lock = None

    @property
    def are_open(self) -> bool:
        return self._place is not None

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
        return wire.ShareReply(header.id, region.name, region.path, region.bytes)

    def find(self, routing_id: bytes, where: wire.Shared) -> link.Shared:
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
        return link.Shared(region.path, where.frames)

    def beginnings(self, routing_id: bytes, where: link.Shared) -> list[bytes]:
        """Of each frame of a payload that was found: what says which picture it is."""
        descriptor = self._regions[routing_id].descriptor
        return [
            os.pread(descriptor, min(size, PEEK_BYTES), offset) for offset, size in where.frames
        ]

    def sweep(self, is_known: Callable[[bytes], bool]) -> Iterator[str]:
        """End the regions of clients that are gone; the paths of these."""
        for routing_id, region in list(self._regions.items()):
            if _is_locked(region.descriptor):
                region.was_locked = True
            elif region.was_locked or not is_known(routing_id):
                self._end(routing_id)
                yield region.path

    def _make_region(self, size: int) -> _Region:
        if self._place is None:
            raise Unsupported("no memory is shared with clients here: send payloads in messages")
        if len(self._regions) >= MAX_REGIONS:
            raise ResourceExhausted(
                f"{MAX_REGIONS} clients share memory with the daemon, which is the limit: send "
                "payloads in messages"
            )
        try:
            if self._lock is None:
                self._lock = _make(self._place)
            return _Region.make(self._place, size, self._file_mode)
        except OSError as error:
            log.warning("no memory is shared with clients: %s: %s", self._place, error.strerror)
            raise Unavailable(f"memory cannot be shared: {error.strerror}") from error

    def _end(self, routing_id: bytes) -> None:
        self._regions.pop(routing_id).end()


def _place(endpoints: Sequence[str]) -> Path | None:
    """Beside the socket, where those who see the one see the other, or wherever memory is a file.

    None: there is no such place, or all clients come from other hosts.
    """
    sockets = [Path(e.removeprefix("ipc://")) for e in endpoints if e.startswith("ipc://")]
    if not sockets:
        return None
    beside = sockets[0].absolute().with_name(sockets[0].name + ".shared")
    if _is_memory(beside.parent):
        return beside
    if not _is_memory(_ANYWHERE):
        return None
    return _ANYWHERE / (_PREFIX + hashlib.sha256(bytes(beside)).hexdigest()[:16])


def _is_memory(directory: Path) -> bool:
    """Whether files there never reach a disk."""
    place = directory.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    within = (mounts[path] for path in (place, *place.parents) if path in mounts)
    return next(within, "") in ("tmpfs", "ramfs")


def _make(directory: Path) -> int:
    """A lock on our own new directory, where others may look up what they know the name of.

    Between its making and its lock another daemon may take it for what a killed one has left, and
    remove it: then it is made again. Raises OSError.
    """
    for _ in range(_TRIES):
        directory.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)  # whoever removes it has it for a moment only
                if os.path.samestat(os.fstat(lock), directory.stat()):
                    os.fchmod(lock, 0o711)
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
    raise FileNotFoundError(errno.ENOENT, "taken away again and again", str(directory))


def _remove_left(directory: Path) -> None:
    """Remove it, if it was ours and nobody lives who holds its lock."""
    with contextlib.suppress(OSError):  # there is none, or it is not for us to touch
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as long as it is being removed
                if not os.path.samestat(os.fstat(lock), directory.stat()):
                    return  # another has removed it, and who made it anew lives
                for left in directory.iterdir():
                    left.unlink()
                directory.rmdir()
        finally:
            os.close(lock)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False

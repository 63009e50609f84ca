"""Memory that clients on this host share with the daemon: for each of them a file that is memory.

The front makes the file, its client maps and fills it, the worker reads payloads from it. Nobody
in the daemon maps it: a client that cuts it short makes a read fail, not a process. A name that
cannot be guessed, in a directory that cannot be listed, keeps clients out of each other's.

A client locks its file. The kernel takes the lock away from a process that has died, so a region
ends when its lock is gone, or, if it never had one, when the client has not been heard for long.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from edged import wire
from edged.device import link
from edged.errors import InvalidArgument, ResourceExhausted, Unavailable, Unsupported

log = logging.getLogger("edged")

MAX_REGIONS = 256  # each takes a descriptor of the front and one of the worker
_ANYWHERE = Path("/dev/shm")


@dataclass(slots=True)
class _Region:
    name: str
    path: Path
    bytes: int
    descriptor: int
    was_locked: bool = False


class Regions:
    """Owns the directory and the files in it. Between `open` and `close` clients can share."""

    def __init__(self, file_mode: int) -> None:
        """`file_mode`: of the files, as of the socket that clients come by."""
        self._file_mode = file_mode
        self._directory: Path | None = None
        self._regions: dict[bytes, _Region] = {}  # by the routing id of the client

    def open(self, endpoints: Sequence[str]) -> None:
        """Make the directory, beside the first ipc endpoint if that is memory.

        The path of the endpoint must be locked: what another daemon left is removed. Where this
        cannot be done, clients send their payloads over the socket, and the log says why.
        """
        path = _directory(endpoints)
        if path is None:
            return
        try:
            _make(path)
        except OSError as error:
            log.warning("no memory is shared with clients: %s: %s", path, error.strerror)
            return
        self._directory = path

    def close(self) -> None:
        for routing_id in list(self._regions):
            self._end(routing_id)
        if self._directory is not None:
            with contextlib.suppress(OSError):  # `open` removes what is left
                self._directory.rmdir()
            self._directory = None

    @property
    def are_open(self) -> bool:
        return self._directory is not None

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
        return wire.ShareReply(header.id, region.name, str(region.path), region.bytes)

    def find(self, routing_id: bytes, where: wire.Shared) -> link.Shared:
        """Where the worker reads this payload. Raises Unavailable, or InvalidArgument."""
        region = self._regions.get(routing_id)
        if region is None or region.name != where.region:
            raise Unavailable(
                f"shared memory {where.region!r} is not this client's (any more): send the payload "
                "in the message, or ask for memory again",
                retry_after_s=0.0,
            )
        end = max(offset + size for offset, size in where.frames)
        if end > region.bytes:
            raise InvalidArgument(
                f"the payload ends at byte {end} of shared memory that has {region.bytes}"
            )
        region.was_locked = region.was_locked or _is_locked(region.descriptor)
        return link.Shared(str(region.path), where.frames)

    def sweep(self, is_known: Callable[[bytes], bool]) -> Iterator[str]:
        """End the regions of clients that are gone; the paths of these."""
        for routing_id, region in list(self._regions.items()):
            if _is_locked(region.descriptor):
                region.was_locked = True
            elif region.was_locked or not is_known(routing_id):
                self._end(routing_id)
                yield str(region.path)

    def _make_region(self, size: int) -> _Region:
        if self._directory is None:
            raise Unsupported("no memory is shared with clients here: send payloads in messages")
        if len(self._regions) >= MAX_REGIONS:
            raise ResourceExhausted(
                f"{MAX_REGIONS} clients share memory with the daemon, which is the limit: send "
                "payloads in messages"
            )
        name = secrets.token_hex(16)
        path = self._directory / name
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            os.fchmod(descriptor, self._file_mode)
            os.ftruncate(descriptor, size)
        except OSError as error:
            raise Unavailable(f"memory cannot be shared: {path}: {error.strerror}") from error
        return _Region(name, path, size, descriptor)

    def _end(self, routing_id: bytes) -> None:
        region = self._regions.pop(routing_id)
        region.path.unlink(missing_ok=True)
        os.close(region.descriptor)


def _directory(endpoints: Sequence[str]) -> Path | None:
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
    return _ANYWHERE / f"edged-{hashlib.sha256(bytes(beside)).hexdigest()[:16]}"


def _is_memory(directory: Path) -> bool:
    """Whether files there never reach a disk."""
    place = directory.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    within = (mounts[path] for path in (place, *place.parents) if path in mounts)
    return next(within, "") in ("tmpfs", "ramfs")


def _make(directory: Path) -> None:
    """Our own, empty; others may look up names in it that they know. Raises OSError."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise
        for left in directory.iterdir():
            left.unlink()
    directory.chmod(0o711)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False

"""Blocks prepared for this host: a cache of directories, each made whole or not at all.

Knows nothing of what is in them. An entry belongs to one block, one set of facts (library version,
processor, options) and is never changed; whatever makes one must have verified the block first.

Each entry carries the checksums of its files. They find what a failing disk did; they are no
protection against whoever may write to the folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import xxhash

from edged.errors import ConfigError, EdgedError, StoreError, Unavailable
from edged.typeinfo import describe

_LAYOUT = 3  # of an entry; raised when an older one would be misread
_SUMS = "checksums.json"  # XXH3 and size of each other file
_CHUNK_BYTES = 1 << 18
_KEEP_S = 30 * 86_400.0  # an entry that no start has used for so long is removed
_TEMPORARY = ".tmp-"
_FULL_BYTES = 1 << 20  # where less is free, what could not be written failed for that


class DamagedCopy(StoreError):
    """A prepared copy is not what was written, and has been removed. The block may be as it was."""


class _Sum(msgspec.Struct, frozen=True, array_like=True):
    xxh3: str
    size: int


class PreparedBlocks:
    """Entries under `folder` for these facts. Several processes may share the folder."""

    def __init__(self, folder: Path, facts: Mapping[str, object]) -> None:
        known = {**facts, "cpu": processor(), "layout": _LAYOUT}
        body = msgspec.json.encode(known, order="deterministic")
        self._folder = folder
        self._suffix = hashlib.sha256(body).hexdigest()[:16]
        self._holds: dict[str, int] = {}  # descriptors, by block

    def find(self, block: str) -> Path | None:
        """The entry of a block, if there is one."""
        entry = self._entry(block)
        return entry if entry.is_dir() else None

    def hold(self, block: str) -> None:
        """Keep the entry from being swept by any process, and say that it is in use.

        Raises FileNotFoundError when it is not there any more.
        """
        if block not in self._holds:
            self._holds[block] = _lock(self._entry(block), fcntl.LOCK_SH)
        os.utime(self._holds[block])

    def let_go(self, block: str) -> None:
        """It may be swept, when it has not been used for long."""
        lock = self._holds.pop(block, None)
        if lock is not None:
            os.close(lock)

    def make(self, block: str, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a directory, and make that the block's entry in one step.

        Raises ConfigError if the folder cannot be written, Unavailable if there is no room in it.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._folder))
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._fill(temporary, block, write)
        except OSError as error:
            raise self._unwritable(error) from error
        except Exception as error:
            if self._is_full():  # which libraries say in words of their own
                raise self._no_room() from error
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return self._entry(block)

    def _fill(self, temporary: Path, block: str, write: Callable[[Path], None]) -> None:
        write(temporary)
        sums = {path.name: _sum(path) for path in temporary.iterdir()}
        (temporary / _SUMS).write_bytes(msgspec.json.encode(sums))
        for path in [*temporary.iterdir(), temporary]:
            _sync(path)
        try:
            temporary.rename(self._entry(block))
        except OSError:
            if self.find(block) is None:  # else another process was faster: as good
                raise
        _sync(self._folder)

    def _unwritable(self, error: OSError) -> EdgedError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return self._no_room()
        return ConfigError(
            f"prepared blocks cannot be kept in {self._folder} ({error.strerror}): set "
            "device.cache_dir to a directory that the daemon may write"
        )

    def _no_room(self) -> Unavailable:
        return Unavailable(
            f"there is no room for prepared blocks in {self._folder}: make room there, or set "
            "device.cache_dir to a larger place"
        )

    def _is_full(self) -> bool:
        return shutil.disk_usage(self._folder).free < _FULL_BYTES

    def files(self, block: str) -> tuple[Path, ...]:
        """What is there of an entry."""
        return tuple(self._entry(block).glob("*"))

    def verify(self, block: str) -> None:
        """Read all of an entry, through a small buffer: it lies in the page cache then.

        Raises DamagedCopy for what is not as it was written, and removes it.
        """
        for name, written in self._sums(block).items():
            path = self._entry(block) / name
            try:
                found = _sum(path)
            except OSError as error:
                raise self.damaged(block, f"{name}: {error.strerror}") from error
            if found != written:
                raise self.damaged(block, f"{name} is not what was written")

    def damaged(self, block: str, reason: str) -> DamagedCopy:
        """Remove an entry, and the error to raise."""
        self.remove(block)
        return DamagedCopy(
            f"the prepared copy of block {block[:12]} was damaged ({reason}) and has been removed: "
            "it is prepared anew when it is loaded again"
        )

    def remove(self, block: str) -> None:
        self.let_go(block)
        shutil.rmtree(self._entry(block), ignore_errors=True)

    def sweep(self) -> None:
        """Remove entries of any facts that have not been used for long, and litter of a crash.

        What other processes use, or have just removed themselves, is passed over.
        """
        oldest_s = time.time() - _KEEP_S
        with contextlib.suppress(OSError):  # there is no folder, or `make` will say what is wrong
            for entry in list(self._folder.iterdir()):
                _remove_unused(entry, oldest_s)

    def _sums(self, block: str) -> dict[str, _Sum]:
        try:
            return msgspec.json.decode(
                (self._entry(block) / _SUMS).read_bytes(), type=dict[str, _Sum]
            )
        except (OSError, msgspec.DecodeError) as error:
            raise self.damaged(block, f"{_SUMS} cannot be read") from error

    def _entry(self, block: str) -> Path:
        return self._folder / f"{block}-{self._suffix}"


def _lock(entry: Path, how: int) -> int:
    """A descriptor with a lock on a directory that is still the one of that name.

    Raises FileNotFoundError if there is none (any more), BlockingIOError as flock(2) does.
    """
    lock = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, how)
        if not os.path.samestat(os.fstat(lock), entry.stat()):
            raise FileNotFoundError(errno.ENOENT, "replaced meanwhile", str(entry))
    except BaseException:
        os.close(lock)
        raise
    return lock


def _remove_unused(entry: Path, oldest_s: float) -> None:
    """Remove a directory that was not used since then, unless a process holds it."""
    with contextlib.suppress(OSError):  # another process uses it, or has just removed it
        if entry.stat().st_mtime >= oldest_s:
            return
        lock = _lock(entry, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            if os.fstat(lock).st_mtime < oldest_s:
                shutil.rmtree(entry, ignore_errors=True)
        finally:
            os.close(lock)


def processor() -> str:
    """What compiled or re-laid-out weights depend on: the architecture and its extensions."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return " ".join([platform.machine(), *sorted(flags[1].split() if flags else [])])


def _sum(path: Path) -> _Sum:
    sum_, size = xxhash.xxh3_64(), 0
    buffer = bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            sum_.update(view[:count])
            size += count
    return _Sum(sum_.hexdigest(), size)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


describe(_Sum)

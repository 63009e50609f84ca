"""Blocks prepared for this host: a cache of directories, each made whole or not at all.

An entry belongs to one block and one set of facts (library version, processor, options) and is
never changed; its maker must have verified the block first. Knows nothing of what is in an entry.

Each entry carries the checksums of its files. They find the errors of a failing disk, and an entry
that a power failure has cut short; they are no protection against an account that may write to the
folder.

Files of equal content are one file with a name in each entry (a hard link) and one in a folder
where they are looked for. So equal weights take their place once, on the disk and in memory, and a
file goes with the last entry that has it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import filecmp
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

from edged.backends import mapped
from edged.errors import ConfigError, EdgedError, StoreError, Unavailable
from edged.typeinfo import describe

_LAYOUT = 4  # version of the form of an entry; raised when an older entry would be misread
_SUMS = "checksums.json"  # XXH3 and size of each other file
_CHUNK_BYTES = 1 << 18
_KEEP_UNUSED_S = 30 * 86_400.0  # an entry that no start has used for this long is removed
_TEMPORARY = ".tmp-"
_EQUALS = "equals"  # the folder in which files of all entries are looked for by their content
_LEAST_BYTES = 4096  # smaller files are not worth a link
_DISK_FULL_BYTES = 1 << 20  # a write that fails with less free space failed because of it


class DamagedCopy(StoreError):
    """A prepared copy is not what was written, and was removed. The block itself may be sound."""


class _Sum(msgspec.Struct, frozen=True, array_like=True):
    xxh3: str
    size: int


class PreparedBlocks:
    """The entries under `folder` for one set of facts. Several processes may share the folder."""

    def __init__(self, folder: Path, facts: Mapping[str, object]) -> None:
        known = {**facts, "cpu": processor(), "layout": _LAYOUT}
        body = msgspec.json.encode(known, order="deterministic")
        self._folder = folder
        self._suffix = hashlib.sha256(body).hexdigest()[:16]
        self._holds: dict[str, int] = {}  # descriptors of locked entries by block

    def find(self, block: str) -> Path | None:
        """The entry of a block, if there is one."""
        entry = self._entry(block)
        return entry if entry.is_dir() else None

    def hold(self, block: str) -> None:
        """Keep every process from sweeping the entry, and mark it as used now.

        Raises FileNotFoundError when it is not there any more.
        """
        if block not in self._holds:
            self._holds[block] = _lock(self._entry(block), fcntl.LOCK_SH)
        os.utime(self._holds[block])

    def let_go(self, block: str) -> None:
        """Let the entry be swept once it has not been used for long."""
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
            if self._is_full():  # libraries have no common error for a full disk
                raise self._no_room() from error
            raise
        finally:
            if temporary.exists():
                shutil.rmtree(temporary, ignore_errors=True)
                self._sweep_equals()
        return self._entry(block)

    def _fill(self, temporary: Path, block: str, write: Callable[[Path], None]) -> None:
        write(temporary)
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        sums = {path.name: _sum(path, buffer) for path in temporary.iterdir()}
        for name, content in sums.items():
            if content.size >= _LEAST_BYTES:
                self._share(temporary / name, content)
        (temporary / _SUMS).write_bytes(msgspec.json.encode(sums))
        try:
            temporary.rename(self._entry(block))
        except OSError:
            if self.find(block) is None:  # else another process has made the same entry
                raise

    def _share(self, path: Path, content: _Sum) -> None:
        """Make the file one with that of equal content, if there is one."""
        known = self._folder / _EQUALS / f"{content.xxh3}-{content.size}"
        # Without links, as on some file systems, each entry has a copy of its own.
        with contextlib.suppress(OSError):
            known.parent.mkdir(exist_ok=True)
            try:
                os.link(path, known)
            except FileExistsError:
                if filecmp.cmp(path, known, shallow=False):
                    _link(known, path, by=path.with_name(_TEMPORARY))
                else:  # it has been damaged; entries that have it will notice
                    _link(path, known, by=path.with_name(_TEMPORARY))

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
        return shutil.disk_usage(self._folder).free < _DISK_FULL_BYTES

    def files(self, block: str) -> tuple[Path, ...]:
        """The files of an entry; none if there is no entry."""
        return tuple(self._entry(block).glob("*"))

    def verify(self, block: str) -> None:
        """Read all of an entry, which brings it into the page cache, and compare the checksums.

        Removes a damaged entry and raises DamagedCopy.
        """
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        entry, sums = self._entry(block), self._sums(block)
        for name in sums:
            mapped.read_ahead(entry / name)  # one file after the other took three times as long
        for name, written in sums.items():
            path = entry / name
            try:
                found = _sum(path, buffer)
            except OSError as error:
                raise self.damaged(block, f"{name}: {error.strerror}") from error
            if found != written:
                raise self.damaged(block, f"{name} is not what was written")

    def damaged(self, block: str, reason: str) -> DamagedCopy:
        """Remove an entry, and return the error to raise."""
        self.remove(block)
        return DamagedCopy(
            f"the prepared copy of block {block[:12]} was damaged ({reason}) and has been removed: "
            "it is prepared anew when it is loaded again"
        )

    def remove(self, block: str) -> None:
        self.let_go(block)
        shutil.rmtree(self._entry(block), ignore_errors=True)
        self._sweep_equals()

    def _sweep_equals(self) -> None:
        """Remove names of files that no entry has: only then is their place on the disk free."""
        with contextlib.suppress(OSError):
            for file in (self._folder / _EQUALS).iterdir():
                with contextlib.suppress(OSError):  # another process has been faster
                    if file.stat().st_nlink == 1:
                        file.unlink()

    def sweep(self) -> None:
        """Remove entries of any facts that have not been used for long, and the litter of a crash.

        Entries that other processes use, or have just removed themselves, are skipped.
        """
        oldest_s = time.time() - _KEEP_UNUSED_S
        with contextlib.suppress(OSError):  # there is no folder, or `make` will report the error
            for entry in list(self._folder.iterdir()):
                if entry.name != _EQUALS:
                    _remove_unused(entry, oldest_s)
        self._sweep_equals()

    def _sums(self, block: str) -> dict[str, _Sum]:
        try:
            return msgspec.json.decode(
                (self._entry(block) / _SUMS).read_bytes(), type=dict[str, _Sum]
            )
        except (OSError, msgspec.DecodeError) as error:
            raise self.damaged(block, f"{_SUMS} cannot be read") from error

    def _entry(self, block: str) -> Path:
        return self._folder / f"{block}-{self._suffix}"


def _link(source: Path, target: Path, *, by: Path) -> None:
    """Give the file `source` the name `target` as well, in place of what has it."""
    os.link(source, by)
    os.replace(by, target)


def _lock(entry: Path, how: int) -> int:
    """A descriptor with a lock on the directory that has this name now.

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
    """Remove a directory that was last used before `oldest_s`, unless a process holds it."""
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
    """The architecture and its extensions, on which compiled or rearranged weights depend."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return " ".join([platform.machine(), *sorted(flags[1].split() if flags else [])])


def _sum(path: Path, buffer: memoryview) -> _Sum:
    """The checksum of a file, which is read into `buffer` piece by piece."""
    sum_, size = xxhash.xxh3_64(), 0
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while count := os.readv(descriptor, [buffer]):
            sum_.update(buffer[:count])
            size += count
    finally:
        os.close(descriptor)
    return _Sum(sum_.hexdigest(), size)


describe(_Sum)

"""Blocks prepared for this host: a cache of directories, each made whole or not at all.

Knows nothing of what is in them. An entry belongs to one block, one set of facts (library version,
processor, options) and is never changed; whatever makes one must have verified the block first.

Each entry carries the checksums of its files. They find what a failing disk did; they are no
protection against whoever may write to the folder.
"""

from __future__ import annotations

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

from edged.errors import ConfigError, StoreError
from edged.typeinfo import describe

_LAYOUT = 3  # of an entry; raised when an older one would be misread
_SUMS = "checksums.json"  # XXH3 and size of each other file
_CHUNK_BYTES = 1 << 18
_KEEP_S = 30 * 86_400.0  # an entry that no start has used for so long is removed
_TEMPORARY = ".tmp-"


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

    def find(self, block: str) -> Path | None:
        """The entry of a block, if there is one."""
        entry = self._entry(block)
        return entry if entry.is_dir() else None

    def make(self, block: str, write: Callable[[Path], None]) -> Path:
        """Let `write` fill a directory, and make that the block's entry in one step.

        Raises ConfigError if the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._folder))
        except OSError as error:
            raise ConfigError(
                f"prepared blocks cannot be kept in {self._folder} ({error.strerror}): set "
                "device.cache_dir to a directory that the daemon may write"
            ) from error
        try:
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
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _sync(self._folder)
        return self._entry(block)

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

    def touch(self, block: str) -> None:
        """Say that the entry is in use, so that `sweep` keeps it."""
        os.utime(self._entry(block))

    def remove(self, block: str) -> None:
        shutil.rmtree(self._entry(block), ignore_errors=True)

    def sweep(self) -> None:
        """Remove entries of any facts that have not been used for long, and litter of a crash."""
        oldest_s = time.time() - _KEEP_S
        for entry in self._folder.iterdir() if self._folder.is_dir() else ():
            if entry.stat().st_mtime < oldest_s:
                shutil.rmtree(entry, ignore_errors=True)

    def _sums(self, block: str) -> dict[str, _Sum]:
        try:
            return msgspec.json.decode(
                (self._entry(block) / _SUMS).read_bytes(), type=dict[str, _Sum]
            )
        except (OSError, msgspec.DecodeError) as error:
            raise self.damaged(block, f"{_SUMS} cannot be read") from error

    def _entry(self, block: str) -> Path:
        return self._folder / f"{block}-{self._suffix}"


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

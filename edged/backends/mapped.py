"""Files that this process has mapped: their addresses, their pages, and their page cache.

Linux only. Knows nothing of what is in the files.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_MADV_POPULATE_READ = 22  # madvise(2), Linux 5.14

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mapping:
    """Bytes of a file at an address of this process."""

    address: int
    size: int
    offset: int


def mappings(folder: Path) -> dict[str, list[Mapping]]:
    """All mappings in this process of the files of a folder, by the files' names."""
    wanted = f"{folder.resolve()}/"
    found: dict[str, list[Mapping]] = {}
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and fields[5].startswith(wanted):
                begin, _, end = fields[0].partition("-")
                address = int(begin, 16)
                one = Mapping(address, int(end, 16) - address, int(fields[2], 16))
                found.setdefault(fields[5][len(wanted) :], []).append(one)
    return found


def mapped_bytes(found: Iterable[Mapping]) -> int:
    """The bytes of the file that are mapped; a byte that is mapped twice counts once."""
    total = reached = 0
    for one in sorted(found, key=lambda mapping: mapping.offset):
        end = one.offset + one.size
        total += max(0, end - max(one.offset, reached))
        reached = max(reached, end)
    return total


def bring_in(found: Iterable[Mapping]) -> None:
    """Have the kernel map every page now, instead of one by one in the first run.

    A kernel that is too old refuses; then the first run does it.
    """
    for one in found:
        _libc.madvise(ctypes.c_void_p(one.address), ctypes.c_size_t(one.size), _MADV_POPULATE_READ)


def read_ahead(path: Path) -> None:
    """Begin to read a file into the page cache. A missing file is no error here but in its use."""
    _advise(path, os.POSIX_FADV_WILLNEED)


def give_cache_back(path: Path) -> None:
    """Remove the parts of a file that are not mapped from the page cache."""
    _advise(path, os.POSIX_FADV_DONTNEED)


def _advise(path: Path, advice: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(descriptor, 0, 0, advice)
        finally:
            os.close(descriptor)

"""How much freed memory a process keeps: glibc's heap. Linux only. Knows nothing of its use."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)

_libc = ctypes.CDLL(None)


def give_back() -> None:
    """Let the allocator return what has been freed to the system; glibc would keep much of it."""
    _libc.malloc_trim(0)


def keep(freed_bytes: int, piece_bytes: int) -> None:
    """Keep up to `freed_bytes` for what comes next, in pieces of up to `piece_bytes` each.

    By default glibc returns a payload's memory when it is freed, and the kernel has to find and
    clear every page of the next one.
    """
    _libc.mallopt(_M_TRIM_THRESHOLD, freed_bytes)
    _libc.mallopt(_M_MMAP_THRESHOLD, piece_bytes)

"""How much freed memory a process keeps: glibc's heap. Linux only. Knows nothing of its use."""

from __future__ import annotations

import ctypes

from edged.errors import InvalidArgument

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_MOST_BYTES, _MOST_PIECE_BYTES = 2**31 - 1, 2**25  # an int; what glibc takes

_libc = ctypes.CDLL(None)


def give_back() -> None:
    """Let the allocator return what has been freed to the system; glibc would keep much of it."""
    _libc.malloc_trim(0)


def keep(freed_bytes: int, piece_bytes: int) -> None:
    """Keep up to `freed_bytes` for what comes next, in pieces of up to `piece_bytes` each.

    By default glibc returns a payload's memory when it is freed, and the kernel has to find and
    clear every page of the next one. Raises InvalidArgument above 2 GiB, or pieces above 32 MiB.
    """
    if not (0 <= freed_bytes <= _MOST_BYTES and 0 <= piece_bytes <= _MOST_PIECE_BYTES):
        raise InvalidArgument(
            f"to keep {freed_bytes} bytes in pieces of up to {piece_bytes}: glibc takes at most "
            f"{_MOST_BYTES} and {_MOST_PIECE_BYTES}"
        )
    _libc.mallopt(_M_TRIM_THRESHOLD, freed_bytes)
    _libc.mallopt(_M_MMAP_THRESHOLD, piece_bytes)

"""How much freed memory glibc's heap keeps in this process. Linux only."""

from __future__ import annotations

import ctypes

from edged.errors import InvalidArgument

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_MAX_BYTES, _MAX_PIECE_BYTES = 2**31 - 1, 2**25  # the largest int, and glibc's own limit

_libc = ctypes.CDLL(None)


def give_back() -> None:
    """Return freed memory to the system, much of which glibc would keep."""
    _libc.malloc_trim(0)


def keep(freed_bytes: int, piece_bytes: int) -> None:
    """Keep up to `freed_bytes` of freed memory for reuse, in pieces of up to `piece_bytes` each.

    The default of glibc is to return a payload's memory when it is freed, so that the kernel has to
    find and clear every page of the next payload. Raises InvalidArgument above 2 GiB, or if pieces
    are above 32 MiB.
    """
    if not (0 <= freed_bytes <= _MAX_BYTES and 0 <= piece_bytes <= _MAX_PIECE_BYTES):
        raise InvalidArgument(
            f"to keep {freed_bytes} bytes in pieces of up to {piece_bytes}: glibc takes at most "
            f"{_MAX_BYTES} and {_MAX_PIECE_BYTES}"
        )
    _libc.mallopt(_M_TRIM_THRESHOLD, freed_bytes)
    _libc.mallopt(_M_MMAP_THRESHOLD, piece_bytes)

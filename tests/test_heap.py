"""The freed memory that a process keeps, and the memory that it returns."""

from __future__ import annotations

import mmap
import subprocess
import sys

import pytest

from edged import malloc as heap
from edged.errors import InvalidArgument

FREED_MB = 24
SCRIPT = """
import ctypes, resource, sys
from edged import malloc as heap

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def payloads():
    pieces = [libc.malloc(1 << 20) for _ in range(int(sys.argv[1]))]
    for piece in pieces:
        ctypes.memset(piece, 1, 1 << 20)
    for piece in reversed(pieces):
        libc.free(piece)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    payloads()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[2] == "keep":
    heap.keep(32 << 20, 16 << 20)
payloads()
again = faults()
heap.give_back()
print(again, faults())
"""


def faults(how: str) -> tuple[int, int]:
    """The page faults of the second round, and of the third after all memory was returned."""
    command = [sys.executable, "-c", SCRIPT, str(FREED_MB), how]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    second, third = map(int, printed.split())
    return second, third


def test_what_is_kept_needs_no_new_pages_and_can_be_given_back() -> None:
    pages = (FREED_MB << 20) // mmap.PAGESIZE
    by_default, _ = faults("default")
    kept, given_back = faults("keep")
    assert by_default > pages / 2
    assert kept < pages / 20
    assert given_back > pages / 2


@pytest.mark.parametrize(("freed", "piece"), [(2**31, 2**20), (2**30, 2**25 + 1), (-1, 2**20)])
def test_what_glibc_would_not_keep_is_refused(freed: int, piece: int) -> None:
    with pytest.raises(InvalidArgument, match=str(2**31 - 1)):
        heap.keep(freed, piece)

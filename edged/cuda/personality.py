"""What an emulated CUDA device is: a card or a board, its sizes and speeds, and its faults."""

from __future__ import annotations

from dataclasses import dataclass

from edged.cuda.api import DeviceFacts


@dataclass(frozen=True, slots=True)
class Personality:
    """What a device is and takes. `context_bytes`: held before anything is allocated."""

    facts: DeviceFacts
    copy_bytes_per_s: float
    copy_s: float  # what a copy of no bytes takes
    context_bytes: int = 0


_MEMORY_BYTES = 256 << 20  # all of it is filled with poison
_CONTEXT_BYTES = 16 << 20
_CUDA = 12060
DISCRETE = Personality(
    DeviceFacts("emulated card", (9, 0), 132, _MEMORY_BYTES, False, 2, _CUDA, _CUDA),
    copy_bytes_per_s=25e9,
    copy_s=10e-6,
    context_bytes=_CONTEXT_BYTES,
)
UNIFIED = Personality(
    DeviceFacts("emulated board", (8, 7), 16, _MEMORY_BYTES, True, 1, _CUDA, _CUDA),
    copy_bytes_per_s=10e9,
    copy_s=10e-6,
    context_bytes=_CONTEXT_BYTES,
)
PERSONALITIES = {"discrete": DISCRETE, "unified": UNIFIED}


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults on demand; calls and kernels are counted from 1."""

    fail_at: int | None = None  # the call that fails
    number: int = 700  # with this cudaError; after a sticky one all later calls fail, too
    hang_at: int | None = None  # the kernel that never ends

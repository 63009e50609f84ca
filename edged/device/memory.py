"""Memory that is planned once and used again: aligned arrays, and offsets by lifetime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edged.backends.base import NUMPY, Array
from edged.layout import Tensor

ALIGNMENT = 64  # bytes: a cache line, and the widest vector of x86 and Arm


def aligned_bytes(size: int) -> Array:
    """Uninitialised bytes that begin on a cache line; the kernel gives pages as they are used."""
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


def aligned_array(rows: int, tensor: Tensor) -> Array:
    """Uninitialised, of shape (rows, *tensor.shape)."""
    return view(aligned_bytes(rows * tensor.row_bytes), 0, rows, tensor)


def view(memory: Array, offset: int, rows: int, tensor: Tensor) -> Array:
    """`rows` of `tensor` at a byte offset of `memory`."""
    size = rows * tensor.row_bytes
    flat = memory[offset : offset + size].view(NUMPY[tensor.datatype])
    return flat.reshape(rows, *tensor.shape)


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Bytes that are needed from operation `first` to operation `last`, both included."""

    size: int
    first: int
    last: int


def offsets(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """A place for each, so that what lives at once does not overlap, and the bytes in all.

    Largest first, each at the lowest place that is free for its whole life: "greedy by size" of
    Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference (2020).
    """
    placed: list[tuple[int, int, Lifetime]] = []  # begin, end
    found = [0] * len(lifetimes)
    for index in sorted(range(len(lifetimes)), key=lambda i: -lifetimes[i].size):
        one = lifetimes[index]
        at = 0
        for begin, end, other in sorted(placed, key=lambda item: item[:2]):
            alive_at_once = one.first <= other.last and other.first <= one.last
            if alive_at_once and begin < at + one.size and at < end:
                at = math.ceil(end / ALIGNMENT) * ALIGNMENT
        placed.append((at, at + one.size, one))
        found[index] = at
    return found, max((end for _, end, _ in placed), default=0)

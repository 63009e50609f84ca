"""A CUDA device's memory for blocks: an arena, and batches in flight on three streams.

Copies to the device, blocks, and copies of answers go to a stream each, so that a batch is copied
while the one before it runs. Two events order them: blocks wait for the copies of their batch, and
the answers for its blocks. A flight is used again only when its answers are there, so batches never
meet in its memory. One thread gives out work; another one may wait. Knows no blocks and no plans.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edged.backends.memory import Array, Copies, host_view
from edged.budget import DeviceBytes
from edged.cuda.api import Address, Cuda, host_bytes
from edged.cuda.arena import Arena
from edged.paths.layout import Tensor

_UPLOAD_BYTES = 4 << 20  # of each of the two buffers through which weights go
_ALIGNMENT = 64  # bytes, between the answers of one batch

Runs = tuple[tuple[int, int, int], ...]  # first row, place in the target, number of rows


@dataclass(frozen=True, slots=True, eq=False)
class CudaArray:
    """Rows of `tensor` on the device, dense."""

    address: Address
    rows: int
    tensor: Tensor

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice) -> CudaArray:
        """Some of the rows that follow each other."""
        first, end, _ = rows.indices(self.rows)
        return CudaArray(self.address + first * self.tensor.row_bytes, end - first, self.tensor)

    @property
    def nbytes(self) -> int:
        return self.rows * self.tensor.row_bytes


class CudaMemory:
    """Implements `edged.backends.memory.BackendMemory`. Owns the streams and the arena."""

    is_host = False

    def __init__(self, cuda: Cuda, arena_bytes: int, *, depth: int = 2) -> None:
        """`depth`: batches in flight. Raises ResourceExhausted if the arena is too large."""
        self.cuda = cuda
        self.depth = depth
        self.arena = Arena(cuda, arena_bytes)
        self.compute = cuda.make_stream(urgent=True)  # of blocks
        copies_run_beside = cuda.facts().copy_engines > 0
        self.copy_in = cuda.make_stream() if copies_run_beside else self.compute
        self.copy_out = cuda.make_stream() if copies_run_beside else self.compute
        self.flights: list[StreamedFlight] = []
        self._staging: set[Address] = set()
        self._dropped: deque[Address] = deque()  # staging memory that nobody has a view of any more
        self._upload = _Upload(cuda)

    def device_bytes(self) -> DeviceBytes:
        """Of the arena, which is all that blocks and batches can have. On a board it was taken from
        the machine's memory at the start, and is missing from what is available there."""
        arena = self.arena
        return DeviceBytes(arena.used_bytes, arena.size - arena.used_bytes, arena.size)

    def staging(self, size: int) -> Array:
        """Page-locked bytes. When the last view of them is gone, the next call gives them back: the
        collector may run in the middle of anything, where CUDA could not be called."""
        self._give_back()
        if not size:
            return np.empty(0, np.uint8)
        address = self.cuda.allocate_host(size)
        self._staging.add(address)
        found = (ctypes.c_uint8 * size).from_address(address)
        weakref.finalize(found, self._dropped.append, address)
        return np.frombuffer(memoryview(found), np.uint8)

    def allocate(self, size: int) -> Address:
        return self.arena.allocate(size)

    def free(self, memory: Address) -> None:
        self.arena.free(memory)

    def view(self, memory: Address, offset: int, rows: int, tensor: Tensor) -> CudaArray:
        return CudaArray(memory + offset, rows, tensor)

    def indices(self, rows: Sequence[int]) -> Runs:
        """Rows that follow each other are copied together."""
        starts = [0, *(i for i, (a, b) in enumerate(pairwise(rows), 1) if b != a + 1), len(rows)]
        return tuple((rows[at], at, end - at) for at, end in pairwise(starts) if end > at)

    def flight(self) -> StreamedFlight:
        flight = StreamedFlight(self)
        self.flights.append(flight)
        return flight

    def upload(self, target: Address, source: Array) -> None:
        """Copy bytes from any host memory, beside batches. Returns when they are there."""
        self._upload.copy(target, source)

    def close(self) -> None:
        """Free everything. Arrays of staging memory must not be used any more."""
        cuda = self.cuda
        for stream in {self.copy_in, self.compute, self.copy_out}:
            cuda.synchronize(stream)
            cuda.destroy_stream(stream)
        self._upload.close()
        for flight in self.flights:
            flight.close()
        for address in self._staging:
            cuda.free_host(address)
        self.arena.close()

    def _give_back(self) -> None:
        with contextlib.suppress(IndexError):  # another thread may take the last one
            while True:
                address = self._dropped.popleft()
                self._staging.remove(address)
                self.cuda.free_host(address)


class StreamedFlight:
    """Implements `edged.backends.memory.Flight`. Only `wait` blocks."""

    def __init__(self, memory: CudaMemory) -> None:
        self.cuda = cuda = memory.cuda
        self._memory = memory
        self._copied, self._computed, self._left = (cuda.make_event() for _ in range(3))
        self._answers: Address | None = None
        self._answers_bytes = 0
        self._is_leaving = False  # all its work was given out

    def put(self, copies: Copies) -> None:
        cuda, memory = self.cuda, self._memory
        self._is_leaving = False
        for source, target in copies:
            address = source.__array_interface__["data"][0]
            cuda.copy(target.address, address, target.nbytes, memory.copy_in)
        cuda.record(self._copied, memory.copy_in)
        cuda.wait(memory.compute, self._copied)

    def take(self, source: CudaArray, rows: Runs, target: CudaArray) -> None:
        size = source.tensor.row_bytes
        for first, at, count in rows:
            self.cuda.copy(
                target.address + at * size,
                source.address + first * size,
                count * size,
                self._memory.compute,
            )

    def fetch(self, views: Sequence[CudaArray]) -> list[Array]:
        cuda, memory = self.cuda, self._memory
        offsets, size = [], 0
        for view in views:
            offsets.append(size)
            size += -(-view.nbytes // _ALIGNMENT) * _ALIGNMENT
        found = self._room(size)
        cuda.record(self._computed, memory.compute)
        cuda.wait(memory.copy_out, self._computed)
        arrays = []
        for view, offset in zip(views, offsets, strict=True):
            if view.nbytes:
                address = found.ctypes.data + offset
                cuda.copy(address, view.address, view.nbytes, memory.copy_out)
            arrays.append(host_view(found, offset, view.rows, view.tensor))
        cuda.record(self._left, memory.copy_out)
        self._is_leaving = True
        return arrays

    def wait(self) -> None:
        if self._is_leaving:
            self._is_leaving = False  # what fails here has not ended
            self.cuda.wait_for(self._left)
        else:
            memory = self._memory
            for stream in (memory.copy_in, memory.compute, memory.copy_out):
                self.cuda.synchronize(stream)

    def close(self) -> None:
        for event in (self._copied, self._computed, self._left):
            self.cuda.destroy_event(event)
        if self._answers is not None:
            self.cuda.free_host(self._answers)

    def _room(self, size: int) -> Array:
        """Page-locked memory for the answers, taken anew only where more is needed than before."""
        if size > self._answers_bytes or self._answers is None:
            if self._answers is not None:
                self.cuda.free_host(self._answers)
                self._answers, self._answers_bytes = None, 0
            size = max(size, _ALIGNMENT)
            self._answers = self.cuda.allocate_host(size)
            self._answers_bytes = size
        return host_bytes(self._answers, self._answers_bytes)


class _Upload:
    """Two page-locked buffers: one is filled while the other is copied."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._stream = cuda.make_stream()
        self._events = [cuda.make_event() for _ in range(2)]
        self._addresses = [cuda.allocate_host(_UPLOAD_BYTES) for _ in range(2)]
        self._lock = threading.Lock()

    def copy(self, target: Address, source: Array) -> None:
        data = source.reshape(-1).view(np.uint8)
        with self._lock:
            try:
                for number, first in enumerate(range(0, len(data), _UPLOAD_BYTES)):
                    self._begin(number % 2, target + first, data[first : first + _UPLOAD_BYTES])
            finally:  # of a failure, too: who gets the target's memory next must not meet copies
                self._cuda.synchronize(self._stream)

    def _begin(self, number: int, target: Address, piece: Array) -> None:
        cuda, event, address = self._cuda, self._events[number], self._addresses[number]
        cuda.wait_for(event)
        host_bytes(address, len(piece))[:] = piece
        cuda.copy(target, address, len(piece), self._stream)
        cuda.record(event, self._stream)

    def close(self) -> None:
        cuda = self._cuda
        cuda.synchronize(self._stream)
        cuda.destroy_stream(self._stream)
        for event, address in zip(self._events, self._addresses, strict=True):
            cuda.destroy_event(event)
            cuda.free_host(address)

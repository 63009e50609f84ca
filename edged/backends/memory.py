"""The memory in which blocks read and write: the seam's second half. CPU backends use `HostMemory`.

What `view` returns can be sliced along rows and is passed to a backend's `run`; nobody else reads
it. `put`, `take` and `get` move rows. Copies may go on after a call returns; `wait` waits for them.
Knows no blocks and no plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edged.errors import ResourceExhausted
from edged.manifest import DataType
from edged.paths.layout import Tensor

Array: TypeAlias = npt.NDArray[Any]
DeviceArray: TypeAlias = Any  # the backend's own kind of array

ALIGNMENT = 64  # bytes: a cache line, and the widest vector of x86 and Arm

NUMPY: dict[DataType, type[np.generic]] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32,
    "UINT64": np.uint64, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32,
    "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip


class BackendMemory(Protocol):
    """A device's memory, and the host memory that it copies from best."""

    is_host: bool  # whether blocks can read staging memory without a copy

    def staging(self, size: int) -> Array:
        """Uninitialised, aligned bytes of host memory for inputs."""

    def allocate(self, size: int) -> DeviceArray:
        """Uninitialised, aligned bytes of device memory. Raises ResourceExhausted."""

    def view(self, memory: DeviceArray, offset: int, rows: int, tensor: Tensor) -> DeviceArray:
        """A part of what `allocate` returned, as `rows` rows of `tensor`. `offset` is aligned."""

    def indices(self, rows: Sequence[int]) -> DeviceArray:
        """Row numbers in the form that `take` needs."""

    def put(self, source: Array, target: DeviceArray) -> None:
        """Copy rows of staging memory to the device."""

    def take(self, source: DeviceArray, rows: DeviceArray, target: DeviceArray) -> None:
        """Copy `rows` of one view to another one."""

    def get(self, source: DeviceArray) -> Array:
        """The rows in host memory, valid until the view is written again."""

    def wait(self) -> None:
        """Return when all work that was begun is done.

        Raises EdgedError if some of it failed, DeviceLost if the device no longer works.
        """


class HostMemory:
    """Plain memory: views are numpy arrays, and copies are done when a call returns."""

    is_host = True

    def staging(self, size: int) -> Array:
        return self.allocate(size)

    def allocate(self, size: int) -> Array:
        try:
            raw = np.empty(size + ALIGNMENT, np.uint8)  # pages exist only once they are used
        except MemoryError as error:
            raise ResourceExhausted(
                f"no memory for {size} bytes: serve fewer models, or lower "
                "scheduler.max_batch_rows or scheduler.staging_rows"
            ) from error
        start = -raw.ctypes.data % ALIGNMENT
        return raw[start : start + size]

    def view(self, memory: Array, offset: int, rows: int, tensor: Tensor) -> Array:
        return host_view(memory, offset, rows, tensor)

    def indices(self, rows: Sequence[int]) -> Array:
        return np.array(rows, np.intp)

    def put(self, source: Array, target: Array) -> None:
        target[:] = source

    def take(self, source: Array, rows: Array, target: Array) -> None:
        np.take(source, rows, axis=0, out=target, mode="clip")  # the other modes copy twice

    def get(self, source: Array) -> Array:
        return source

    def wait(self) -> None:
        """Return at once: no work goes on."""


def host_view(memory: Array, offset: int, rows: int, tensor: Tensor) -> Array:
    """A part of host memory, as `rows` rows of `tensor`."""
    flat = memory[offset : offset + rows * tensor.row_bytes].view(NUMPY[tensor.datatype])
    return flat.reshape(rows, *tensor.shape)

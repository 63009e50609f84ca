"""The memory in which blocks read and write: the seam's second half. CPU backends use `HostMemory`.

What `view` returns can be sliced along rows and is passed to a backend's `run`; nobody else reads
it. A `Flight` moves rows for one batch. What it begins may go on after a call returns, and `wait`
waits for it: so a device can have the rows of the next batch while it runs one. Knows no blocks and
no plans.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from edged.errors import ResourceExhausted
from edged.manifest import DataType
from edged.paths.layout import Tensor

Array: TypeAlias = npt.NDArray[Any]
DeviceArray: TypeAlias = Any  # the backend's own kind of array
DeviceMemory: TypeAlias = Any  # the backend's own kind of bytes
Copies: TypeAlias = "Iterable[tuple[Array, DeviceArray]]"  # from staging memory to the device

ALIGNMENT = 64  # bytes: a cache line, and the widest vector of x86 and Arm

NUMPY: dict[DataType, type[np.generic]] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32,
    "UINT64": np.uint64, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32,
    "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip


class Flight(Protocol):
    """One batch on its way through the device, and when that has ended the next one.

    For each batch `put` comes first, then `take` and a backend's `run`, then `fetch`, all from one
    thread; then `wait`, from any. All raise EdgedError, and DeviceLost if the device does not work
    any more.
    """

    def put(self, copies: Copies) -> None:
        """Copy rows of staging memory to the device: all that the batch needs, maybe nothing."""

    def take(self, source: DeviceArray, rows: DeviceArray, target: DeviceArray) -> None:
        """Copy `rows` of one view to another one."""

    def fetch(self, views: Sequence[DeviceArray]) -> list[Array]:
        """The rows of each view in host memory, to be read after `wait` and before the next `put`.

        Nothing writes the views any more in this batch.
        """

    def wait(self) -> None:
        """Return when all work that was begun for the batch is done.

        Raises EdgedError if some of it failed. A second call waits for what goes on in spite of it.
        """


class BackendMemory(Protocol):
    """A device's memory, and the host memory that it copies from best."""

    is_host: bool  # whether blocks can read staging memory without a copy
    depth: int  # flights that the device has use for at once: 1 where a batch runs in its thread

    def staging(self, size: int) -> Array:
        """Uninitialised, aligned bytes of host memory for inputs."""

    def allocate(self, size: int) -> DeviceMemory:
        """Uninitialised, aligned bytes of device memory. Raises ResourceExhausted."""

    def free(self, memory: DeviceMemory) -> None:
        """Give back what `allocate` returned; no flight uses it, and no view of it."""

    def view(self, memory: DeviceMemory, offset: int, rows: int, tensor: Tensor) -> DeviceArray:
        """A part of what `allocate` returned, as `rows` rows of `tensor`. `offset` is aligned."""

    def indices(self, rows: Sequence[int]) -> DeviceArray:
        """Row numbers in the form that `Flight.take` needs."""

    def flight(self) -> Flight:
        """A new one."""


class HostMemory:
    """Plain memory: views are numpy arrays, and all is done when a call returns.

    So it is the flight of every batch as well, and answers lie where blocks have written them.
    """

    is_host = True
    depth = 1

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

    def free(self, memory: Array) -> None:
        """The last view of it does that."""

    def view(self, memory: Array, offset: int, rows: int, tensor: Tensor) -> Array:
        return host_view(memory, offset, rows, tensor)

    def indices(self, rows: Sequence[int]) -> Array:
        return np.array(rows, np.intp)

    def flight(self) -> HostMemory:
        return self

    def put(self, copies: Copies) -> None:
        for source, target in copies:
            target[:] = source

    def take(self, source: Array, rows: Array, target: Array) -> None:
        np.take(source, rows, axis=0, out=target, mode="clip")  # the other modes copy twice

    def fetch(self, views: Sequence[Array]) -> list[Array]:
        return list(views)

    def wait(self) -> None:
        """Return at once: no work goes on."""


def host_view(memory: Array, offset: int, rows: int, tensor: Tensor) -> Array:
    """A part of host memory, as `rows` rows of `tensor`."""
    flat = memory[offset : offset + rows * tensor.row_bytes].view(NUMPY[tensor.datatype])
    return flat.reshape(rows, *tensor.shape)

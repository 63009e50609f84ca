"""The CUDA calls that serving needs, as one Protocol, and the errors that they raise.

`edged.cuda.runtime` makes these calls, `edged.cuda.emulated` plays them without a GPU.
All that lives on the device is named by an integer, as in C: addresses and handles can be passed to
TensorRT, ONNX Runtime or torch as they are. Streams, events and graphs may be used by any thread,
but one stream is given work by one thread at a time. Knows no blocks, no batches and no arrays.

Whatever a device refuses is an error of one of three kinds, which `failure` tells apart:

    ResourceExhausted    its memory is full; the device goes on
    DeviceLost           nothing works any more in this process; only a new process may use it
    CudaError            this call was refused; the device goes on
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import NewType, Protocol, TypeAlias

import numpy as np

from edged.backends.base import DeviceLost
from edged.backends.memory import Array
from edged.errors import EdgedError, ResourceExhausted

Address: TypeAlias = int  # in bytes; of device memory, or of page-locked memory of the host
Stream = NewType("Stream", int)  # a cudaStream_t
Event = NewType("Event", int)  # a cudaEvent_t
Graph = NewType("Graph", int)  # a cudaGraphExec_t

SUCCESS = 0
OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
NOT_READY = 600  # cudaErrorNotReady: of a query, and no error
# Errors after which each later call fails as well (CUDA Runtime API, type cudaError): of hardware,
# illegal address, time-out, context destroyed, assertion, .., launch failure, unknown.
STICKY = frozenset({214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999})


class CudaError(EdgedError):
    """A call was refused. `number` is the cudaError; the device goes on."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


def failure(call: str, number: int, text: str) -> EdgedError:
    """The exception for a cudaError other than SUCCESS. `text`: what CUDA calls it."""
    line = f"{call}: {text} (CUDA error {number})"
    if number == OUT_OF_MEMORY:
        return ResourceExhausted(f"no device memory: {line}")
    if number in STICKY:
        return DeviceLost(f"the device is lost: {line}")
    return CudaError(line, number)


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a device says of itself."""

    name: str
    compute_capability: tuple[int, int]
    processors: int  # streaming multiprocessors
    total_bytes: int
    unified: bool  # whether it shares the host's memory, as on a Jetson
    copy_engines: int  # copies that run beside blocks; 0: none does
    runtime: int  # version of the CUDA runtime, 12060 for 12.6
    driver: int  # newest version of CUDA that the driver supports


class Cuda(Protocol):
    """One device. Each call raises ResourceExhausted, DeviceLost or CudaError.

    A failure of asynchronous work may be reported by any later call.
    """

    emulated: bool  # whether `edged.cuda.emulated` plays it

    # --- the device -----------------------------------------------------------------------------

    def use(self) -> None:
        """Have other libraries use this device on the calling thread; these calls do so anyway."""

    def facts(self) -> DeviceFacts:
        """What the device says of itself."""

    def free_bytes(self) -> int:
        """Device memory that nobody holds. On unified memory less than the system can free."""

    # --- memory ---------------------------------------------------------------------------------

    def allocate(self, size: int) -> Address:
        """`size` > 0 uninitialised bytes of device memory, aligned to 512."""

    def free(self, address: Address) -> None:
        """Give back what `allocate` returned, which no work uses. May wait until all is idle."""

    def allocate_host(self, size: int) -> Address:
        """`size` > 0 uninitialised bytes of page-locked host memory; see `host_bytes`."""

    def free_host(self, address: Address) -> None:
        """Give back what `allocate_host` returned, likewise. Arrays of it are not used any more."""

    def copy(self, target: Address, source: Address, size: int, stream: Stream) -> None:
        """Begin to copy bytes between device and page-locked memory, in any direction."""

    # --- streams and events ---------------------------------------------------------------------

    def make_stream(self, *, urgent: bool = False) -> Stream:
        """A stream that does not wait for the default stream; an `urgent` one goes first."""

    def destroy_stream(self, stream: Stream) -> None:
        """Its work still ends."""

    def synchronize(self, stream: Stream) -> None:
        """Block until all work of a stream has ended."""

    def make_event(self, *, timed: bool = False) -> Event:
        """An event that has not been recorded; only a `timed` one has a time."""

    def destroy_event(self, event: Event) -> None:
        """Work that waits for it still does."""

    def record(self, event: Event, stream: Stream) -> None:
        """The event happens when the work that the stream has now is done."""

    def wait(self, stream: Stream, event: Event) -> None:
        """What the stream is given from now on begins after the event's last record happened.

        Of an event that was never recorded nothing is waited for.
        """

    def is_done(self, event: Event) -> bool:
        """Whether the event's last record happened. Does not block."""

    def wait_for(self, event: Event) -> None:
        """Block until the event's last record happened. The thread sleeps meanwhile."""

    def elapsed_s(self, first: Event, last: Event) -> float:
        """Seconds between two timed events that happened."""

    # --- graphs ---------------------------------------------------------------------------------

    def begin_capture(self, stream: Stream) -> None:
        """What this thread gives the stream from now on is recorded and not done."""

    def end_capture(self, stream: Stream) -> Graph:
        """What was recorded, ready to be launched with the addresses that it was recorded with."""

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Begin to do all that a graph recorded."""

    def destroy_graph(self, graph: Graph) -> None:
        """One that runs still ends."""


def host_bytes(address: Address, size: int) -> Array:
    """Page-locked memory as an array of bytes, which does not keep the memory alive."""
    return np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8)

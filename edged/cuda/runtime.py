"""The calls on a real device: CUDA's runtime library by ctypes. Not verified on hardware.

It needs no package, only the library that comes with JetPack, a driver's toolkit or a wheel. Each
call has the C types of the CUDA Runtime API reference, so that a wrong argument is refused before
the library sees it. Knows no blocks and no arrays.
"""

from __future__ import annotations

import ctypes
import threading
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any, Protocol

from edged.cuda.api import (
    NOT_READY,
    SUCCESS,
    Address,
    DeviceFacts,
    Event,
    Graph,
    Stream,
    failure,
)
from edged.errors import EdgedError, Unsupported

LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")

# What each call takes (CUDA Runtime API); all of them return a cudaError_t. Handles are pointers.
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cudaSetDevice": (c_int,),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaGetDeviceProperties": (c_void_p, c_int),
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMalloc": (POINTER(c_void_p), c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaDeviceGetStreamPriorityRange": (POINTER(c_int), POINTER(c_int)),
    "cudaStreamCreateWithPriority": (POINTER(c_void_p), c_uint, c_int),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamWaitEvent": (c_void_p, c_void_p, c_uint),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cudaEventCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaEventDestroy": (c_void_p,),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventQuery": (c_void_p,),
    "cudaEventSynchronize": (c_void_p,),
    "cudaEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cudaGraphInstantiate": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGraphLaunch": (c_void_p, c_void_p),
}

# cudaDeviceAttr
_PROCESSORS, _COPY_ENGINES, _INTEGRATED, _MAJOR, _MINOR = 16, 40, 18, 75, 76
_COPY_DEFAULT = 4  # cudaMemcpyDefault: the addresses say in which direction
_NON_BLOCKING = 1  # cudaStreamNonBlocking
_BLOCKING_SYNC, _DISABLE_TIMING = 1, 2  # cudaEventBlockingSync, cudaEventDisableTiming
_THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal
_NAME_BYTES = 256  # cudaDeviceProp begins with the name
_PROPERTIES_BYTES = 8192  # more than cudaDeviceProp has in any version
_MINIMUM = 12000  # cudaGraphInstantiate has had its three arguments since CUDA 12


class Library(Protocol):
    """What ctypes loads, or a stand-in whose functions ctypes calls alike."""

    def __getattr__(self, name: str) -> Any:
        """A function of C. Raises AttributeError if there is none."""


class CudaRuntime:
    """Implements `edged.cuda.api.Cuda` for one device."""

    emulated = False

    def __init__(self, device_id: int = 0, library: Library | None = None) -> None:
        """`library`: None loads CUDA's. Raises Unsupported if it is missing or too old, or if it
        finds no device.
        """
        self._device_id = device_id
        self._chosen = threading.local()  # of each thread whether it uses the device
        self._library = _open() if library is None else library
        self._functions = {name: self._function(name, of) for name, of in PROTOTYPES.items()}
        self._text = self._function("cudaGetErrorString", (c_int,), c_char_p)
        try:
            version = self._number("cudaRuntimeGetVersion")
        except EdgedError as error:
            raise Unsupported(
                f"CUDA device {device_id} cannot be used: {error}; install NVIDIA's driver, and "
                "have this account in the groups of the device's files (video, render)"
            ) from error
        if version < _MINIMUM:
            raise Unsupported(
                f"CUDA {version // 1000}.{version % 1000 // 10} is too old: install CUDA 12 or "
                "newer, on a Jetson JetPack 6.1 or newer"
            )

    # --- the device -----------------------------------------------------------------------------

    def use(self) -> None:
        if not getattr(self._chosen, "is_ours", False):
            self._check("cudaSetDevice", self._functions["cudaSetDevice"](self._device_id))
            self._chosen.is_ours = True

    def facts(self) -> DeviceFacts:
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._do("cudaGetDeviceProperties", properties, self._device_id)
        name = properties.raw[:_NAME_BYTES].split(b"\0", 1)[0]
        return DeviceFacts(
            name=name.decode(errors="replace"),
            compute_capability=(self._attribute(_MAJOR), self._attribute(_MINOR)),
            processors=self._attribute(_PROCESSORS),
            total_bytes=self._memory()[1],
            unified=bool(self._attribute(_INTEGRATED)),
            copy_engines=self._attribute(_COPY_ENGINES),
            runtime=self._number("cudaRuntimeGetVersion"),
            driver=self._number("cudaDriverGetVersion"),
        )

    def free_bytes(self) -> int:
        return self._memory()[0]

    # --- memory ---------------------------------------------------------------------------------

    def allocate(self, size: int) -> Address:
        return self._pointer("cudaMalloc", size)

    def free(self, address: Address) -> None:
        self._do("cudaFree", address)

    def allocate_host(self, size: int) -> Address:
        return self._pointer("cudaHostAlloc", size, 0)

    def free_host(self, address: Address) -> None:
        self._do("cudaFreeHost", address)

    def copy(self, target: Address, source: Address, size: int, stream: Stream) -> None:
        self._do("cudaMemcpyAsync", target, source, size, _COPY_DEFAULT, stream)

    # --- streams and events ---------------------------------------------------------------------

    def make_stream(self, *, urgent: bool = False) -> Stream:
        least, greatest = c_int(), c_int()
        self._do("cudaDeviceGetStreamPriorityRange", byref(least), byref(greatest))
        priority = greatest.value if urgent else least.value
        return Stream(self._pointer("cudaStreamCreateWithPriority", _NON_BLOCKING, priority))

    def destroy_stream(self, stream: Stream) -> None:
        self._do("cudaStreamDestroy", stream)

    def synchronize(self, stream: Stream) -> None:
        self._do("cudaStreamSynchronize", stream)

    def make_event(self, *, timed: bool = False) -> Event:
        flags = _BLOCKING_SYNC if timed else _BLOCKING_SYNC | _DISABLE_TIMING
        return Event(self._pointer("cudaEventCreateWithFlags", flags))

    def destroy_event(self, event: Event) -> None:
        self._do("cudaEventDestroy", event)

    def record(self, event: Event, stream: Stream) -> None:
        self._do("cudaEventRecord", event, stream)

    def wait(self, stream: Stream, event: Event) -> None:
        self._do("cudaStreamWaitEvent", stream, event, 0)

    def is_done(self, event: Event) -> bool:
        number = self._functions["cudaEventQuery"](event)
        if number == NOT_READY:
            return False
        self._check("cudaEventQuery", number)
        return True

    def wait_for(self, event: Event) -> None:
        self._do("cudaEventSynchronize", event)

    def elapsed_s(self, first: Event, last: Event) -> float:
        found_ms = c_float()
        self._do("cudaEventElapsedTime", byref(found_ms), first, last)
        return found_ms.value / 1e3

    # --- graphs ---------------------------------------------------------------------------------

    def begin_capture(self, stream: Stream) -> None:
        self._do("cudaStreamBeginCapture", stream, _THREAD_LOCAL)

    def end_capture(self, stream: Stream) -> Graph:
        graph, executable = c_void_p(), c_void_p()
        self._do("cudaStreamEndCapture", stream, byref(graph))
        try:
            self._do("cudaGraphInstantiate", byref(executable), graph, 0)
        finally:
            self._do("cudaGraphDestroy", graph)
        return Graph(executable.value or 0)

    def launch(self, graph: Graph, stream: Stream) -> None:
        self._do("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Graph) -> None:
        self._do("cudaGraphExecDestroy", graph)

    # --- how ------------------------------------------------------------------------------------

    def _function(self, name: str, takes: tuple[Any, ...], returns: Any = c_int) -> Any:
        try:
            function = getattr(self._library, name)
        except AttributeError as error:
            raise Unsupported(f"CUDA's runtime library has no {name}: install CUDA 12") from error
        function.argtypes = takes
        function.restype = returns
        return function

    def _do(self, name: str, *args: Any) -> None:
        self.use()
        self._check(name, self._functions[name](*args))

    def _check(self, name: str, number: int) -> None:
        if number != SUCCESS:
            text = self._text(number) or b"unknown"
            raise failure(name, number, text.decode(errors="replace"))

    def _pointer(self, name: str, *args: Any) -> int:
        """What a call stores where its first argument points."""
        found = c_void_p()
        self._do(name, byref(found), *args)
        return found.value or 0

    def _number(self, name: str) -> int:
        found = c_int()
        self._do(name, byref(found))
        return found.value

    def _attribute(self, number: int) -> int:
        found = c_int()
        self._do("cudaDeviceGetAttribute", byref(found), number, self._device_id)
        return found.value

    def _memory(self) -> tuple[int, int]:
        free, total = c_size_t(), c_size_t()
        self._do("cudaMemGetInfo", byref(free), byref(total))
        return free.value, total.value


def _open() -> ctypes.CDLL:
    """Raises Unsupported."""
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise Unsupported(
        f"none of {', '.join(LIBRARIES)} can be loaded: install CUDA's runtime, on a Jetson with "
        "JetPack, or choose another backend"
    )

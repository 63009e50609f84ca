"""A stand-in for libcudart: C functions as CUDA's headers declare them, on the emulated device.

`edged.cuda.runtime` calls it through ctypes as it calls the real library, so each argument goes
through a C type twice, as the caller declares it and as the header does.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from ctypes import (
    CFUNCTYPE,
    POINTER,
    c_float,
    c_int,
    c_size_t,
    c_uint,
    c_uint64,
    c_void_p,
)
from typing import Any

from edged.cuda.emulated import EmulatedCuda
from edged.errors import EdgedError

# cuda_runtime_api.h of CUDA 12.6. cudaStream_t, cudaEvent_t, cudaGraph_t and cudaGraphExec_t are
# pointers; enumerations are int.
HEADER: dict[str, tuple[Any, ...]] = {
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
    "cudaGraphInstantiate": (POINTER(c_void_p), c_void_p, c_uint64),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaGraphLaunch": (c_void_p, c_void_p),
}
TEXT = ctypes.create_string_buffer(b"as the library calls it")
ATTRIBUTES = {16: "processors", 18: "unified", 40: "copy_engines"}


class FakeLibrary:
    """What `ctypes.CDLL` gives for libcudart."""

    def __init__(self, cuda: EmulatedCuda, *, version: int = 12060) -> None:
        self.cuda = cuda
        self.version = version
        self.priorities: list[int] = []
        self.event_flags: list[int] = []
        self.capture_modes: list[int] = []
        self._functions: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        """As ctypes does, make each function once."""
        if name not in self._functions:
            if name == "cudaGetErrorString":
                made = CFUNCTYPE(c_void_p, c_int)(lambda number: ctypes.addressof(TEXT))
            elif name in HEADER:
                made = CFUNCTYPE(c_int, *HEADER[name])(self._coded(getattr(self, f"_{name}")))
            else:
                raise AttributeError(name)
            self._functions[name] = made
        return self._functions[name]

    def _coded(self, function: Callable[..., int | None]) -> Callable[..., int]:
        """With a cudaError for an exception, which no caller in C could see."""

        def call(*args: Any) -> int:
            try:
                return function(*args) or 0
            except EdgedError as error:
                found = re.search(r"CUDA error (\d+)", str(error))
                return int(found.group(1)) if found else 1

        return call

    def _cudaSetDevice(self, device: int) -> None:
        assert device == 0
        self.cuda.use()

    def _cudaDeviceGetAttribute(self, out: Any, number: int, device: int) -> None:
        facts = self.cuda.facts()
        if number in (75, 76):
            out[0] = facts.compute_capability[number - 75]
        else:
            out[0] = int(getattr(facts, ATTRIBUTES[number]))

    def _cudaGetDeviceProperties(self, out: int, device: int) -> None:
        ctypes.memmove(
            out, self.cuda.facts().name.encode() + b"\0", 1 + len(self.cuda.facts().name)
        )

    def _cudaRuntimeGetVersion(self, out: Any) -> None:
        out[0] = self.version

    def _cudaDriverGetVersion(self, out: Any) -> None:
        out[0] = self.cuda.facts().driver

    def _cudaMemGetInfo(self, free: Any, total: Any) -> None:
        free[0], total[0] = self.cuda.free_bytes(), self.cuda.facts().total_bytes

    def _cudaMalloc(self, out: Any, size: int) -> None:
        out[0] = self.cuda.allocate(size)

    def _cudaFree(self, address: int) -> None:
        self.cuda.free(address)

    def _cudaHostAlloc(self, out: Any, size: int, flags: int) -> None:
        assert flags == 0
        out[0] = self.cuda.allocate_host(size)

    def _cudaFreeHost(self, address: int) -> None:
        self.cuda.free_host(address)

    def _cudaMemcpyAsync(self, to: int, start: int, size: int, kind: int, stream: int) -> None:
        assert kind == 4  # cudaMemcpyDefault
        self.cuda.copy(to, start, size, stream)  # type: ignore[arg-type]

    def _cudaDeviceGetStreamPriorityRange(self, least: Any, greatest: Any) -> None:
        least[0], greatest[0] = 0, -5

    def _cudaStreamCreateWithPriority(self, out: Any, flags: int, priority: int) -> None:
        assert flags == 1  # cudaStreamNonBlocking
        self.priorities.append(priority)
        out[0] = self.cuda.make_stream()

    def _cudaStreamDestroy(self, stream: Any) -> None:
        self.cuda.destroy_stream(stream)

    def _cudaStreamSynchronize(self, stream: Any) -> None:
        self.cuda.synchronize(stream)

    def _cudaStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> None:
        assert flags == 0
        self.cuda.wait(stream, event)

    def _cudaStreamBeginCapture(self, stream: Any, mode: int) -> None:
        self.capture_modes.append(mode)
        self.cuda.begin_capture(stream)

    def _cudaStreamEndCapture(self, stream: Any, out: Any) -> None:
        out[0] = self.cuda.end_capture(stream)

    def _cudaEventCreateWithFlags(self, out: Any, flags: int) -> None:
        self.event_flags.append(flags)
        out[0] = self.cuda.make_event()

    def _cudaEventDestroy(self, event: Any) -> None:
        self.cuda.destroy_event(event)

    def _cudaEventRecord(self, event: Any, stream: Any) -> None:
        self.cuda.record(event, stream)

    def _cudaEventQuery(self, event: Any) -> int:
        return 0 if self.cuda.is_done(event) else 600

    def _cudaEventSynchronize(self, event: Any) -> None:
        self.cuda.wait_for(event)

    def _cudaEventElapsedTime(self, out: Any, first: Any, last: Any) -> None:
        out[0] = 1e3 * self.cuda.elapsed_s(first, last)

    def _cudaGraphInstantiate(self, out: Any, graph: int, flags: int) -> None:
        assert flags == 0
        out[0] = graph

    def _cudaGraphDestroy(self, graph: int) -> None:
        """The emulated device has one object for a graph and its executable."""

    def _cudaGraphExecDestroy(self, graph: Any) -> None:
        self.cuda.destroy_graph(graph)

    def _cudaGraphLaunch(self, graph: Any, stream: Any) -> None:
        self.cuda.launch(graph, stream)

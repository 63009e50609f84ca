"""What torch needs of a device besides its tensors: a stream, page-locked memory, waiting.

`Processor` has all of it for nothing. `CudaDevice` has one stream for batches and one for blocks
that are loaded beside them; threads that wait sleep. What needs CUDA is not verified on hardware;
`python -m tools.gpucheck` does that. Knows no blocks, and leaves torch's errors as they are.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from edged.backends.memory import Array, HostMemory
from edged.backends.torch_replay import NotRecordable, Record, Work
from edged.budget import DeviceBytes

_PIECE_BYTES = 8 << 20  # of a copy by way of page-locked memory: long enough to cover its launch


class TorchDevice(Protocol):
    """One device. Any call may raise torch's RuntimeError; a failure of earlier work, too."""

    torch: torch.device
    name: str  # for people

    def on_stream(self) -> AbstractContextManager[object]:
        """What is begun inside is done in its order, after all that was begun so before."""

    def staging(self, size: int) -> Array:
        """Uninitialised bytes of host memory, from which copies are quickest."""

    def mark(self) -> Callable[[], None]:
        """What blocks until all work that has been begun by now is done."""

    def check(self) -> None:
        """Block until all work is done. Raises RuntimeError for a device that is lost."""

    def fetch(self, source: Tensor) -> Tensor:
        """Begin to copy to host memory; the copy is complete after a mark."""

    def upload(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Copies on the device that are complete on return, beside the work of other threads."""

    def give_back(self) -> None:
        """Return memory that no tensor uses to the system."""

    def memory(self) -> DeviceBytes | None:
        """The device's memory; None where it is counted as the process's own."""

    def recorder(self) -> Record:
        """A way to record work on the stream, for recordings that are replayed in turn."""


class Processor:
    """The CPU: all work is done when a call returns."""

    torch = torch.device("cpu")

    def __init__(self, threads: int) -> None:
        self.name = f"cpu, {threads} threads"

    def on_stream(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext()

    def staging(self, size: int) -> Array:
        return HostMemory().staging(size)

    def mark(self) -> Callable[[], None]:
        return self.check

    def check(self) -> None:
        pass

    def fetch(self, source: Tensor) -> Tensor:
        return source

    def upload(self, values: Sequence[Tensor]) -> list[Tensor]:
        return list(values)

    def give_back(self) -> None:
        pass

    def memory(self) -> DeviceBytes | None:
        return None

    def recorder(self) -> Record:
        raise NotRecordable("a CPU's work is not recorded: nothing has to be launched")


class CudaDevice:
    """An NVIDIA GPU, discrete or part of a Jetson."""

    def __init__(self, number: int) -> None:
        self.torch = torch.device("cuda", number)
        self.name = f"{self.torch}, {torch.cuda.get_device_name(self.torch)}"
        self._batches = torch.cuda.Stream(self.torch)
        self._loads = torch.cuda.Stream(self.torch)
        self._is_unified = bool(torch.cuda.get_device_properties(self.torch).is_integrated)
        self._pieces: list[tuple[Tensor, torch.cuda.Event]] = []  # made for the first upload

    def on_stream(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._batches)

    def staging(self, size: int) -> Array:
        """Pages of our own, locked: torch's own would be rounded up to a power of two, and would be
        in no PSS. They are private, so that the budget counts them as ours."""
        pages = mmap.mmap(-1, max(1, size), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory = np.frombuffer(pages, np.uint8)
        address = memory.ctypes.data
        with torch.cuda.device(self.torch):
            locked = int(torch.cuda.cudart().cudaHostRegister(address, memory.nbytes, 0)) == 0
        if not locked:  # the kernel or the board cannot
            return self._allocated(size)
        unlock = torch.cuda.cudart().cudaHostUnregister
        weakref.finalize(memory, unlock, address).atexit = False
        return memory[:size]

    def _allocated(self, size: int) -> Array:
        """Page-locked memory as the driver allocates it."""
        with contextlib.suppress(RuntimeError), self.on_stream():
            torch.zeros(1, device=self.torch)  # takes the error of the call that was refused
        found: Array = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        return found

    def mark(self) -> Callable[[], None]:
        event = torch.cuda.Event(blocking=True)  # whoever waits sleeps: decoders need the processor
        event.record(self._batches)
        done: Callable[[], None] = event.synchronize
        return done

    def check(self) -> None:
        self._batches.synchronize()

    def fetch(self, source: Tensor) -> Tensor:
        target = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
        return target.copy_(source, non_blocking=True)

    def upload(self, values: Sequence[Tensor]) -> list[Tensor]:
        """From whatever pages they lie in, by way of two pieces of page-locked memory in turn."""
        with torch.cuda.device(self.torch), torch.cuda.stream(self._loads):
            if not self._pieces:
                for _ in range(2):
                    piece = torch.from_numpy(self.staging(_PIECE_BYTES))
                    self._pieces.append((piece, torch.cuda.Event(blocking=True)))
            found = [self._uploaded(value) for value in values]
            done = torch.cuda.Event(blocking=True)
            done.record(self._loads)
        done.synchronize()
        return found

    def _uploaded(self, value: Tensor) -> Tensor:
        if not value.is_contiguous(memory_format=torch.channels_last):
            value = value.contiguous()
        target = torch.empty_like(value, device=self.torch)
        source_bytes, target_bytes = _bytes(value), _bytes(target)
        for start in range(0, value.nbytes, _PIECE_BYTES):
            piece, is_free = self._pieces[0]
            self._pieces.reverse()
            is_free.synchronize()
            part = source_bytes[start : start + _PIECE_BYTES]
            locked = piece[: part.nbytes]
            locked.copy_(part)
            target_bytes[start : start + part.nbytes].copy_(locked, non_blocking=True)
            is_free.record(self._loads)
        return target

    def give_back(self) -> None:
        torch.cuda.empty_cache()

    def memory(self) -> DeviceBytes:
        """What torch holds, recordings and what it keeps for later included. The CUDA context is
        not: it is part of what others have taken, here and in what is free."""
        held_bytes = torch.cuda.memory_reserved(self.torch)
        if self._is_unified:  # what is free there is the machine's to tell
            return DeviceBytes(held_bytes)
        free_bytes, total_bytes = torch.cuda.mem_get_info(self.torch)
        return DeviceBytes(held_bytes, free_bytes, total_bytes)

    def recorder(self) -> Record:
        """CUDA graphs. One memory pool serves all of them: nothing in it outlives a replay.

        `torch.cuda.graph` would stop the device and give all cached memory back first. Calls of
        other threads, as of one that loads, are no part of a recording and do not end it.
        """
        pool = torch.cuda.graph_pool_handle()

        def record(work: Work) -> Work:
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                _capture(graph, work)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                self.check()
                raise NotRecordable(" ".join(str(error).split())[:300]) from error
            return graph.replay

        return record


def _capture(graph: torch.cuda.CUDAGraph, work: Work) -> None:
    try:
        work()
    except BaseException:
        with contextlib.suppress(RuntimeError):
            graph.capture_end()  # or the stream could do nothing else any more
        raise
    graph.capture_end()


def _bytes(value: Tensor) -> Tensor:
    """The bytes of a dense tensor as they lie in memory, whatever the order of its axes."""
    return value.as_strided((value.numel(),), (1,)).view(torch.uint8)

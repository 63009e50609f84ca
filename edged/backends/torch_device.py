"""What torch needs of a device besides its tensors: streams, page-locked memory, recordings.

`Processor` has all of it for nothing. What needs CUDA is not verified on hardware; `python -m
tools.gpucheck` does that. Knows no blocks, and leaves torch's errors as they are.
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

from edged.backends import mapped
from edged.backends.memory import Array, Copies, HostMemory
from edged.backends.torch_replay import NotRecordable, Record, Work
from edged.budget import DeviceBytes

# A part of a GPU's own memory stays free: the code of a kernel is loaded when it is used first.
_RESERVE_BYTES = 256 << 20
_PIECE_BYTES = 8 << 20  # of a copy by way of page-locked memory: long enough to cover its launch


class TorchFlight(Protocol):
    """The copies of `edged.backends.memory.Flight`, with torch's errors. Blocks run in between."""

    def put(self, copies: Copies) -> None:
        """Begin to copy from staging memory; what is on the stream next waits for it."""

    def fetch(self, views: Sequence[Tensor]) -> list[Tensor]:
        """Begin to copy to host memory what blocks on the stream will have written."""

    def leaving(self) -> Callable[[], None] | None:
        """What blocks until the copies of `fetch` are there; None if they were not begun, and when
        it was asked for them before."""


class TorchDevice(Protocol):
    """One device. Any call may raise torch's RuntimeError; a failure of earlier work, too."""

    torch: torch.device
    name: str  # what people call it
    depth: int  # batches that it has use for at once
    sizes: tuple[int, ...]  # rows that runs are padded to, so that few of them are recorded

    def on_stream(self) -> AbstractContextManager[object]:
        """What is begun inside is done in its order, after all that was begun so before.

        For all but what a flight does, and uploads.
        """

    def staging(self, size: int) -> Array:
        """Uninitialised bytes of host memory, from which copies are quickest."""

    def flight(self) -> TorchFlight:
        """The way of a batch to the device and back."""

    def check(self) -> None:
        """Block until all work is done. Raises RuntimeError for a device that is lost."""

    def settle(self) -> None:
        """Block until blocks use no memory but that of tensors which are still there."""

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
    depth = 1
    sizes: tuple[int, ...] = ()

    def __init__(self, threads: int) -> None:
        self.name = f"cpu, {threads} threads"

    def on_stream(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext()

    def staging(self, size: int) -> Array:
        return HostMemory().staging(size)

    def flight(self) -> Processor:
        return self

    def put(self, copies: Copies) -> None:
        for source, target in copies:
            target.copy_(torch.from_numpy(source))

    def fetch(self, views: Sequence[Tensor]) -> list[Tensor]:
        return list(views)

    def leaving(self) -> Callable[[], None] | None:
        return None

    def check(self) -> None:
        pass

    def settle(self) -> None:
        pass

    def upload(self, values: Sequence[Tensor]) -> list[Tensor]:
        """They stay where they are. What is mapped is brought in now, not by the first run."""
        mapped.bring_in(map(_pages, values))
        return list(values)

    def give_back(self) -> None:
        pass

    def memory(self) -> DeviceBytes | None:
        return None

    def recorder(self) -> Record:
        raise NotRecordable("a CPU's work is not recorded: nothing has to be launched")


class CudaDevice:
    """An NVIDIA GPU, discrete or part of a Jetson."""

    depth = 2
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16)

    def __init__(self, number: int) -> None:
        self.torch = torch.device("cuda", number)
        self.name = f"{self.torch}, {torch.cuda.get_device_name(self.torch)}"
        self.blocks = torch.cuda.Stream(self.torch, priority=-1)
        self.copies_in = torch.cuda.Stream(self.torch)
        self.copies_out = torch.cuda.Stream(self.torch)
        self._loads = torch.cuda.Stream(self.torch)
        self._is_unified = bool(torch.cuda.get_device_properties(self.torch).is_integrated)
        self._pieces: list[tuple[Tensor, torch.cuda.Event]] = []  # made for the first upload

    def on_stream(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self.blocks)

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
        found: Array = _locked(torch.empty(size, dtype=torch.uint8)).numpy()
        return found

    def flight(self) -> TorchCudaFlight:
        return TorchCudaFlight(self)

    def check(self) -> None:
        for stream in (self.copies_in, self.blocks, self.copies_out):
            stream.synchronize()

    def settle(self) -> None:
        self.blocks.synchronize()

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
        return DeviceBytes(
            held_bytes, max(0, free_bytes - _RESERVE_BYTES), total_bytes - _RESERVE_BYTES
        )

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


class TorchCudaFlight:
    """Copies to the device, blocks, and copies of answers have a stream each, so that a batch is
    copied while the one before it runs. Who waits sleeps: decoders need the processor."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._copied, self._computed = torch.cuda.Event(), torch.cuda.Event()
        self._left = torch.cuda.Event(blocking=True)
        self._is_leaving = False  # all its work was given out

    def put(self, copies: Copies) -> None:
        device, self._is_leaving = self._device, False
        with torch.cuda.stream(device.copies_in):
            for source, target in copies:
                target.copy_(torch.from_numpy(source), non_blocking=True)
        self._copied.record(device.copies_in)
        device.blocks.wait_event(self._copied)

    def fetch(self, views: Sequence[Tensor]) -> list[Tensor]:
        device, found = self._device, []
        self._computed.record(device.blocks)
        device.copies_out.wait_event(self._computed)
        with torch.cuda.stream(device.copies_out):
            for view in views:
                found.append(_locked(view).copy_(view, non_blocking=True))
        self._left.record(device.copies_out)
        self._is_leaving = True
        return found

    def leaving(self) -> Callable[[], None] | None:
        if not self._is_leaving:
            return None
        self._is_leaving = False  # what fails then has not ended
        wait: Callable[[], None] = self._left.synchronize
        return wait


def _locked(like: Tensor) -> Tensor:
    """Page-locked host memory for a copy; torch keeps what was used before."""
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)


def _capture(graph: torch.cuda.CUDAGraph, work: Work) -> None:
    try:
        work()
    except BaseException:
        with contextlib.suppress(RuntimeError):
            graph.capture_end()  # or the stream could do nothing else any more
        raise
    graph.capture_end()


def _pages(value: Tensor) -> mapped.Mapping:
    """The pages in which a dense tensor lies."""
    before = value.data_ptr() % mmap.PAGESIZE
    return mapped.Mapping(value.data_ptr() - before, value.nbytes + before, 0)


def _bytes(value: Tensor) -> Tensor:
    """The bytes of a dense tensor as they lie in memory, whatever the order of its axes."""
    return value.as_strided((value.numel(),), (1,)).view(torch.uint8)

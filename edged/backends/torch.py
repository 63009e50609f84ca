"""PyTorch: blocks as torch modules, on the CPU or with CUDA. A CPU daemon does not need it.

On a CUDA device inputs come from page-locked staging memory, rows stay on the device between
blocks, and repeated runs are replayed as CUDA graphs. Copies, blocks and loads have streams of
their own. What needs CUDA is not verified on hardware; `python -m tools.gpucheck` does that.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edged.backends import torch_graph
from edged.backends.base import BlockUse, DeviceLost, LoadedBlock, Progress, go_on
from edged.backends.block_files import files_of
from edged.backends.memory import NUMPY, Array, Copies
from edged.backends.signature import check
from edged.backends.torch_device import CudaDevice, Processor, TorchDevice, TorchFlight
from edged.backends.torch_replay import Recorder, Replays
from edged.budget import DeviceBytes
from edged.cuda.api import STICKY
from edged.errors import EdgedError, ResourceExhausted, StoreError, Unsupported
from edged.manifest import DataType
from edged.options import TorchOptions
from edged.paths.layout import Tensor as Row

log = logging.getLogger("edged.device")

_TYPES: dict[DataType, torch.dtype] = {
    name: getattr(torch, kind.__name__.rstrip("_")) for name, kind in NUMPY.items()
}


class TorchMemory:
    """Memory of one device, as torch tensors. Any thread may use it."""

    is_host = False

    def __init__(self, device: TorchDevice) -> None:
        self._device = device
        self.depth = device.depth
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def use(self, what: str) -> Iterator[None]:
        """A context for all that begins work on the device; one thread at a time is in it.

        Nobody else may use the stream while a graph is recorded: its work would be part of it.
        """
        with self.failures(what), self._lock, self._device.on_stream():
            yield

    @contextlib.contextmanager
    def failures(self, what: str) -> Iterator[None]:
        """A context that every call of torch needs: its errors become ours."""
        try:
            yield
        except (RuntimeError, IndexError) as error:
            raise self._failure(what, error) from error

    def staging(self, size: int) -> Array:
        with self.use("staging memory"):
            return self._device.staging(size)

    def allocate(self, size: int) -> Tensor:
        with self.use("device memory"):
            found = torch.empty(size, dtype=torch.uint8, device=self._device.torch)
            # The allocator gives out bytes that kernels on its own stream may still use. Copies run
            # on another stream, which does not wait for those.
            self._device.settle()
            return found

    def free(self, memory: Tensor) -> None:
        """The last view of it does that."""

    def view(self, memory: Tensor, offset: int, rows: int, tensor: Row) -> Tensor:
        flat = memory[offset : offset + rows * tensor.row_bytes].view(_TYPES[tensor.datatype])
        return flat.view(rows, *tensor.shape)

    def indices(self, rows: Sequence[int]) -> Tensor:
        with self.use("the order of rows"):
            return torch.tensor(rows, device=self._device.torch)

    def flight(self) -> GuardedFlight:
        with self.failures("a flight"):
            return GuardedFlight(self, self._device.flight())

    def rest(self) -> None:
        """Return when all work is done, of whatever batch."""
        with self.use("a batch"):
            self._device.check()

    def _failure(self, what: str, error: Exception) -> EdgedError:
        """The error to raise, when all that was begun before has ended: rows are given back then.

        DeviceLost if CUDA no longer works in this process: some errors make it refuse all later
        calls until the process ends (CUDA programming guide, "error checking").
        """
        device = self._device.torch
        text = f"{what} failed: {' '.join(str(error).split())[:300]}"
        if getattr(error, "error_code", None) in STICKY:
            return DeviceLost(text)
        try:
            with self._lock:
                self._device.check()
        except RuntimeError:
            return DeviceLost(text)
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            return ResourceExhausted(
                f"{device} is out of memory: serve fewer models, or lower scheduler.max_batch_rows"
            )
        return EdgedError(text)


class GuardedFlight:
    """Implements `edged.backends.memory.Flight`."""

    def __init__(self, memory: TorchMemory, flight: TorchFlight) -> None:
        self._memory = memory
        self._flight = flight

    def put(self, copies: Copies) -> None:
        with self._memory.use("a copy to the device"):
            self._flight.put(copies)

    def take(self, source: Tensor, rows: Tensor, target: Tensor) -> None:
        with self._memory.use("a copy of rows"):
            torch.index_select(source, 0, rows, out=target)

    def fetch(self, views: Sequence[Tensor]) -> list[Array]:
        with self._memory.use("a copy to the host"):
            return [found.numpy() for found in self._flight.fetch(views)]

    def wait(self) -> None:
        """Others use the device meanwhile: the next batch is given to it, and blocks are loaded."""
        wait = self._flight.leaving()
        if wait is None:
            self._memory.rest()
            return
        with self._memory.failures("a batch"):
            wait()


class Torch:
    name = "torch"
    emulated = False
    lanes = 1
    prepare_row_s = 0.0
    prepares = False
    builds = False
    sizes: tuple[int, ...] = ()

    def __init__(
        self, device: TorchDevice, *, half: bool = False, recorder: Recorder | None = None
    ) -> None:
        """`half`: products and convolutions in float16. `recorder` records repeated runs."""
        self._device = device
        self._half = half
        self.device = device.name
        self.sizes = device.sizes
        self.versions = {"torch": str(torch.__version__)}
        self.memory = TorchMemory(device)
        self._blocks: dict[str, torch_graph.TorchGraph] = {}
        self._weights: torch_graph.Weights = weakref.WeakValueDictionary()
        self._replays = None if recorder is None else Replays(device.torch, recorder)

    def is_prepared(self, block: str) -> bool:
        return False

    def prepare(self, block: str, path: Path, progress: Progress = go_on) -> None:
        pass

    def files(self, block: str, path: Path) -> Sequence[Path]:
        return files_of(path)

    def load(self, block: str, path: Path, uses: Sequence[BlockUse]) -> LoadedBlock:
        graph = torch_graph.load(path, self._device.torch, half=self._half)
        max_rows = check(block, *graph.args, uses)
        with self.memory.failures(f"loading block {block[:12]}"):
            shared = graph.upload(self._device.upload, self._weights)
        self._blocks[block] = graph
        used = sum(buffer.nbytes for buffer in graph.buffers())
        device = self.device_bytes()
        is_apart = device is not None and not device.is_unified
        # The parsed file is in the host's memory until the module is made.
        extra = 0 if is_apart else path.stat().st_size
        return LoadedBlock(used, max_rows, extra, shared)

    def unload(self, block: str) -> None:
        with self.memory.use(f"unloading block {block[:12]}"):
            if self._replays is not None:
                self._replays.forget(block)
            del self._blocks[block]
            self._device.give_back()

    def run(
        self,
        block: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        wide: bool = True,
    ) -> None:
        with self.memory.use(f"block {block[:12]}"), torch.inference_mode():
            compute = functools.partial(self._compute, block)
            if self._replays is None:
                compute(inputs, outputs)
                return
            try:
                recorded = self._replays.recorded
                self._replays.run(block, compute, inputs, outputs)
                if self._replays.recorded > recorded:  # activations have another place from now on
                    self._device.give_back()
                return
            except torch.OutOfMemoryError:
                log.warning("%s is out of memory: recordings are given up", self._device.torch)
            # Here the error is gone, and with it the activations that it has kept.
            self._replays.clear()
            self._device.give_back()
            compute(inputs, outputs)

    def device_bytes(self) -> DeviceBytes | None:
        with self.memory.failures("reading the device's memory"):
            return self._device.memory()

    def close(self) -> None:
        if self._replays is not None:
            self._replays.clear()
        self._blocks.clear()

    def _compute(self, block: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        for found, target in zip(self._blocks[block](*inputs), outputs, strict=True):
            if found.shape != target.shape:  # copy_ would broadcast a wrong shape silently
                raise StoreError(
                    f"block {block[:12]} wrote {list(found.shape)} where its models expect "
                    f"{list(target.shape)}: export them again"
                )
            target.copy_(found)


def create(options: TorchOptions, *, threads: int, cache_dir: Path) -> Torch:
    torch.set_num_threads(threads)
    half = options.precision == "fp16"
    if options.device == "cpu":
        return Torch(Processor(threads), half=half)
    if not torch.cuda.is_available():
        raise Unsupported(
            "torch finds no CUDA device: install its CUDA build and NVIDIA's driver, or set "
            "device = cpu"
        )
    tf32 = options.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    device = CudaDevice(options.device_id)
    return Torch(device, half=half, recorder=device.recorder if options.graphs else None)

"""PyTorch: blocks as torch modules, on the CPU or with CUDA. A CPU daemon does not need it.

All work of a CUDA device goes to one stream of our own: inputs come from pinned staging memory,
rows stay on the device between blocks, and repeated runs are replayed as CUDA graphs. What needs
CUDA is not verified on hardware; `python -m tools.gpucheck` does that.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from edged.backends import torch_graph
from edged.backends.base import BlockUse, DeviceLost, LoadedBlock
from edged.backends.block_files import bytes_of, files_of
from edged.backends.memory import NUMPY, Array, HostMemory
from edged.backends.signature import check
from edged.backends.torch_replay import Record, Recorder, Replays, Work
from edged.errors import EdgedError, ResourceExhausted, StoreError, Unsupported
from edged.manifest import DataType
from edged.options import TorchOptions
from edged.paths.layout import Tensor as Row

_TYPES: dict[DataType, torch.dtype] = {
    name: getattr(torch, kind.__name__.rstrip("_")) for name, kind in NUMPY.items()
}


class TorchMemory:
    """Memory of one device, as torch tensors. CUDA copies go to `stream`."""

    is_host = False

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None) -> None:
        self._device = device
        self._stream = stream
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        """A context that every use of this memory needs; one thread at a time is in it.

        Nobody else may allocate, wait or use the stream while a graph is recorded: the recording
        would fail, or include work that is not part of it.
        """
        stream = (
            contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        )
        with self._lock, stream:
            yield

    def staging(self, size: int) -> Array:
        if self._stream is None:
            return HostMemory().staging(size)
        with self.on_stream():
            pinned: Array = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        return pinned

    def allocate(self, size: int) -> Tensor:
        try:
            with self.on_stream():
                return torch.empty(size, dtype=torch.uint8, device=self._device)
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(self._device) from error

    def view(self, memory: Tensor, offset: int, rows: int, tensor: Row) -> Tensor:
        flat = memory[offset : offset + rows * tensor.row_bytes].view(_TYPES[tensor.datatype])
        return flat.view(rows, *tensor.shape)

    def indices(self, rows: Sequence[int]) -> Tensor:
        with self.on_stream():
            return torch.tensor(rows, device=self._device)

    def put(self, source: Array, target: Tensor) -> None:
        with self.on_stream():
            target.copy_(torch.from_numpy(source), non_blocking=True)

    def take(self, source: Tensor, rows: Tensor, target: Tensor) -> None:
        with self.on_stream():
            torch.index_select(source, 0, rows, out=target)

    def get(self, source: Tensor) -> Array:
        with self.on_stream():
            found: Array = source.cpu().numpy()
        return found

    def wait(self) -> None:
        if self._stream is not None:
            try:
                with self.on_stream():
                    self._stream.synchronize()
            except RuntimeError as error:
                raise self.failure(str(self._device), error) from error

    def failure(self, what: str, error: Exception) -> EdgedError:
        """The error to raise; DeviceLost if CUDA no longer works in this process.

        Some errors make CUDA refuse all later calls until the process ends (CUDA programming guide,
        "error checking").
        """
        text = f"{what} failed: {_line(error)}"
        if self._stream is not None:
            try:
                with self.on_stream():
                    torch.cuda.synchronize(self._device)
            except RuntimeError:
                return DeviceLost(text)
        return EdgedError(text)


class Torch:
    name = "torch"
    emulated = False
    lanes = 1
    prepare_row_s = 0.0
    prepares = False

    def __init__(
        self, options: TorchOptions, *, threads: int, recorder: Recorder | None = None
    ) -> None:
        """`recorder` records repeated runs; the default records CUDA graphs if there is CUDA."""
        stream: torch.cuda.Stream | None = None
        self._device = torch.device(options.device)
        self.device = f"cpu, {threads} threads"
        if options.device == "cuda":
            if not torch.cuda.is_available():
                raise Unsupported(
                    "torch finds no CUDA device: install its CUDA build and NVIDIA's driver, or "
                    "set device = cpu"
                )
            self._device = torch.device("cuda", options.device_id)
            self.device = f"{self._device}, {torch.cuda.get_device_name(self._device)}"
            stream = torch.cuda.Stream(self._device)
            torch.backends.cuda.matmul.allow_tf32 = options.tf32
            torch.backends.cudnn.allow_tf32 = options.tf32
        torch.set_num_threads(threads)
        self.versions = {"torch": str(torch.__version__)}
        self.memory = TorchMemory(self._device, stream)
        self._blocks: dict[str, torch_graph.TorchGraph] = {}
        if recorder is None and stream is not None and options.graphs:
            recorder = functools.partial(_cuda_graphs, stream)
        self._replays = None if recorder is None else Replays(self._device, recorder)

    def is_prepared(self, block: str) -> bool:
        return False

    def prepare(self, block: str, path: Path) -> None:
        pass

    def files(self, block: str, path: Path) -> Sequence[Path]:
        return files_of(path)

    def load(self, block: str, path: Path, uses: Sequence[BlockUse]) -> LoadedBlock:
        graph = torch_graph.load(path, self._device)
        max_rows = check(block, *graph.args, uses)
        try:
            with self.memory.on_stream():
                graph.upload()
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(self._device) from error
        self._blocks[block] = graph
        used = sum(buffer.nbytes for buffer in graph.buffers())
        parsed_bytes = bytes_of(path)  # the parsed file is in memory beside the module
        return LoadedBlock(used, max_rows, extra_bytes=parsed_bytes)

    def unload(self, block: str) -> None:
        with self.memory.on_stream():
            if self._replays is not None:
                self._replays.forget(block)
            del self._blocks[block]

    def run(
        self,
        block: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        wide: bool = True,
    ) -> None:
        try:
            with self.memory.on_stream(), torch.inference_mode():
                compute = functools.partial(self._compute, block)
                if self._replays is None:
                    compute(inputs, outputs)
                else:
                    self._replays.run(block, compute, inputs, outputs)
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(self._device) from error
        except (RuntimeError, IndexError) as error:
            raise self.memory.failure(f"block {block[:12]}", error) from error

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


def _cuda_graphs(stream: torch.cuda.Stream) -> Record:
    """A recorder of work on `stream`.

    One memory pool serves all graphs: nothing in it outlives a replay, and graphs run in turn.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            work()
        return graph.replay

    return record


def create(options: TorchOptions, *, threads: int, cache_dir: Path) -> Torch:
    return Torch(options, threads=threads)


def _out_of_memory(device: torch.device) -> ResourceExhausted:
    return ResourceExhausted(
        f"{device} is out of memory: serve fewer models, or lower scheduler.max_batch_rows"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

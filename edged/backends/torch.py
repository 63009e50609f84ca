"""PyTorch: blocks as torch modules, on the CPU or with CUDA. Never needed for serving on a CPU.

All work of a CUDA device goes to one stream of our own: inputs come from pinned staging memory,
rows stay on the device between blocks, and runs that come again are replayed as graphs, which
spares the launch of each kernel. Whatever needs CUDA is not verified on hardware.
"""

from __future__ import annotations

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import torch
from torch import Tensor

from edged.backends import torch_graph
from edged.backends.base import Loaded, Use
from edged.backends.memory import NUMPY, Array, HostMemory
from edged.backends.signature import check
from edged.errors import EdgedError, ResourceExhausted, StoreError, Unsupported
from edged.manifest import DataType
from edged.paths.layout import Tensor as Row

log = logging.getLogger("edged.device")

_MAX_RUNS = 256  # that are kept, as graphs or to be counted
_CAPTURE_AT = 3  # the time that a run comes at which it is worth a graph
_TYPES: dict[DataType, torch.dtype] = {
    name: getattr(torch, kind.__name__.rstrip("_")) for name, kind in NUMPY.items()
}

_RunKey: TypeAlias = "tuple[str, int, tuple[int, ...]]"  # block, rows, addresses


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device: Literal["cpu", "cuda"] = "cpu"
    device_id: int = 0  # of the GPU
    tf32: bool = False  # let the GPU round the factors of float32 products to 10 bits
    graphs: bool = True  # on a GPU, replay runs that come again


class TorchMemory:
    """Memory of one device, as torch tensors. With CUDA, copies go to `stream`."""

    is_host = False

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None) -> None:
        self._device = device
        self._stream = stream

    def on_stream(self) -> contextlib.AbstractContextManager[object]:
        """Where everything that touches this memory has to happen."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def staging(self, size: int) -> Array:
        if self._stream is None:
            return HostMemory().staging(size)
        pinned: Array = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
        return pinned

    def allocate(self, size: int) -> Tensor:
        try:
            return torch.empty(size, dtype=torch.uint8, device=self._device)
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(self._device) from error

    def view(self, memory: Tensor, offset: int, rows: int, tensor: Row) -> Tensor:
        flat = memory[offset : offset + rows * tensor.row_bytes].view(_TYPES[tensor.datatype])
        return flat.view(rows, *tensor.shape)

    def indices(self, rows: Sequence[int]) -> Tensor:
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
                self._stream.synchronize()
            except RuntimeError as error:
                raise EdgedError(f"{self._device} failed: {_line(error)}") from error


class Torch:
    name = "torch"
    emulated = False
    lanes = 1

    def __init__(self, options: Options, *, threads: int) -> None:
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
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            torch.backends.cuda.matmul.allow_tf32 = options.tf32
            torch.backends.cudnn.allow_tf32 = options.tf32
        torch.set_num_threads(threads)
        self.versions = {"torch": str(torch.__version__)}
        self.memory = TorchMemory(self._device, stream)
        self._stream = stream if options.graphs else None
        self._blocks: dict[str, torch_graph.Graph] = {}
        self._runs: OrderedDict[_RunKey, int | torch.cuda.CUDAGraph] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle() if self._stream is not None else None
        self._never_captured: set[str] = set()  # blocks that need the host in between

    def is_prepared(self, block: str) -> bool:
        return False

    def prepare(self, block: str, path: Path) -> None:
        pass

    def files(self, block: str, path: Path) -> Sequence[Path]:
        return (path,)

    def load(self, block: str, path: Path, uses: Sequence[Use]) -> Loaded:
        try:
            graph = torch_graph.load(path, self._device)
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(self._device) from error
        max_rows = check(block, *graph.args, uses)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # weights come on another stream than runs
        self._blocks[block] = graph
        used = sum(buffer.nbytes for buffer in graph.buffers())
        return Loaded(used, max_rows, extra_bytes=path.stat().st_size)  # the file, as it is parsed

    def unload(self, block: str) -> None:
        for key in [key for key in self._runs if key[0] == block]:
            del self._runs[key]
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
                if self._stream is None:
                    self._compute(block, inputs, outputs)
                else:
                    self._replay(block, inputs, outputs)
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(self._device) from error
        except (RuntimeError, IndexError) as error:
            raise EdgedError(f"block {block[:12]} failed: {_line(error)}") from error

    def close(self) -> None:
        self._runs.clear()
        self._blocks.clear()

    def _compute(self, block: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        for found, target in zip(self._blocks[block](*inputs), outputs, strict=True):
            if found.shape != target.shape:  # copy_ would stretch it to fit
                raise StoreError(
                    f"block {block[:12]} wrote {list(found.shape)} where its models expect "
                    f"{list(target.shape)}: export them again"
                )
            target.copy_(found)

    def _replay(self, block: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """As `_compute`; what comes again and again on the same memory becomes a graph."""
        addresses = tuple(array.data_ptr() for array in (*inputs, *outputs))
        key = (block, len(outputs[0]), addresses)
        known = self._runs.pop(key, 0)
        if known == _CAPTURE_AT and block not in self._never_captured:
            known = self._capture(block, inputs, outputs)
        if isinstance(known, int):
            self._compute(block, inputs, outputs)
            self._runs[key] = known + 1
        else:
            known.replay()
            self._runs[key] = known
        if len(self._runs) > _MAX_RUNS:
            self._runs.popitem(last=False)

    def _capture(
        self, block: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> int | torch.cuda.CUDAGraph:
        """The graph of a run, or a count where the block cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        try:
            # One pool serves all graphs: nothing in it outlives a replay, and they run in turn.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                self._compute(block, inputs, outputs)
        except RuntimeError as error:
            log.warning("block %s runs without a CUDA graph: %s", block[:12], _line(error))
            self._never_captured.add(block)
            return _CAPTURE_AT
        return graph


def create(options: Options, *, threads: int, cache_dir: Path) -> Torch:
    return Torch(options, threads=threads)


def _out_of_memory(device: torch.device) -> ResourceExhausted:
    return ResourceExhausted(
        f"{device} is out of memory: serve fewer models, or lower scheduler.max_batch_rows"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

"""ONNX Runtime behind an emulated CUDA device: all of a GPU's way to serve, on a machine without.

Blocks compute on the CPU, in the memory of the emulated device and when its streams come to them.
So answers are right only if copies, events and memory are, and each access is checked. It is there
for tests; what it serves is marked as emulated, and its times say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from edged.backends.base import BlockUse, LoadedBlock, Progress, go_on
from edged.backends.block_files import files_of
from edged.backends.memory import Array, host_view
from edged.backends.ort import OnnxRuntime
from edged.budget import DeviceBytes
from edged.cuda.api import Address
from edged.cuda.arena import taken_bytes
from edged.cuda.emulated import EmulatedCuda
from edged.cuda.memory import CudaArray, CudaMemory
from edged.cuda.order import Span
from edged.cuda.personality import PERSONALITIES, Faults
from edged.options import EmulatedCudaOptions, OnnxRuntimeOptions

_ARENA_PART = 4  # of the device's memory, one part of so many stays free


class OnnxRuntimeOnCuda:
    name = "emulated-cuda"
    emulated = True
    lanes = 1
    prepare_row_s = 0.0
    prepares = True
    builds = False
    sizes: tuple[int, ...] = (1, 2, 4, 8, 16)

    def __init__(self, options: EmulatedCudaOptions, *, threads: int, cache_dir: Path) -> None:
        personality = PERSONALITIES[options.personality]
        faults = Faults(options.fail_at, options.fail_number, options.hang_at)
        self.cuda = EmulatedCuda(personality, faults=faults, memory_bytes=options.memory_bytes)
        self._host = OnnxRuntime(OnnxRuntimeOptions(lanes=1), threads=threads, cache_dir=cache_dir)
        free_bytes = self.cuda.free_bytes()
        self.memory = CudaMemory(self.cuda, free_bytes - free_bytes // _ARENA_PART)
        self.device = personality.facts.name
        self.versions = self._host.versions
        self._weights: dict[str, tuple[Address, int]] = {}

    def is_prepared(self, block: str) -> bool:
        return self._host.is_prepared(block)

    def prepare(self, block: str, path: Path, progress: Progress = go_on) -> None:
        self._host.prepare(block, path, progress)

    def files(self, block: str, path: Path) -> Sequence[Path]:
        return self._host.files(block, path)

    def load(self, block: str, path: Path, uses: Sequence[BlockUse]) -> LoadedBlock:
        """Its files stand for its weights. Exactly what it takes of the arena is counted."""
        max_rows = self._host.load(block, path, uses).max_rows
        data = np.concatenate([np.fromfile(file, np.uint8) for file in files_of(path)])
        try:
            address = self.memory.allocate(len(data))
        except BaseException:
            self._host.unload(block)
            raise
        self._weights[block] = address, len(data)
        try:
            self.memory.upload(address, data)
        except BaseException:
            self.unload(block)
            raise
        return LoadedBlock(taken_bytes(len(data)), max_rows)

    def unload(self, block: str) -> None:
        address, _ = self._weights.pop(block)
        self.memory.free(address)
        self._host.unload(block)

    def run(
        self,
        block: str,
        inputs: Sequence[CudaArray],
        outputs: Sequence[CudaArray],
        *,
        wide: bool = True,
    ) -> None:
        self.cuda.run(
            self.memory.compute,
            f"block {block[:12]}",
            self._work(block, inputs, outputs),
            [Span(*self._weights[block]), *map(_span, inputs)],
            [*map(_span, outputs)],
        )

    def device_bytes(self) -> DeviceBytes:
        return self.memory.device_bytes()

    def close(self) -> None:
        self.memory.close()  # what streams still have to do may need blocks
        self._host.close()

    def _work(
        self, block: str, inputs: Sequence[CudaArray], outputs: Sequence[CudaArray]
    ) -> Callable[[], None]:
        reads, writes = [*map(self._view, inputs)], [*map(self._view, outputs)]
        return partial(self._host.run, block, reads, writes)

    def _view(self, array: CudaArray) -> Array:
        found = self.cuda.bytes_at(array.address, array.nbytes)
        return host_view(found, 0, array.rows, array.tensor)


def _span(array: CudaArray) -> Span:
    return Span(array.address, array.nbytes)


def create(options: EmulatedCudaOptions, *, threads: int, cache_dir: Path) -> OnnxRuntimeOnCuda:
    return OnnxRuntimeOnCuda(options, threads=threads, cache_dir=cache_dir)

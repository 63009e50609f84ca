"""A backend for tests and overhead benchmarks: cheap arithmetic, made-up durations, made-up faults.

The output of a block depends only on the block and on the row that it reads: a row that ends up in
the wrong place, or passes the wrong block, changes the answer.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edged.backends.base import BlockUse, DeviceLost, LoadedBlock, Progress, go_on
from edged.backends.block_files import bytes_of
from edged.backends.memory import Array, HostMemory
from edged.budget import DeviceBytes
from edged.errors import EdgedError, StoreError
from edged.options import FakeOptions


class Fake:
    name = "fake"
    device = "none"
    emulated = True
    lanes = 1
    prepare_row_s = 0.0
    prepares = False
    builds = False
    sizes: tuple[int, ...] = ()

    def __init__(self, options: FakeOptions) -> None:
        self.memory = HostMemory()
        self.versions = {"numpy": np.__version__}
        self._options = options
        self._loads = 0
        self._factors: dict[str, float] = {}

    def is_prepared(self, block: str) -> bool:
        return False

    def prepare(self, block: str, path: Path, progress: Progress = go_on) -> None:
        pass

    def files(self, block: str, path: Path) -> Sequence[Path]:
        return ()

    def load(self, block: str, path: Path, uses: Sequence[BlockUse]) -> LoadedBlock:
        self._loads += 1
        options = self._options
        size = bytes_of(path)
        if options.load_bytes_per_ms is not None:
            time.sleep(size / options.load_bytes_per_ms / 1e3)
        every = options.fail_every_load
        if self._loads == options.fail_on_load or (every and self._loads % every == 0):
            raise StoreError(f"block {block[:12]} was made to fail")
        self._factors[block] = 0.5 + int(block[:8], 16) / 2**32
        return LoadedBlock(size, self._options.max_rows)

    def unload(self, block: str) -> None:
        del self._factors[block]

    def run(
        self, block: str, inputs: Sequence[Array], outputs: Sequence[Array], *, wide: bool = True
    ) -> None:
        rows = len(outputs[0])
        self._fault(inputs)
        duration_us = self._options.run_us + rows * self._options.row_us
        if duration_us:
            time.sleep(duration_us / 1e6)
        compute(self._factors[block], inputs, outputs)

    def device_bytes(self) -> DeviceBytes | None:
        return None

    def close(self) -> None:
        self._factors.clear()

    def _fault(self, inputs: Sequence[Array]) -> None:
        options = self._options
        if options.fail_on is not None and _begins_with(inputs, options.fail_on):
            raise EdgedError("a block was made to fail")
        if options.hang_on is not None and _begins_with(inputs, options.hang_on):
            threading.Event().wait()
        if options.lose_on is not None and _begins_with(inputs, options.lose_on):
            raise DeviceLost("the device was made to fail")
        if options.die_on is not None and _begins_with(inputs, options.die_on):
            os.kill(os.getpid(), signal.SIGKILL)


def _begins_with(inputs: Sequence[Array], value: float) -> bool:
    return any((array.reshape(len(array), -1)[:, :1] == value).any() for array in inputs)


def compute(factor: float, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    """Compute each row of the outputs from the first and last element of that row in each input."""
    rows = len(outputs[0])
    mixed = np.full((rows, 1), factor)
    for position, array in enumerate(inputs, start=2):
        flat = array.reshape(rows, -1)
        if flat.shape[1]:
            mixed += (flat[:, :1] + flat[:, -1:] * 0.5) * (factor / position)
    for position, array in enumerate(outputs):
        flat = array.reshape(rows, -1)
        ramp = np.arange(position, position + flat.shape[1]) * (factor / 64)
        np.add(mixed, ramp, out=flat, casting="unsafe")


def create(options: FakeOptions, *, threads: int, cache_dir: Path) -> Fake:
    return Fake(options)

"""A backend for tests and overhead benchmarks: cheap arithmetic, made-up durations, made-up faults.

What a block writes depends on the block and on the row it reads, on nothing else: a row that ends
up in the wrong place, or passes the wrong block, changes the answer.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edged.backends.base import Array, Loaded, Use
from edged.errors import EdgedError, StoreError


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Runs of blocks are counted from 1 over the life of the backend; None: never."""

    run_us: float = 0.0  # time that each run of a block takes
    row_us: float = 0.0  # and each row in it
    fail_on_run: int | None = None
    hang_on_run: int | None = None
    die_on_run: int | None = None
    fail_on_load: int | None = None  # the n-th block that is loaded
    max_rows: int | None = None  # of each block


class Fake:
    name = "fake"
    device = "none"
    emulated = True

    def __init__(self, options: Options) -> None:
        self.versions = {"numpy": np.__version__}
        self._options = options
        self._loads = 0
        self._runs = 0
        self._count = threading.Lock()
        self._factors: dict[str, float] = {}

    def is_prepared(self, block: str) -> bool:
        return False

    def load(self, block: str, path: Path, uses: Sequence[Use]) -> Loaded:
        self._loads += 1
        if self._loads == self._options.fail_on_load:
            raise StoreError(f"block {block[:12]} was made to fail")
        size = path.stat().st_size
        self._factors[block] = 0.5 + int(block[:8], 16) / 2**32
        return Loaded(size, self._options.max_rows)

    def unload(self, block: str) -> None:
        del self._factors[block]

    def run(self, block: str, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        rows = len(outputs[0])
        with self._count:
            self._runs += 1
            run = self._runs
        self._fault(run)
        duration_us = self._options.run_us + rows * self._options.row_us
        if duration_us:
            time.sleep(duration_us / 1e6)
        compute(self._factors[block], inputs, outputs)

    def close(self) -> None:
        self._factors.clear()

    def _fault(self, run: int) -> None:
        if run == self._options.fail_on_run:
            raise EdgedError(f"run {run} was made to fail")
        if run == self._options.hang_on_run:
            threading.Event().wait()
        if run == self._options.die_on_run:
            os.kill(os.getpid(), signal.SIGKILL)


def compute(factor: float, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
    """Each row of each output from the first and last element of the same row of each input."""
    rows = len(outputs[0])
    mixed = np.full(rows, factor)
    for position, array in enumerate(inputs, start=2):
        flat = array.reshape(rows, -1)
        if flat.shape[1]:
            mixed += (flat[:, 0] + flat[:, -1] / 2) * (factor / position)
    for position, array in enumerate(outputs):
        flat = array.reshape(rows, -1)
        ramp = np.arange(flat.shape[1]) * (factor / 64)
        np.add(mixed[:, np.newaxis] + position, ramp % 7, out=flat, casting="unsafe")


def create(options: Options, *, threads: int, cache_dir: Path) -> Fake:
    return Fake(options)

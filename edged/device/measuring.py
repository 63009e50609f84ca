"""Measures one block as the worker runs it; `edged profile` runs `-m edged.device.measuring`.

Reads an Order on standard input and writes a Measured on standard output, both JSON. A process
for each block, so that one's memory is not taken for another's.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edged import __version__, backends
from edged import malloc as heap
from edged.backends import mapped
from edged.backends.base import Backend
from edged.device.executor import Executor, Segment
from edged.device.held import unshared_bytes
from edged.device.loader import Loader
from edged.device.settings import Settings
from edged.device.staging import Pool, shape_of
from edged.errors import Code, EdgedError
from edged.link import messages as link
from edged.manifest import Manifest
from edged.profiles.form import BlockProfile
from edged.store import Store
from edged.typeinfo import describe

_LOADS = 3  # from the page cache; their median counts
_ROUNDS = (3, 200)  # at least and at most; in each, every number of rows once


class Order(msgspec.Struct, frozen=True):
    """`manifest` is a model of the one block."""

    settings: Settings
    manifest: Manifest
    rows: tuple[int, ...]  # ascending
    seconds: float  # about as long as the timing may take


class Measured(msgspec.Struct, frozen=True, tag=True):
    block: BlockProfile
    backend: str
    device: str
    lanes: int
    emulated: bool
    versions: dict[str, str]


class Failed(msgspec.Struct, frozen=True, tag=True):
    code: Code
    message: str


class _Block:
    """The block under test, in one lane of its backend."""

    def __init__(self, order: Order, backend: Backend) -> None:
        manifest = order.manifest
        self.id = manifest.steps[0].block
        self._backend = backend
        self._store = Store(order.settings.store)
        self._loader = Loader(self._store, backend)
        self._loader.define({manifest.name: manifest})  # prepares it for this host
        self._manifest = manifest
        self._executor = Executor({manifest.name: manifest}, backend, self._loader.max_rows)
        self._pool = Pool(0, shape_of(manifest), order.rows[-1], backend.memory)
        for array in self._pool.arrays:
            array[:] = np.asarray(0.5).astype(array.dtype)  # denormals would take far longer

    def load(self) -> link.BlockInfo:
        return self._loader.load(self.id)

    def unload(self) -> None:
        self._loader.unload(self.id)

    def unshared_bytes(self) -> int:
        return unshared_bytes(self._backend)

    def leave_page_cache(self) -> None:
        """Let the kernel forget what a load reads. It is not loaded."""
        for path in self._backend.files(self.id, self._store.block_path(self.id)):
            mapped.give_cache_back(path)

    def run(self, rows: int, *, wide: bool = False) -> float:
        """Seconds of the block alone, or with the way of its inputs to the device.

        On one lane, unless `wide`.
        """
        segment = Segment(self._pool, list(range(rows)), (self._manifest.name,))
        began_s = time.perf_counter()
        batch = self._executor.compute([segment], wide=wide or self._backend.lanes == 1)
        took_s = time.perf_counter() - began_s
        if self._backend.memory.is_host:  # else the runs go on when they have returned
            took_s = sum(run.us for run in batch.runs) / 1e6
        return max(took_s, 1e-6)


def measure(order: Order) -> Measured:
    """Raises EdgedError."""
    settings = order.settings
    backend = backends.create(
        settings.backend,
        settings.options,
        threads=settings.threads,
        cache_dir=Path(settings.cache_dir),
    )
    block = _Block(order, backend)
    weight_bytes = block.load().bytes_used
    is_told = backend.memory.is_host or backend.device_bytes() is not None
    workspace_bytes = _workspaces(block, order.rows) if is_told else None
    cases = [(rows, False) for rows in order.rows]
    if backend.lanes > 1:
        cases.append((order.rows[0], True))
    times_s = _times(block, cases, order.seconds)
    medians_s = [statistics.median(times_s[rows, False]) for rows in order.rows]
    wide_s = times_s.get((order.rows[0], True))
    block.unload()
    block.leave_page_cache()
    load_s = [_load_s(block, medians_s[0]) for _ in range(1 + _LOADS)]
    backend.close()
    return Measured(
        block=BlockProfile(
            rows=order.rows,
            time_s=tuple(round(median_s, 7) for median_s in medians_s),
            spread_s=tuple(round(_spread_s(times_s[rows, False]), 7) for rows in order.rows),
            workspace_bytes=workspace_bytes,
            weight_bytes=weight_bytes,
            load_cold_s=round(load_s[0], 6),
            load_warm_s=round(statistics.median(load_s[1:]), 6),
            wide_s=None if wide_s is None else round(statistics.median(wide_s), 7),
        ),
        backend=backend.name,
        device=backend.device,
        lanes=backend.lanes,
        emulated=backend.emulated,
        versions={"edged": __version__, **backend.versions},
    )


def _spread_s(times_s: Sequence[float]) -> float:
    """Median distance of the times from their median."""
    median_s = statistics.median(times_s)
    return statistics.median(abs(time_s - median_s) for time_s in times_s)


def _workspaces(block: _Block, rows: tuple[int, ...]) -> tuple[int, ...]:
    """Bytes by which memory of no file grows, from the load to a run of so many rows."""
    heap.give_back()
    loaded = block.unshared_bytes()
    found: list[int] = []
    for count in rows:
        block.run(count)
        found.append(max(0, block.unshared_bytes() - loaded, *found[-1:]))
    return tuple(found)


def _times(
    block: _Block, cases: Sequence[tuple[int, bool]], seconds: float
) -> dict[tuple[int, bool], list[float]]:
    """Seconds of each case, rows and whether wide; in turns: whatever else the machine does meets
    all alike.
    """
    times_s: dict[tuple[int, bool], list[float]] = {case: [] for case in cases}
    least, most = _ROUNDS
    end_s = time.monotonic() + seconds
    for number in range(most):
        if number >= least and time.monotonic() > end_s:
            break
        for (rows, wide), of in times_s.items():
            of.append(block.run(rows, wide=wide))
    return times_s


def _load_s(block: _Block, run_s: float) -> float:
    """Seconds of a load. What a first run of one row takes longer than usual is part of it."""
    load_s = block.load().load_us / 1e6
    late_s = max(0.0, block.run(1) - run_s)
    block.unload()
    return load_s + late_s


def main() -> int:
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    found: Measured | Failed
    try:
        found = measure(order)
    except EdgedError as error:
        found = Failed(error.code, str(error))
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())


describe(Order, Measured, Failed)

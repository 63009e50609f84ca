"""A backend that takes the time of another device and computes nothing: outputs are zeros.

All that it serves is marked as emulated. Times come from a profile or from the options, and are
interpolated between measured numbers of rows. Each block of a batch begins when the last one
should have ended, so that the delays of this host's timers do not count as the device's time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from edged import profiles
from edged.backends.base import BlockUse, LoadedBlock
from edged.backends.memory import Array, HostMemory
from edged.core.costs import interpolate
from edged.errors import StoreError
from edged.options import EmulatedOptions
from edged.options import figures as figures_of
from edged.profiles.form import BlockProfile, encode


class _Memory(HostMemory):
    """Host memory that knows until when the device is busy."""

    def __init__(self) -> None:
        self.busy_until_s: float | None = None  # None between two batches

    def wait(self) -> None:
        """The batch has ended: the device is idle until the next one."""
        self.busy_until_s = None


class Emulated:
    name = "emulated"
    emulated = True
    prepares = False
    lanes = 1

    def __init__(self, options: EmulatedOptions) -> None:
        profile = profiles.read(options.profile) if options.profile is not None else None
        self._figures = figures_of(options)
        name = options.device or (profile.device if profile is not None else "unnamed")
        self.device = f"{name}, emulated"
        prepare_s = profile.prepare_s if profile is not None else None
        self.prepare_row_s = (prepare_s or 0.0) / options.speed
        self.memory = _Memory()
        # Figures that were measured with another profile of this name are not these.
        digest = "" if profile is None else hashlib.sha256(encode(profile)).hexdigest()
        self.versions = {"profile": digest[:12]} if digest else {}
        self._options = options
        self._loaded: dict[str, BlockProfile] = {}
        self._was_loaded: set[str] = set()  # blocks whose files are in the page cache

    def is_prepared(self, block: str) -> bool:
        return False

    def prepare(self, block: str, path: Path) -> None:
        pass

    def files(self, block: str, path: Path) -> Sequence[Path]:
        return ()

    def load(self, block: str, path: Path, uses: Sequence[BlockUse]) -> LoadedBlock:
        started_s = time.monotonic()
        figures = self._find(block)
        size = figures.weight_bytes if figures.weight_bytes is not None else path.stat().st_size
        warm = block in self._was_loaded
        load_s = figures.load_warm_s if warm else figures.load_cold_s
        if load_s is None and self._options.load_bytes_per_ms is not None:
            load_s = size / self._options.load_bytes_per_ms / 1e3
        self._take(load_s or 0.0, since=started_s)
        self._was_loaded.add(block)
        self._loaded[block] = figures
        return LoadedBlock(size)

    def unload(self, block: str) -> None:
        del self._loaded[block]

    def run(
        self, block: str, inputs: Sequence[Array], outputs: Sequence[Array], *, wide: bool = True
    ) -> None:
        called_s = time.monotonic()
        for array in outputs:
            array.fill(0)
        figures = self._loaded[block]
        before_s = self.memory.busy_until_s
        duration_s = interpolate(figures.rows, figures.time_s, len(outputs[0]))
        self.memory.busy_until_s = self._take(
            duration_s, since=called_s if before_s is None else before_s
        )

    def close(self) -> None:
        self._loaded.clear()

    def _find(self, block: str) -> BlockProfile:
        named = [key for key in self._figures if key != "*" and block.startswith(key)]
        key = max(named, key=len, default="*")
        if key not in self._figures:
            raise StoreError(
                f"{self.device}: no times for block {block[:12]}: profile that block, or give "
                "times for * (all others)"
            )
        return self._figures[key]

    def _take(self, duration_s: float, *, since: float) -> float:
        """Wait until `duration_s`, scaled by the speed, has passed; return that instant."""
        until_s = since + duration_s / self._options.speed
        left_s = until_s - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
        return until_s


def create(options: EmulatedOptions, *, threads: int, cache_dir: Path) -> Emulated:
    return Emulated(options)

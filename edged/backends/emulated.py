"""A backend that takes the time of another device and computes nothing: outputs are zeros.

Whatever it serves is marked as emulated. Times are of a block and a number of rows; between
measured numbers of rows they are interpolated.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edged.backends.base import Loaded, Use
from edged.backends.memory import Array, HostMemory
from edged.core.cost import interpolate
from edged.errors import ConfigError, StoreError


class Curve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured time of one run: `time_ms[i]` for `rows[i]`, ascending."""

    rows: tuple[int, ...]
    time_ms: tuple[float, ...]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`blocks`: curves by block id, by the beginning of one, or for all others by `*`."""

    blocks: dict[str, Curve]
    device: str = "unnamed"
    load_bytes_per_ms: float | None = None  # None: loading takes no time
    speed: float = 1.0  # 2.0: everything takes half the time


class Emulated:
    name = "emulated"
    emulated = True
    lanes = 1

    def __init__(self, options: Options) -> None:
        for key, curve in options.blocks.items():
            if not curve.rows or len(curve.rows) != len(curve.time_ms):
                raise ConfigError(f"curve {key!r} needs one time for each number of rows")
            if list(curve.rows) != sorted(set(curve.rows)) or min(curve.rows) < 1:
                raise ConfigError(f"curve {key!r}: rows must be ascending, from 1")
        self.device = f"{options.device}, emulated"
        self.memory = HostMemory()
        self.versions: dict[str, str] = {}
        self._options = options
        self._curves: dict[str, Curve] = {}

    def is_prepared(self, block: str) -> bool:
        return False

    def prepare(self, block: str, path: Path) -> None:
        pass

    def files(self, block: str, path: Path) -> Sequence[Path]:
        return ()

    def load(self, block: str, path: Path, uses: Sequence[Use]) -> Loaded:
        size = path.stat().st_size
        named = [key for key in self._options.blocks if key != "*" and block.startswith(key)]
        key = max(named, key=len, default="*")
        if key not in self._options.blocks:
            raise StoreError(
                f"the profile of {self._options.device} has no times for block {block[:12]}: "
                "profile that block, or give times for * (all others)"
            )
        if self._options.load_bytes_per_ms is not None:
            self._take_ms(size / self._options.load_bytes_per_ms, since=time.monotonic())
        self._curves[block] = self._options.blocks[key]
        return Loaded(size)

    def unload(self, block: str) -> None:
        del self._curves[block]

    def run(
        self, block: str, inputs: Sequence[Array], outputs: Sequence[Array], *, wide: bool = True
    ) -> None:
        started = time.monotonic()
        for array in outputs:
            array.fill(0)
        curve = self._curves[block]
        self._take_ms(interpolate(curve.rows, curve.time_ms, len(outputs[0])), since=started)

    def close(self) -> None:
        self._curves.clear()

    def _take_ms(self, duration_ms: float, *, since: float) -> None:
        left = since + duration_ms / 1e3 / self._options.speed - time.monotonic()
        if left > 0:
            time.sleep(left)


def create(options: Options, *, threads: int, cache_dir: Path) -> Emulated:
    return Emulated(options)

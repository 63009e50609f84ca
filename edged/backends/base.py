"""The one seam to whatever computes: load a block, run it on given buffers, unload it.

A backend knows blocks and arrays. It knows no models, no requests, no batches and no store; the
executor decides what runs. Arrays are views of the backend's own memory, dense, with rows on
axis 0. One thread at a time loads and unloads, while others run other blocks, each with its own
outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edged.backends.memory import BackendMemory, DeviceArray
from edged.errors import EdgedError
from edged.paths.layout import Tensor


class DeviceLost(EdgedError):
    """Nothing on the device works any more for this process; only another one may use it."""


@dataclass(frozen=True, slots=True)
class BlockUse:
    """What a model feeds a block and expects of it, in the order of `x0`, `x1`, .. and `y0`, .."""

    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class LoadedBlock:
    """What a block takes while it is loaded."""

    bytes_used: int
    max_rows: int | None = None  # rows of one run; None: any number
    extra_bytes: int = 0  # that loading took on top, for a moment


class Backend(Protocol):
    """One device and the blocks that are loaded on it."""

    name: str
    device: str  # for people, as "cpu, 2 threads"
    emulated: bool  # takes time and computes nothing
    lanes: int  # batches that it runs side by side, each on a processor of the host; else 1
    prepare_row_s: float  # that the device that is emulated takes to prepare a row; else 0.0
    versions: Mapping[str, str]  # of the libraries that compute
    memory: BackendMemory

    def is_prepared(self, block: str) -> bool:
        """Whether `load` will use a copy that was made from a verified file, not the file."""

    def prepare(self, block: str, path: Path) -> None:
        """Make that copy of a verified file, if this backend has any and it is not there."""

    def files(self, block: str, path: Path) -> Sequence[Path]:
        """What `load` will read, for whoever wants to read it ahead."""

    def load(self, block: str, path: Path, uses: Sequence[BlockUse]) -> LoadedBlock:
        """Make a block ready to run. Raises StoreError if the file does not fit its `uses`.

        After a failure nothing of the block is left. DamagedCopy: load it from a verified file.
        """

    def unload(self, block: str) -> None:
        """Give back what `load` took, to the system too. Nothing runs the block any more."""

    def run(
        self,
        block: str,
        inputs: Sequence[DeviceArray],
        outputs: Sequence[DeviceArray],
        *,
        wide: bool = True,
    ) -> None:
        """Compute a loaded block into `outputs`; all of one call have the same number of rows.

        It may go on after the call; `memory.wait` waits for it.
        `wide`: with the whole device, for one batch alone; else with the share of one lane.
        Raises EdgedError when the block fails, DeviceLost when the device does; `outputs` are
        undefined then.
        """

    def close(self) -> None:
        """Give back everything."""

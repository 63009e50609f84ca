"""The one seam to whatever computes: load a block, run it on given buffers, unload it.

A backend knows blocks and arrays. It knows no models, no requests, no batches and no store; the
executor decides what runs. Arrays are dense views of the backend's own memory, with rows on axis 0.
One thread at a time loads and unloads, while others run other blocks, each with its own outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from edged.backends.memory import BackendMemory, DeviceArray
from edged.budget import DeviceBytes
from edged.errors import EdgedError
from edged.paths.layout import Tensor


class DeviceLost(EdgedError):
    """The device no longer works for this process; only a new process may use it."""


Progress: TypeAlias = Callable[[str, float], bool]
"""Told of a phase and of the share that is done, a few times a second; False stops it."""


def go_on(phase: str, done: float) -> bool:
    """The Progress of whoever does not ask."""
    return True


@dataclass(frozen=True, slots=True)
class BlockUse:
    """The inputs `x0`, `x1`, .. that a model gives a block, and the outputs `y0`, .. it expects."""

    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class LoadedBlock:
    """The memory that a loaded block takes, and the rows that it can run.

    `shared` has parts of that memory by name: a part that two blocks name alike is there once.
    """

    bytes_used: int  # what it would take alone
    max_rows: int | None = None  # most rows of one run; None if there is no limit
    extra_bytes: int = 0  # memory that loading took besides, for a moment
    shared: Mapping[str, int] = field(default_factory=dict)  # bytes


class Backend(Protocol):
    """One device and the blocks that are loaded on it."""

    name: str
    device: str  # a name for people: "cpu, 2 threads"; it begins with cpu or cuda for these
    emulated: bool  # whether it only takes time and computes nothing
    lanes: int  # batches that run side by side, each on one processor of the host; 1 on a GPU
    prepare_row_s: float  # seconds that an emulated device takes to prepare a row; else 0.0
    versions: Mapping[str, str]  # versions of the libraries that compute
    memory: BackendMemory
    sizes: tuple[int, ...]  # rows that runs are padded to, ascending from 1; none: they are not
    prepares: bool  # whether blocks are loaded from prepared copies, which are made before
    builds: bool  # whether that takes minutes, so that nothing should wait for it

    def is_prepared(self, block: str) -> bool:
        """Whether `load` will read a prepared copy of a verified file instead of the file."""

    def prepare(self, block: str, path: Path, progress: Progress = go_on) -> None:
        """Make the prepared copy of a verified file, if this backend uses one and it is missing.

        Raises Cancelled where `progress` stops it.
        """

    def files(self, block: str, path: Path) -> Sequence[Path]:
        """The files that `load` will read, so that they can be read ahead."""

    def load(self, block: str, path: Path, uses: Sequence[BlockUse]) -> LoadedBlock:
        """Make a block ready to run. Raises StoreError if the file does not fit its `uses`.

        A failure leaves nothing of the block behind. After DamagedCopy, load a verified file.
        """

    def unload(self, block: str) -> None:
        """Free what `load` took and return it to the system. Nothing may be running the block."""

    def run(
        self,
        block: str,
        inputs: Sequence[DeviceArray],
        outputs: Sequence[DeviceArray],
        *,
        wide: bool = True,
    ) -> None:
        """Compute a loaded block into `outputs`; all arrays of a call have the same number of rows.

        The work may go on after the call; `Flight.wait` waits for it. `wide` uses the whole device,
        for a batch that runs alone; otherwise the block uses the share of one lane. Raises
        EdgedError if the block fails and DeviceLost if the device does; `outputs` are then
        undefined.
        """

    def device_bytes(self) -> DeviceBytes | None:
        """The memory of a GPU as it is now; None where blocks are in the process's own.

        Raises DeviceLost.

        Any thread may ask.
        """

    def close(self) -> None:
        """Free everything."""

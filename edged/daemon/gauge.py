"""The memory that the daemon may take and takes, as events for the scheduler."""

from __future__ import annotations

from collections.abc import Mapping

from edged.budget import Footprint, Machine, footprint
from edged.config import Config
from edged.core.events import BlockCost, HeldBlock, Library, MemoryMeasured, Model, Overhead
from edged.daemon.models.versions import Versions
from edged.daemon.peers.room import kept_bytes
from edged.link import messages as link

# Heaps grow by this much while they serve. Found out only then, it would cost a loaded block.
_GROWTH_BYTES = 4 << 20
_READ_BYTES_PER_S = 500e6  # assumed speed of the disk until a block has been read from it


class Gauge:
    """Reads the machine."""

    def __init__(self, config: Config, machine: Machine | None = None) -> None:
        self._config = config
        self._machine = machine or Machine()
        self.front = Footprint(0, 0)  # the front's own memory, as measured last

    def worker_budget_bytes(self) -> int:
        """The memory that a worker that is started now may take."""
        front = footprint()
        return max(0, self._budget_bytes(front) - front.pss_bytes)

    def measured(self, worker: link.WorkerMemory | link.Ready) -> MemoryMeasured:
        """The budget now, and what front and worker take together."""
        self.front = footprint()
        held = self.front + Footprint(worker.pss_bytes, worker.private_bytes)
        settings = self._config.memory
        ceiling_bytes = self._machine.ceiling_bytes(settings.budget_bytes, settings.reserve_bytes)
        return MemoryMeasured(self._budget_bytes(held), held.pss_bytes, ceiling_bytes)

    def overhead(self, ready: link.Ready) -> Overhead:
        """The memory that the worker and the front take besides blocks."""
        rows = ready.max_batch_rows or 1
        front = footprint()
        budget_bytes = self._budget_bytes(front + Footprint(ready.pss_bytes, ready.private_bytes))
        kept = kept_bytes(self._config, budget_bytes)
        return Overhead(
            fixed_bytes=sum(
                (front.pss_bytes, ready.fixed_bytes, ready.loading_bytes, _GROWTH_BYTES, kept)
            ),
            staging_bytes=ready.staging_bytes + ready.decoding_bytes,
            row_bytes=-(-ready.workspace_bytes // rows),
        )

    def _budget_bytes(self, held: Footprint) -> int:
        settings = self._config.memory
        return self._machine.budget_bytes(settings.budget_bytes, settings.reserve_bytes, held)


def library(versions: Versions, known: Mapping[str, link.BlockInfo]) -> Library:
    """All versions of models, and their blocks. A block that was never loaded is taken to be as
    large as its file.
    """
    costs = []
    for block, file_bytes in versions.block_bytes.items():
        info = known.get(block)
        if info is None:
            costs.append(BlockCost(block, file_bytes, file_bytes / _READ_BYTES_PER_S))
        else:
            costs.append(BlockCost(block, info.bytes_used, info.load_us / 1e6))
    return Library(
        tuple(
            Model(key, tuple(dict.fromkeys(step.block for step in manifest.steps)))
            for key, manifest in versions.models.items()
        ),
        tuple(costs),
    )


def resident(ready: link.Ready) -> tuple[HeldBlock, ...]:
    """The blocks that a worker holds at its start."""
    return tuple(HeldBlock(info.id, info.bytes_used) for info in ready.blocks if info.resident)

"""The memory that the daemon may take and takes, as events for the scheduler."""

from __future__ import annotations

from edged.budget import Footprint, Machine, footprint
from edged.config import Config
from edged.core.events import MemoryMeasured, Overhead
from edged.daemon.peers.room import kept_bytes
from edged.link import messages as link

# Heaps grow by this much while they serve. Found out only then, it would cost a loaded block.
_GROWTH_BYTES = 4 << 20


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
        front = footprint()
        budget_bytes = self._budget_bytes(front + Footprint(ready.pss_bytes, ready.private_bytes))
        kept = kept_bytes(self._config, budget_bytes)
        return Overhead(
            fixed_bytes=sum(
                (
                    front.pss_bytes,
                    ready.fixed_bytes,
                    ready.base_bytes,
                    ready.loading_bytes,
                    _GROWTH_BYTES,
                    kept,
                )
            ),
            staging_bytes=ready.staging_bytes + ready.decoding_bytes,
            row_bytes=ready.row_bytes,
        )

    def _budget_bytes(self, held: Footprint) -> int:
        settings = self._config.memory
        return self._machine.budget_bytes(settings.budget_bytes, settings.reserve_bytes, held)

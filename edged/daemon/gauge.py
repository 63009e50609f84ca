"""The memory that the daemon may take and takes, as events for the scheduler.

The scheduler's account is of the memory that blocks are in: the machine's, and with it that of a
GPU that shares it, or a GPU's own. Then what clients send is still in the machine's.
"""

from __future__ import annotations

from msgspec.structs import replace

from edged.budget import DeviceBytes, Footprint, Machine, footprint
from edged.config import Config
from edged.core.events import MemoryMeasured, Overhead
from edged.core.residency.ledger import Account
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
        self._host: tuple[int, int] | None = None  # budget, taken; where blocks are not in it

    def worker_budget_bytes(self) -> int:
        """The memory that a worker that is started now may take."""
        front = self._footprint()
        return max(0, self._budget_bytes(front) - front.pss_bytes)

    def measured(self, worker: link.WorkerMemory | link.Ready) -> MemoryMeasured:
        """The budget now, and what front and worker take together."""
        self.front = self._footprint()
        held = self.front + _of(worker)
        settings = self._config.memory
        device, configured_bytes = worker.device_bytes, settings.budget_bytes
        self._host = None
        if device is not None and not device.is_unified:
            self._host = self._budget_bytes(held), held.pss_bytes
            ceiling_bytes = device.ceiling_bytes(configured_bytes)
            budget_bytes = device.budget_bytes(configured_bytes)
            return MemoryMeasured(budget_bytes, device.held_bytes, ceiling_bytes)
        ceiling_bytes = self._machine.ceiling_bytes(configured_bytes, settings.reserve_bytes)
        return MemoryMeasured(self._budget_bytes(held), held.pss_bytes, ceiling_bytes)

    def overhead(self, ready: link.Ready) -> Overhead:
        """The memory that the worker and the front take besides blocks."""
        runs_bytes = ready.fixed_bytes + ready.base_bytes + ready.loading_bytes
        if ready.device_bytes is not None and not ready.device_bytes.is_unified:
            return Overhead(fixed_bytes=runs_bytes, row_bytes=ready.row_bytes)
        front = self._footprint()
        kept = kept_bytes(self._config, self._budget_bytes(front + _of(ready)))
        return Overhead(
            fixed_bytes=front.pss_bytes + runs_bytes + _GROWTH_BYTES + kept,
            staging_bytes=ready.staging_bytes + ready.decoding_bytes,
            row_bytes=ready.row_bytes,
        )

    def host(self, account: Account) -> Account:
        """The account that what clients send is part of, from the scheduler's."""
        if self._host is None:
            return account
        budget_bytes, taken_bytes = self._host
        return replace(account, budget=budget_bytes, total=taken_bytes, unexplained=taken_bytes)

    def _footprint(self) -> Footprint:
        return footprint(proc=self._machine.proc)

    def _budget_bytes(self, held: Footprint) -> int:
        settings = self._config.memory
        return self._machine.budget_bytes(settings.budget_bytes, settings.reserve_bytes, held)


def _of(worker: link.WorkerMemory | link.Ready) -> Footprint:
    """What the worker holds of the machine's memory."""
    device: DeviceBytes | None = worker.device_bytes
    shared_bytes = device.held_bytes if device is not None and device.is_unified else 0
    return Footprint(worker.pss_bytes + shared_bytes, worker.private_bytes + shared_bytes)

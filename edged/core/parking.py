"""Keeps the requests and what is on the device in step.

Requests whose models are not there are parked in the queue until they are; those that can never
be served, or whose load has failed, are named for refusal. Owns the device's memory and the asks;
the queue and the jobs are the scheduler's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from edged.core.costs import CostModel
from edged.core.events import (
    BlockLoaded,
    BlockLoadFailed,
    BlockUnloaded,
    Calibrated,
    Command,
    DeviceDown,
    DeviceUp,
    Library,
    LoadAsked,
    MemoryMeasured,
    PinAsked,
    Settled,
    UnloadAsked,
)
from edged.core.requests.job import Job, Stage
from edged.core.requests.waiting import WaitingQueue
from edged.core.residency.administrator import Asks
from edged.core.residency.memory import DeviceMemory, too_many_rows_now
from edged.core.settings import Memory
from edged.errors import Code


class Refusal(NamedTuple):
    """A waiting request that cannot be served, and why."""

    rid: int
    code: Code
    message: str
    retry_after_s: float | None = None


class Supply:
    """What is on the device, as the requests that need it see it."""

    def __init__(self, settings: Memory, max_batch_rows: int, waiting: WaitingQueue) -> None:
        self.memory = DeviceMemory(settings, max_batch_rows)
        self._asks = Asks(self.memory)
        self._waiting = waiting
        self._draining = False

    def handle(
        self, event: Any, now: float, jobs: Collection[Job], commands: list[Command]
    ) -> list[Refusal]:
        """Take in an event of TO_MEMORY or TO_ASKS."""
        if type(event) in TO_MEMORY:
            TO_MEMORY[type(event)](self.memory, event, now)
        else:
            commands += TO_ASKS[type(event)](self._asks, event)
        if self._draining:
            commands += self._asks.give_up(Code.UNAVAILABLE, "the daemon is shutting down")
        refusals = self._follow(now, jobs)
        commands += self._asks.settle(now)
        return refusals

    @property
    def is_asked(self) -> bool:
        """Whether an administrator waits for something."""
        return len(self._asks) > 0

    def settle(self, now: float) -> list[Settled]:
        """What was asked and has come about, or cannot any more."""
        return self._asks.settle(now)

    def decide(self, costs: CostModel, backlog_s: float, now: float) -> list[Command]:
        """What to load and unload now; asked after every event while memory is tight."""
        commands = self.memory.decide(costs, backlog_s, now)
        self._move_shelves()
        commands += self._asks.settle(now)
        return commands

    def drain(self) -> list[Settled]:
        """Nothing more is asked for than what accepted requests need."""
        self._draining = True
        return self._asks.give_up(Code.UNAVAILABLE, "the daemon is shutting down")

    def _follow(self, now: float, jobs: Collection[Job]) -> list[Refusal]:
        was_tight = self.memory.tight
        self.memory.refresh()
        if self.memory.tight and not was_tight:
            self._give_needs(jobs)
        self._move_shelves()
        refusals = [
            Refusal(rid, *verdict)
            for need, verdict in self.memory.doomed(now)
            for rid in need.arrived_s
        ]
        if not self.memory.has_whole_batches:
            most_rows = self.memory.ledger.batch_rows
            named = {refusal.rid for refusal in refusals}
            refusals += [
                Refusal(job.request.rid, *too_many_rows_now(most_rows))
                for job in self._waiting
                if job.request.rows > most_rows and job.request.rid not in named
            ]
        return refusals

    def _give_needs(self, jobs: Collection[Job]) -> None:
        """From here on it counts what each request needs; before, everything was there for good."""
        for job in jobs:
            if job.need is None:
                need = self.memory.need(job.request)
                need.open += 1
                if job.stage is Stage.WAITING:
                    self._waiting.shelve(job, need)
                else:
                    job.need = need
                    need.in_use += 1

    def _move_shelves(self) -> None:
        moved, self.memory.residency.moved = self.memory.residency.moved, []
        for need in moved:
            if need.missing:
                self._waiting.park(need)
            else:
                self._waiting.unpark(need)


TO_MEMORY: dict[type, Callable[[DeviceMemory, Any, float], None]] = {
    Library: DeviceMemory.on_library,
    DeviceUp: DeviceMemory.on_device_up,
    DeviceDown: DeviceMemory.on_device_down,
    BlockLoaded: DeviceMemory.on_loaded,
    BlockLoadFailed: DeviceMemory.on_failed,
    BlockUnloaded: DeviceMemory.on_unloaded,
    Calibrated: DeviceMemory.on_calibrated,
    MemoryMeasured: DeviceMemory.on_measured,
}
TO_ASKS: dict[type, Callable[[Asks, Any], list[Settled]]] = {
    LoadAsked: Asks.load,
    UnloadAsked: Asks.unload,
    PinAsked: Asks.pin,
}

"""Counts what comes to the device, runs and leaves, by block, and who found a model there. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edged.core.events import (
    Arrived,
    BlockLoaded,
    BlockLoadFailed,
    Command,
    DeviceDown,
    DeviceUp,
    Event,
    Library,
    Unload,
)
from edged.link.messages import BlockRun
from edged.manifest import Manifest
from edged.observe.metrics import AGES_S, BlockMetrics, LoadMetrics

_LONGEST_US = 10**15  # no honest worker reports a longer run of a block


class BlockCounters:
    """Owns the numbers. An observer; `ran` is told of what it cannot see in events."""

    def __init__(self, models: Mapping[str, Manifest]) -> None:
        """`models`: all versions, by the keys that the scheduler knows them by."""
        self._models = models
        self.metrics = LoadMetrics()
        self._users: dict[str, list[str]] = {}  # keys of the models of each block
        self._lacking: dict[str, int] = {}  # blocks of each model that are not on the device
        self._loaded_at: dict[str, float] = {}  # of each block that is on the device
        self._on: dict[type, Callable[[Any, float], None]] = {
            Arrived: self._arrived,
            Library: self._library,
            DeviceUp: self._up,
            DeviceDown: self._down,
            BlockLoaded: self._loaded,
            BlockLoadFailed: self._load_failed,
        }

    @property
    def tasks(self) -> Iterable[str]:
        """Tasks that can be asked for, or still have requests of an older version of the store."""
        return self.metrics.hits

    def turn(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        note = self._on.get(type(event))
        if note is not None:
            note(event, now)
        for command in commands:
            if type(command) is Unload:
                self._unloaded(command, now)

    def ran(self, runs: Iterable[BlockRun]) -> None:
        """What each block of a batch took, as the worker says."""
        blocks = self.metrics.blocks
        for run in runs:
            block = blocks.get(run.block)
            if block is not None and 0 <= run.us <= _LONGEST_US and run.rows >= 0:
                block.runs += 1
                block.rows += run.rows
                block.run_s += run.us / 1e6

    def _arrived(self, event: Arrived, now: float) -> None:
        for part in event.request.parts:
            for key in part.models:
                counts = self.metrics.misses if self._lacking[key] else self.metrics.hits
                counts[self._models[key].task] += 1

    def _library(self, library: Library, now: float) -> None:
        """A block that left the store is on the device until it is unloaded, but not counted."""
        metrics = self.metrics
        # A version may have been forgotten since this library was told; the next one says so.
        known = (model.name for model in library.models if model.name in self._models)
        tasks = sorted({self._models[name].task for name in known})
        metrics.hits = {task: metrics.hits.get(task, 0) for task in tasks}
        metrics.misses = {task: metrics.misses.get(task, 0) for task in tasks}
        self._users = {}
        for model in library.models:
            for id in model.blocks:
                self._users.setdefault(id, []).append(model.name)
        metrics.blocks = {id: metrics.blocks.get(id) or BlockMetrics() for id in self._users}
        for id, users in self._users.items():
            metrics.blocks[id].models = len(users)
        self._lacking = {
            model.name: sum(id not in self._loaded_at for id in model.blocks)
            for model in library.models
        }

    def _up(self, event: DeviceUp, now: float) -> None:
        for held in event.resident:
            self._came(held.block, held.bytes, now)

    def _down(self, event: DeviceDown, now: float) -> None:
        for id in list(self._loaded_at):
            self._went(id)

    def _loaded(self, event: BlockLoaded, now: float) -> None:
        self.metrics.loaded_bytes += event.bytes
        self._came(event.block, event.bytes, now)
        block = self.metrics.blocks.get(event.block)
        if block is not None:
            block.loads += 1
            block.load_s += event.load_s

    def _load_failed(self, event: BlockLoadFailed, now: float) -> None:
        block = self.metrics.blocks.get(event.block)
        if block is not None:
            block.failed_loads += 1

    def _unloaded(self, command: Unload, now: float) -> None:
        age_s = now - self._loaded_at[command.block]
        self.metrics.eviction_age_s.add(age_s, AGES_S)
        block = self.metrics.blocks.get(command.block)
        if block is not None:
            block.evictions += 1
            self.metrics.evicted_bytes += block.resident_bytes
        self._went(command.block)

    def _came(self, id: str, size_bytes: int, now: float) -> None:
        self._loaded_at[id] = now
        for model in self._users.get(id, ()):
            self._lacking[model] -= 1
        if id in self.metrics.blocks:
            self.metrics.blocks[id].resident_bytes = size_bytes

    def _went(self, id: str) -> None:
        del self._loaded_at[id]
        for model in self._users.get(id, ()):
            self._lacking[model] += 1
        if id in self.metrics.blocks:
            self.metrics.blocks[id].resident_bytes = 0

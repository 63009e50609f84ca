"""What metrics are made of: an observer that counts requests, batches and blocks.

The numbers are counted in the front, by its one thread, and become text in another process
(`edged.observe.exporter`): a scrape costs the front what it takes to write a `MetricsSnapshot`.

What is counted is bounded by the store. A task or a block that a reload takes away leaves with its
numbers; nothing is counted by client or by request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import field

from edged.core.events import (
    Answer,
    Arrived,
    BlockLoaded,
    BlockLoadFailed,
    Command,
    DeviceDown,
    DeviceUp,
    Event,
    Library,
    Refuse,
    Run,
    Unload,
)
from edged.link.messages import BlockRun
from edged.manifest import Manifest
from edged.typeinfo import describe
from edged.wire import ServerStatistics

# Upper bounds of the buckets of histograms; above the last one is one bucket more.
SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
TASKS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
AGES_S = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0)

_LONGEST_US = 10**15  # no honest worker reports a longer run of a block


class Distribution(msgspec.Struct, array_like=True):
    """The content of a histogram. `counts` are of single buckets; they do not add up the others."""

    counts: list[int]
    sum: float = 0.0

    def add(self, value: float, bounds: tuple[float, ...]) -> None:
        self.counts[bisect_left(bounds, value)] += 1
        self.sum += value


def _empty(bounds: tuple[float, ...]) -> Distribution:
    return Distribution([0] * (len(bounds) + 1))


def _durations() -> Distribution:
    return _empty(SECONDS)


class TaskMetrics(msgspec.Struct, array_like=True):
    """Requests for one task; one for three tasks counts in all three."""

    answered: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # number of requests, by code
    rows: int = 0  # those of answered requests
    batches: int = 0  # that had a row of the task
    open: int = 0  # requests that have arrived and have no answer
    hits: int = 0  # requests that found all blocks of their model on the device
    misses: int = 0
    # Times of answered requests, in seconds.
    request: Distribution = field(default_factory=_durations)
    queue: Distribution = field(default_factory=_durations)
    prepare: Distribution = field(default_factory=_durations)
    infer: Distribution = field(default_factory=_durations)
    output: Distribution = field(default_factory=_durations)


class BlockMetrics(msgspec.Struct, array_like=True):
    """One block of the store."""

    models: int = 0  # that have it
    resident_bytes: int = 0  # held on the device; 0: it is not there
    loads: int = 0
    load_s: float = 0.0  # the sum of all loads
    failed_loads: int = 0
    evictions: int = 0  # orders to take it off the device
    runs: int = 0
    rows: int = 0  # the sum of all runs
    run_s: float = 0.0


class Counted(msgspec.Struct, array_like=True):
    """All that the observer counts."""

    tasks: dict[str, TaskMetrics] = field(default_factory=dict)
    blocks: dict[str, BlockMetrics] = field(default_factory=dict)  # by id
    batch_rows: Distribution = field(default_factory=lambda: _empty(ROWS))
    batch_tasks: Distribution = field(default_factory=lambda: _empty(TASKS))
    eviction_age_s: Distribution = field(default_factory=lambda: _empty(AGES_S))
    loaded_bytes: int = 0
    evicted_bytes: int = 0


class MetricsSnapshot(msgspec.Struct, array_like=True):
    """All numbers of one scrape."""

    version: str = ""
    server: ServerStatistics = ServerStatistics()
    served_models: int = 0
    unserved_models: int = 0
    rejected: dict[str, int] = field(default_factory=dict)  # requests that were never queued
    memory: dict[str, int] = field(default_factory=dict)  # bytes, by the names of STATISTICS
    counted: Counted = field(default_factory=Counted)


class Metrics:
    """Owns the numbers. An observer; `ran` is told of what it cannot see in events."""

    def __init__(self, models: Mapping[str, Manifest]) -> None:
        """`models`: all versions, by the keys that the scheduler knows them by."""
        self._models = models
        self.counted = Counted()
        self._requests: dict[int, tuple[int, list[TaskMetrics]]] = {}  # rows and tasks of open ones
        self._users: dict[str, list[str]] = {}  # keys of the models of each block
        self._lacking: dict[str, int] = {}  # blocks of each model that are not on the device
        self._loaded_at: dict[str, float] = {}  # of each block that is on the device
        self._on: dict[type, Callable[[Any, float], None]] = {
            Arrived: self._arrived,
            Run: self._ran,
            Answer: self._answered,
            Refuse: self._refused,
            Library: self._library,
            DeviceUp: self._up,
            DeviceDown: self._down,
            BlockLoaded: self._loaded,
            BlockLoadFailed: self._load_failed,
            Unload: self._unloaded,
        }

    def turn(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        note = self._on.get(type(event))
        if note is not None:
            note(event, now)
        for command in commands:
            note = self._on.get(type(command))
            if note is not None:
                note(command, now)

    def ran(self, runs: Iterable[BlockRun]) -> None:
        """What each block of a batch took, as the worker says."""
        blocks = self.counted.blocks
        for run in runs:
            block = blocks.get(run.block)
            if block is not None and 0 <= run.us <= _LONGEST_US and run.rows >= 0:
                block.runs += 1
                block.rows += run.rows
                block.run_s += run.us / 1e6

    # --- requests -------------------------------------------------------------------------------

    def _arrived(self, event: Arrived, now: float) -> None:
        request, tasks = event.request, []
        for part in request.parts:
            for key in part.models:
                task = self.counted.tasks[self._models[key].task]
                task.open += 1
                if self._lacking[key]:
                    task.misses += 1
                else:
                    task.hits += 1
                tasks.append(task)
        self._requests[request.rid] = request.rows, tasks

    def _ran(self, run: Run, now: float) -> None:
        models = self._models
        tasks = {models[key].task for member in run.members for key in member.models}
        self.counted.batch_rows.add(run.rows, ROWS)
        self.counted.batch_tasks.add(len(tasks), TASKS)
        for name in tasks:
            self.counted.tasks[name].batches += 1

    def _answered(self, answer: Answer, now: float) -> None:
        rows, tasks = self._requests.pop(answer.rid)
        total_s = answer.queue_s + answer.prepare_s + answer.infer_s + answer.output_s
        for task in tasks:
            task.open -= 1
            task.answered += 1
            task.rows += rows
            task.request.add(total_s, SECONDS)
            task.queue.add(answer.queue_s, SECONDS)
            task.prepare.add(answer.prepare_s, SECONDS)
            task.infer.add(answer.infer_s, SECONDS)
            task.output.add(answer.output_s, SECONDS)

    def _refused(self, refusal: Refuse, now: float) -> None:
        _, tasks = self._requests.pop(refusal.rid)
        code = refusal.code.value
        for task in tasks:
            task.open -= 1
            task.refused[code] = task.refused.get(code, 0) + 1

    # --- blocks ---------------------------------------------------------------------------------

    def _library(self, library: Library, now: float) -> None:
        """A block that left the store is on the device until it is unloaded, but not counted."""
        counted = self.counted
        names = sorted({self._models[model.name].task for model in library.models})
        counted.tasks = {name: counted.tasks.get(name) or TaskMetrics() for name in names}
        self._users = {}
        for model in library.models:
            for block in model.blocks:
                self._users.setdefault(block, []).append(model.name)
        counted.blocks = {id: counted.blocks.get(id) or BlockMetrics() for id in self._users}
        for id, users in self._users.items():
            counted.blocks[id].models = len(users)
        self._lacking = {
            model.name: sum(block not in self._loaded_at for block in model.blocks)
            for model in library.models
        }

    def _up(self, event: DeviceUp, now: float) -> None:
        for held in event.resident:
            self._came(held.block, held.bytes, now)

    def _down(self, event: DeviceDown, now: float) -> None:
        for block in list(self._loaded_at):
            self._went(block)

    def _loaded(self, event: BlockLoaded, now: float) -> None:
        self.counted.loaded_bytes += event.bytes
        self._came(event.block, event.bytes, now)
        block = self.counted.blocks.get(event.block)
        if block is not None:
            block.loads += 1
            block.load_s += event.load_s

    def _load_failed(self, event: BlockLoadFailed, now: float) -> None:
        block = self.counted.blocks.get(event.block)
        if block is not None:
            block.failed_loads += 1

    def _unloaded(self, command: Unload, now: float) -> None:
        age_s = now - self._loaded_at[command.block]
        self.counted.eviction_age_s.add(age_s, AGES_S)
        block = self.counted.blocks.get(command.block)
        if block is not None:
            block.evictions += 1
            self.counted.evicted_bytes += block.resident_bytes
        self._went(command.block)

    def _came(self, id: str, size_bytes: int, now: float) -> None:
        self._loaded_at[id] = now
        for model in self._users.get(id, ()):
            self._lacking[model] -= 1
        if id in self.counted.blocks:
            self.counted.blocks[id].resident_bytes = size_bytes

    def _went(self, id: str) -> None:
        del self._loaded_at[id]
        for model in self._users.get(id, ()):
            self._lacking[model] += 1
        if id in self.counted.blocks:
            self.counted.blocks[id].resident_bytes = 0


describe(MetricsSnapshot)

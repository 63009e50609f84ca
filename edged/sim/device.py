"""A simulated device: preparation workers, lanes and a loader, in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf
from typing import Protocol

from msgspec.structs import replace

from edged.core.costs import interpolate
from edged.core.events import (
    BatchDone,
    BlockCost,
    BlockLoaded,
    BlockUnloaded,
    Calibrate,
    Calibrated,
    Command,
    Event,
    GroupCost,
    Load,
    Member,
    Prepare,
    Prepared,
    Run,
    Unload,
)


class BatchTimes(Protocol):
    """What batches take on one lane, in seconds."""

    def batch_s(self, run: Run) -> float:
        """What this batch takes."""

    def cost(self, group: str) -> GroupCost:
        """What they take of a group, as the daemon measures it."""


@dataclass(frozen=True, slots=True)
class SharedBackbone:
    """A batch runs the backbone once, then one head for each task in it."""

    rows: tuple[int, ...]  # sizes that were measured, ascending
    time_s: tuple[float, ...]  # time of the backbone at these sizes
    head_s: float = 0.0003

    def batch_s(self, run: Run) -> float:
        tasks = {model for member in run.members for model in member.models}
        return interpolate(self.rows, self.time_s, run.rows) + self.head_s * len(tasks)

    def cost(self, group: str) -> GroupCost:
        return GroupCost(group, self.rows, self.time_s)


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """How long things take, in seconds."""

    times: BatchTimes
    prepare_s: float = 0.003
    prepare_workers: int = 8  # 0: each batch prepares its own requests, in no time
    handover_s: float = 0.003  # time between a preparation worker and the device
    network_s: float = 0.005  # both ways together, outside the daemon
    lanes: int = 1  # batches that run side by side
    speed_up: float = 1.0  # a batch that has all lanes is faster by this factor; 1 to `lanes`

    def cost(self, group: str) -> GroupCost:
        """What the daemon measures of batches of a group."""
        cost = self.times.cost(group)
        return cost if self.lanes == 1 else replace(cost, speed_up=self.speed_up)


class SimulatedDevice:
    """Says when each command will be done. Owns the state of the workers, lanes and loader."""

    def __init__(
        self,
        model: DeviceModel,
        blocks: Mapping[str, BlockCost] | None = None,
        groups: Mapping[str, str] | None = None,
    ) -> None:
        """blocks  blocks that can be loaded
        groups  the group of each model that can be measured
        """
        self._model = model
        self._blocks = blocks or {}
        self._groups = groups or {}
        self._workers = [-inf] * model.prepare_workers  # heap: when each is free again
        self._lanes = [-inf] * model.lanes  # heap: when each is free again
        self._loader_free_s = -inf
        self._measured_rows: dict[str, int] = {}  # size of the latest run to measure each model
        self.busy_s = 0.0

    def obey(self, command: Command, now: float) -> tuple[float, Event] | None:
        """When it will report what; None for what needs no report."""
        match command:
            case Prepare() if self._workers:
                at = self._prepared_s(now)
                return at, Prepared(command.rid, at - now)
            case Run():
                return self._run(command, now)
            case Load():
                return self._load(self._blocks[command.block], now)
            case Unload():
                return now, BlockUnloaded(command.block)
            case Calibrate():
                return self._calibrate(command, now)
        return None

    def _prepared_s(self, now: float) -> float:
        """When the rows of a request will be in staging memory; workers serve in order."""
        start = max(now, heapq.heappop(self._workers))
        done = start + self._model.prepare_s
        heapq.heappush(self._workers, done)
        return done + self._model.handover_s

    def _run(self, run: Run, now: float) -> tuple[float, Event]:
        """Batches begin in the order of their Run, when there are lanes free for them.

        One that has the whole device takes as many lanes as it is faster by.
        """
        speed_up = self._model.speed_up if run.wide else 1.0
        took_s = self._model.times.batch_s(run) / speed_up
        taken = [heapq.heappop(self._lanes) for _ in range(ceil(speed_up))]
        done = max(now, taken[-1]) + took_s
        for _ in taken:
            heapq.heappush(self._lanes, done)
        self.busy_s += took_s * len(taken)
        return done, BatchDone(run.batch, took_s, 0.0)

    def _load(self, block: BlockCost, now: float) -> tuple[float, Event]:
        """Blocks are read one after another, beside the batches."""
        self._loader_free_s = max(now, self._loader_free_s) + block.load_s
        return self._loader_free_s, BlockLoaded(block.block, block.bytes, block.load_s)

    def _calibrate(self, command: Calibrate, now: float) -> tuple[float, Event]:
        """One run of twice the rows of the run before; with the largest the model is known."""
        group = self._groups[command.model]
        rows = min(2 * self._measured_rows.get(command.model, 0) or 1, command.rows)
        self._measured_rows[command.model] = rows
        run = Run(0, group, (Member(0, (command.model,)),) * rows, rows)
        is_done = rows == command.rows
        costs = (self._model.cost(group),) if is_done else ()
        done = now + self._model.times.batch_s(run)
        self._lanes = [done] * self._model.lanes  # nothing runs at the same time
        return done, Calibrated(command.model, is_done, costs)

"""A simulated device: preparation workers and a lane that runs batches, in virtual time."""

from __future__ import annotations

import heapq

import msgspec

from edged.core.costs import interpolate
from edged.core.events import BatchDone, Command, Event, GroupCost, Prepare, Prepared, Run
from edged.typeinfo import describe


class DeviceModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long things take, in seconds. A batch runs its shared blocks, then one call a head."""

    rows: tuple[int, ...]  # of the profile, ascending
    time_s: tuple[float, ...]  # of the shared blocks at these rows
    prepare_s: float = 0.003
    prepare_workers: int = 8
    handover_s: float = 0.003  # between a preparation worker and the device
    head_s: float = 0.0003  # of each task present in a batch
    network_s: float = 0.005  # both ways together, outside the daemon

    def cost(self, group: str) -> GroupCost:
        return GroupCost(group, self.rows, self.time_s)


class SimulatedDevice:
    """Says when what it is told to do will be done. Owns the state of the workers."""

    def __init__(self, model: DeviceModel) -> None:
        self._model = model
        self._workers = [0.0] * model.prepare_workers  # heap: when each is free again
        self.busy_s = 0.0

    def obey(self, command: Command, now: float) -> tuple[float, Event] | None:
        """When it will report what; None for what needs no report."""
        if isinstance(command, Prepare):
            at = self._prepared_s(now)
            return at, Prepared(command.rid, at - now)
        if isinstance(command, Run):
            took_s = self._run_s(command)
            self.busy_s += took_s
            return now + took_s, BatchDone(command.batch, took_s, 0.0)
        return None

    def _prepared_s(self, now: float) -> float:
        """When the rows of a request will be in staging memory; workers serve in order."""
        start = max(now, heapq.heappop(self._workers))
        done = start + self._model.prepare_s
        heapq.heappush(self._workers, done)
        return done + self._model.handover_s

    def _run_s(self, command: Run) -> float:
        tasks = {model for member in command.members for model in member.models}
        shared_s = interpolate(self._model.rows, self._model.time_s, command.rows)
        return shared_s + self._model.head_s * len(tasks)


describe(DeviceModel)

"""Seven recordings of the simulator. The same code makes the same ones, byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from edged.core.events import (
    Arrived,
    Command,
    DeviceUp,
    Event,
    GroupCost,
    PaceChanged,
    Request,
    Run,
)
from edged.core.scheduler import Scheduler
from edged.core.settings import MemorySettings, SchedulerSettings
from edged.observe.recording import Recorder
from edged.sim.arrivals import Arrivals, generate
from edged.sim.batching import BatchingForm, Generated, on_backbone
from edged.sim.device import BatchTimes, SimulatedDevice
from edged.sim.engine import Engine
from edged.sim.scenario import Scenario
from edged.sim.simulator import simulate
from tools.bench.partial import Load, with_arrivals

CAPACITY = 16 / 0.10089  # requests/s of SMOOTH's Table II with three heads in each batch of 16

Simulated = Callable[[TextIO], object]
"""Writes a recording."""


def _record(scenario: Scenario, file: TextIO) -> None:
    recorder = Recorder(file, scenario.settings, scenario.memory_settings)
    simulate(scenario, trace=recorder.turn)


def _policy(name: str, kind: str, users: int) -> Simulated:
    def write(file: TextIO) -> None:
        generated = Generated(kind, users=users, requests=400, seed=5)
        _record(BatchingForm("smooth", arrivals=generated).scenario(name), file)

    return write


def overload(file: TextIO) -> None:
    """A flood beside four calm clients: three times what the device carries, with time-outs."""
    flood = generate(
        "bursts", users=1, rate_per_user=2.5 * CAPACITY, requests=2400, tasks=3, seed=1
    )
    calm = [
        generate("poisson", users=1, rate_per_user=CAPACITY / 8, requests=120, tasks=3, seed=10 + i)
        for i in range(4)
    ]
    rows = sorted(
        (at, task, client)
        for client, arrivals in enumerate([flood, *calm])
        for at, task in zip(arrivals.times_s, arrivals.tasks, strict=True)
    )
    settings = SchedulerSettings(queue_rows=64, staging_rows=48, max_batch_rows=16)
    device = BatchingForm("smooth").device(exclusive=False)
    arrivals = Arrivals(*zip(*rows, strict=True))
    _record(on_backbone(arrivals, settings, device, deadline_s=0.5), file)


def partial_loading(file: TextIO) -> None:
    """Fifty models on shared blocks, of which a third fits, with a loader beside the lane."""
    _record(with_arrivals(Load(), 250, seed=0).scenario("partial"), file)


class _AtClocks:
    """The times of a device whose clocks change."""

    def __init__(self, times: BatchTimes) -> None:
        self._times = times
        self.pace = 1.0

    def batch_s(self, run: Run) -> float:
        return self.pace * self._times.batch_s(run)

    def cost(self, group: str) -> GroupCost:
        return self._times.cost(group)


def throttled(file: TextIO) -> None:
    """A device that is half as fast for two seconds, with time-outs that it can just meet."""
    arrivals = generate(
        "poisson", users=4, rate_per_user=CAPACITY / 8, requests=500, tasks=3, seed=7
    )
    settings = SchedulerSettings(max_batch_rows=16)
    device = BatchingForm("smooth").device(exclusive=False)
    times = _AtClocks(device.times)
    scenario = on_backbone(arrivals, settings, replace(device, times=times))
    recorder = Recorder(file, settings, MemorySettings())

    def trace(now: float, event: Event, commands: list[Command]) -> None:
        if isinstance(event, PaceChanged):
            times.pace = event.pace
        recorder.turn(now, event, commands)

    engine = Engine(Scheduler(settings), SimulatedDevice(scenario.device), trace)
    engine.tell(DeviceUp(scenario.known_costs()), 0.0)
    engine.expect(1.0, PaceChanged(2.0))
    engine.expect(3.0, PaceChanged(1.0))
    for rid, at in enumerate(arrivals.times_s):
        engine.advance(at)
        parts = (scenario.parts[arrivals.tasks[rid]],)
        engine.tell(Arrived(Request(rid, 0, parts, deadline_s=at + 0.15)), at)
    engine.finish()


SIMULATED: dict[str, Simulated] = {
    "simulated-work-conserving": _policy("work-conserving", "bursts", users=8),
    "simulated-smooth": _policy("smooth", "bursts", users=9),
    "simulated-smooth-timeout": _policy("smooth-timeout", "lognormal-1.8", users=6),
    "simulated-static": _policy("static:4", "clocks", users=10),
    "simulated-overload": overload,
    "simulated-partial-loading": partial_loading,
    "simulated-throttled": throttled,
}


def write(simulated: Simulated, path: Path) -> Path:
    with path.open("w", encoding="utf-8") as file:
        simulated(file)
    return path

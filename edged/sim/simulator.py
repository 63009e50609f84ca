"""One simulation: a start as the daemon's, the arrivals, and what became of each request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.core.events import (
    Answer,
    Arrived,
    BlockCost,
    Command,
    DeviceUp,
    Event,
    Load,
    MemoryMeasured,
    Refuse,
    Request,
    Run,
)
from edged.core.scheduler import Scheduler
from edged.policies import find
from edged.sim.device import SimulatedDevice
from edged.sim.engine import Engine, Trace
from edged.sim.scenario import Scenario

# Time from the end of the first loads to time 0: longer than the scheduler pauses before it looks
# again, shorter than it waits before it measures.
SPARE_S = 0.05


@dataclass(frozen=True, slots=True)
class LoadingFigures:
    """What the loader did from time 0 on."""

    loads: int  # of blocks
    bytes: int
    busy_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to each request, by its position in the arrivals. Simulated, in seconds.

    The start lies before time 0.
    """

    latency_s: tuple[float | None, ...]  # the network included; None: refused
    answered_s: tuple[float, ...]  # when the daemon answered, ascending
    batches: tuple[int, ...]  # rows of each batch, in the order run
    device_busy_s: float  # sum over all lanes
    end_s: float
    events: int
    loader: LoadingFigures | None = None  # None: nothing is ever loaded

    @property
    def served(self) -> int:
        """Requests answered; an answer after the deadline does not happen."""
        return sum(latency is not None for latency in self.latency_s)

    def summary(self) -> dict[str, float]:
        """Latencies in ms, throughput in requests/s, mean batch in rows, the share refused; and
        where models are loaded, the share served, the loads and the loader's share of the time.

        NaN where nothing was served. The throughput leaves out the first and last tenth.
        """
        served = np.array([s for s in self.latency_s if s is not None]) * 1e3
        quantiles = np.percentile(served, (50, 95, 99)) if served.size else np.full(3, np.nan)
        first, last = served.size // 10, served.size - served.size // 10 - 1
        span_s = self.answered_s[last] - self.answered_s[first] if last > first else np.nan
        figures = {
            "mean": float(served.mean()) if served.size else float("nan"),
            **dict(zip(("p50", "p95", "p99"), map(float, quantiles), strict=True)),
            "max": float(served.max()) if served.size else float("nan"),
            "thr_rps": float((last - first) / span_s) if span_s else float("nan"),
            "mean_batch": float(np.mean(self.batches)) if self.batches else float("nan"),
            "refused": 1.0 - served.size / max(1, len(self.latency_s)),
        }
        if self.loader is not None:
            figures["served"] = self.served / max(1, len(self.latency_s))
            figures["loads"] = self.loader.loads
            figures["loaded_gb"] = self.loader.bytes / 1e9
            figures["loader_busy"] = self.loader.busy_s / self.end_s if self.end_s else 0.0
        return figures


def simulate(scenario: Scenario, *, trace: Trace | None = None) -> Outcome:
    """Run all arrivals to their ends. Raises InvalidArgument for a policy that does not exist."""
    begin_s = 0.0
    if scenario.loaded is not None and scenario.loaded.warm:
        begin_s = -SPARE_S - _Simulation(scenario, None).load_first(0.0)
    return _Simulation(scenario, trace).run(begin_s)


class _Simulation:
    """Owns what becomes of the requests."""

    def __init__(self, scenario: Scenario, trace: Trace | None) -> None:
        self._scenario = scenario
        self._also_trace = trace
        self._requests = len(scenario.arrivals.times_s)
        self._latency_s: list[float | None] = [None] * self._requests
        self._arrived_s = [0.0] * self._requests
        self._answered_s: list[float] = []
        self._batches: list[int] = []
        self._loads: list[BlockCost] = []
        self._blocks = scenario.blocks()
        self._device = SimulatedDevice(scenario.device, self._blocks, scenario.groups())
        settings = scenario.settings
        self._scheduler = Scheduler(settings, scenario.memory_settings, find(settings.policy))
        self._engine = Engine(self._scheduler, self._device, self._trace)

    def run(self, begin_s: float) -> Outcome:
        """Begin with the start, at this time, and end with the last answer."""
        scenario, engine = self._scenario, self._engine
        is_up = scenario.loaded is None or scenario.loaded.warm
        if is_up:
            self.load_first(begin_s)
        else:
            self._tell_library(begin_s)
        for rid, at in enumerate(scenario.arrivals.times_s[: 1 if scenario.closed else None]):
            if at > 0.0 and not is_up:
                engine.tell(self._up(()), 0.0)
                is_up = True
            engine.advance(at)
            engine.tell(self._arrival(rid, at), at)
        if not is_up:
            engine.tell(self._up(()), 0.0)
        engine.finish()
        return self._outcome()

    def load_first(self, begin_s: float) -> float:
        """The device comes up empty at this time, and what fits is loaded: the seconds it takes."""
        self._tell_library(begin_s)
        loaded = self._scenario.loaded
        first = () if loaded is None else tuple(model.name for model in loaded.library.models)
        self._engine.tell(self._up(first), begin_s)
        while self._scheduler.memory().loading is not None:
            self._engine.step()
        return self._engine.now - begin_s

    def _tell_library(self, now: float) -> None:
        loaded = self._scenario.loaded
        if loaded is not None:
            self._engine.tell(loaded.library, now)
            self._engine.tell(MemoryMeasured(loaded.budget_bytes), now)

    def _up(self, first: tuple[str, ...]) -> DeviceUp:
        scenario = self._scenario
        lanes, workers = scenario.device.lanes, scenario.device.prepare_workers
        return DeviceUp(scenario.known_costs(), lanes, preparers=workers or None, first=first)

    def _arrival(self, rid: int, at: float) -> Arrived:
        scenario = self._scenario
        self._arrived_s[rid] = at
        clients = scenario.arrivals.clients
        request = Request(
            rid,
            clients[rid] if clients else 0,
            (scenario.parts[scenario.arrivals.tasks[rid]],),
            deadline_s=None if scenario.deadline_s is None else at + scenario.deadline_s,
            inline=not scenario.device.prepare_workers,
        )
        return Arrived(request)

    def _trace(self, now: float, event: Event, commands: list[Command]) -> None:
        if self._also_trace is not None:
            self._also_trace(now, event, commands)
        for command in commands:
            if isinstance(command, Run):
                self._batches.append(command.rows)
            elif isinstance(command, Load) and now >= 0.0:
                self._loads.append(self._blocks[command.block])
            elif isinstance(command, Answer):
                took_s = now - self._arrived_s[command.rid] + self._scenario.device.network_s
                self._latency_s[command.rid] = took_s
                self._answered_s.append(now)
            if isinstance(command, Answer | Refuse) and self._scenario.closed:
                following = command.rid + 1
                if following < self._requests:
                    self._engine.expect(now, self._arrival(following, now))

    def _outcome(self) -> Outcome:
        loads = self._loads
        loader = LoadingFigures(
            len(loads), sum(block.bytes for block in loads), sum(block.load_s for block in loads)
        )
        return Outcome(
            tuple(self._latency_s),
            tuple(self._answered_s),
            tuple(self._batches),
            self._device.busy_s,
            self._engine.now,
            self._engine.events,
            None if self._scenario.loaded is None else loader,
        )

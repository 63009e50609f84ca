"""Batching in virtual time: arrivals, the daemon's scheduler, and what became of each request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.core.events import (
    Answer,
    Arrived,
    Command,
    DeviceUp,
    Event,
    Part,
    Request,
    Run,
)
from edged.core.scheduler import Scheduler
from edged.core.settings import SchedulerSettings
from edged.policies import find
from edged.sim.arrivals import Arrivals
from edged.sim.device import DeviceModel, SimulatedDevice
from edged.sim.engine import Engine, Trace

GROUP = "backbone"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened to each request, by its position in the arrivals. Simulated, in seconds."""

    latency_s: tuple[float | None, ...]  # the network included; None: refused
    answered_s: tuple[float, ...]  # when the daemon answered, ascending
    batches: tuple[int, ...]  # rows of each batch, in the order run
    device_busy_s: float
    events: int

    def summary(self) -> dict[str, float]:
        """Latencies in ms, throughput in requests/s, mean batch in rows, the share refused.

        NaN where nothing was served. The throughput leaves out the first and last tenth.
        """
        served = np.array([s for s in self.latency_s if s is not None]) * 1e3
        quantiles = np.percentile(served, (50, 95, 99)) if served.size else np.full(3, np.nan)
        first, last = served.size // 10, served.size - served.size // 10 - 1
        span_s = self.answered_s[last] - self.answered_s[first] if last > first else np.nan
        return {
            "mean": float(served.mean()) if served.size else float("nan"),
            **dict(zip(("p50", "p95", "p99"), map(float, quantiles), strict=True)),
            "max": float(served.max()) if served.size else float("nan"),
            "thr_rps": float((last - first) / span_s) if span_s else float("nan"),
            "mean_batch": float(np.mean(self.batches)) if self.batches else float("nan"),
            "refused": 1.0 - served.size / max(1, len(self.latency_s)),
        }


def simulate(
    arrivals: Arrivals,
    settings: SchedulerSettings,
    model: DeviceModel,
    *,
    deadline_s: float | None = None,
    trace: Trace | None = None,
) -> Outcome:
    """Run all arrivals to their ends. The same arguments give the same outcome, bit for bit."""
    return _Simulation(arrivals, settings, model, deadline_s, trace).run()


class _Simulation:
    def __init__(
        self,
        arrivals: Arrivals,
        settings: SchedulerSettings,
        model: DeviceModel,
        deadline_s: float | None,
        trace: Trace | None,
    ) -> None:
        self._arrivals = arrivals
        self._deadline_s = deadline_s
        self._also_trace = trace
        self._network_s = model.network_s
        self._device = SimulatedDevice(model)
        scheduler = Scheduler(settings, policy=find(settings.policy))
        self._engine = Engine(scheduler, self._device, self._trace)
        self._up = DeviceUp((model.cost(GROUP),), preparers=model.prepare_workers)
        self._latency_s: list[float | None] = [None] * len(arrivals.times_s)
        self._answered_s: list[float] = []
        self._batches: list[int] = []

    def run(self) -> Outcome:
        engine = self._engine
        engine.tell(self._up, 0.0)
        parts = {task: (Part(GROUP, (f"task-{task}",)),) for task in set(self._arrivals.tasks)}
        clients = self._arrivals.clients or (0,) * len(self._arrivals.times_s)
        each = zip(self._arrivals.times_s, self._arrivals.tasks, clients, strict=True)
        for rid, (at, task, client) in enumerate(each):
            engine.advance(at)
            deadline_s = None if self._deadline_s is None else at + self._deadline_s
            engine.tell(Arrived(Request(rid, client, parts[task], deadline_s=deadline_s)), at)
        engine.finish()
        return Outcome(
            tuple(self._latency_s),
            tuple(self._answered_s),
            tuple(self._batches),
            self._device.busy_s,
            engine.events,
        )

    def _trace(self, now: float, event: Event, commands: list[Command]) -> None:
        if self._also_trace is not None:
            self._also_trace(now, event, commands)
        for command in commands:
            if isinstance(command, Run):
                self._batches.append(command.rows)
            elif isinstance(command, Answer):
                arrived_s = self._arrivals.times_s[command.rid]
                self._latency_s[command.rid] = now - arrived_s + self._network_s
                self._answered_s.append(now)

"""The event loop of the simulator: the daemon's scheduler, a simulated device, a virtual clock."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edged.core.events import (
    Answer,
    Arrived,
    BatchDone,
    Command,
    DeviceUp,
    DrainAsked,
    Event,
    Part,
    Prepare,
    Prepared,
    Request,
    Run,
    Woke,
)
from edged.core.scheduler import Scheduler
from edged.core.settings import Settings
from edged.sim.arrivals import Arrivals
from edged.sim.device import DeviceModel, SimulatedDevice

GROUP = "backbone"

Trace = Callable[[float, Event, list[Command]], None]
"""Called after each turn, as a recorder is."""


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
    settings: Settings,
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
        settings: Settings,
        model: DeviceModel,
        deadline_s: float | None,
        trace: Trace | None,
    ) -> None:
        self._arrivals = arrivals
        self._deadline_s = deadline_s
        self._trace = trace
        self._network_s = model.network_s
        self._scheduler = Scheduler(settings)
        self._device = SimulatedDevice(model)
        self._cost = model.cost(GROUP)
        self._due: list[tuple[float, int, Event]] = []  # heap of the device's reports
        self._order = 0  # of reports with the same time
        self._events = 0
        self._latency_s: list[float | None] = [None] * len(arrivals.times_s)
        self._answered_s: list[float] = []
        self._batches: list[int] = []
        self._end_s = 0.0

    def run(self) -> Outcome:
        self._tell(DeviceUp((self._cost,)), 0.0)
        parts = {task: (Part(GROUP, (f"task-{task}",)),) for task in set(self._arrivals.tasks)}
        clients = self._arrivals.clients or (0,) * len(self._arrivals.times_s)
        each = zip(self._arrivals.times_s, self._arrivals.tasks, clients, strict=True)
        for rid, (at, task, client) in enumerate(each):
            self._advance(at)
            deadline_s = None if self._deadline_s is None else at + self._deadline_s
            self._tell(Arrived(Request(rid, client, parts[task], deadline_s=deadline_s)), at)
        self._finish()
        return Outcome(
            tuple(self._latency_s),
            tuple(self._answered_s),
            tuple(self._batches),
            self._device.busy_s,
            self._events,
        )

    def _advance(self, until: float) -> None:
        """Everything that happens up to `until`; what the device reports goes before timers."""
        while (at := self._next_at()) is not None and at <= until:
            if self._due and self._due[0][0] == at:
                self._tell(heapq.heappop(self._due)[2], at)
            else:
                self._tell(Woke(), at)

    def _next_at(self) -> float | None:
        due_at = self._due[0][0] if self._due else None
        times = [at for at in (due_at, self._scheduler.wakeup_at()) if at is not None]
        return min(times, default=None)

    def _finish(self) -> None:
        """After the last arrival; a policy that still waits for company is told that none comes."""
        self._run_out()
        self._tell(DrainAsked(), self._end_s)
        self._run_out()

    def _run_out(self) -> None:
        while (at := self._next_at()) is not None:
            self._advance(at)

    def _tell(self, event: Event, now: float) -> None:
        commands = self._scheduler.handle(event, now)
        self._events += 1
        self._end_s = now
        if self._trace is not None:
            self._trace(now, event, commands)
        for command in commands:
            if isinstance(command, Prepare):
                at = self._device.prepare(command, now)
                self._report(at, Prepared(command.rid, at - now))
            elif isinstance(command, Run):
                at = self._device.run(command, now)
                self._batches.append(command.rows)
                self._report(at, BatchDone(command.batch, at - now, 0.0))
            elif isinstance(command, Answer):
                arrived_s = self._arrivals.times_s[command.rid]
                self._latency_s[command.rid] = now - arrived_s + self._network_s
                self._answered_s.append(now)

    def _report(self, at: float, event: Event) -> None:
        self._order += 1
        heapq.heappush(self._due, (at, self._order, event))

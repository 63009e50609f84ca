"""The scheduler itself: decision time against queue length, and the simulator's speed."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from typing import Any

from edged.core.events import Arrived, BatchDone, DeviceUp, Part, Prepare, Prepared, Request, Run
from edged.core.scheduler import Scheduler
from edged.core.settings import SchedulerSettings
from edged.sim.batching import BatchingForm, Generated
from edged.sim.simulator import simulate
from tools.bench.report import emit

SHORT, LONG = 10, 100_000  # requests that wait
CLIENTS = 10


def register(commands: Any) -> None:
    parser = commands.add_parser("scheduler", help="decision time, and events/s of the simulator")
    parser.add_argument("--decisions", type=int, default=20_000, help="timed at each length")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    # The two take turns, so that a change of the machine's speed affects both.
    times: dict[int, list[float]] = {SHORT: [], LONG: []}
    queues = {length: _Queue(length) for length in times}
    for _ in range(10):
        for length, queue in queues.items():
            times[length] += queue.decide(args.decisions // 10)
    medians = {length: statistics.median(of) for length, of in times.items()}
    started = time.perf_counter()
    generated = Generated("poisson", users=12, requests=50_000)
    outcome = simulate(BatchingForm("smooth", arrivals=generated).scenario())
    took_s = time.perf_counter() - started
    emit(
        "scheduler",
        "measured",
        seed=0,
        queued=[SHORT, LONG],
        median_us=[round(medians[length] * 1e6, 2) for length in (SHORT, LONG)],
        p999_us=[round(_quantile(times[length], 0.999) * 1e6, 1) for length in (SHORT, LONG)],
        longest_us=[round(max(times[length]) * 1e6, 1) for length in (SHORT, LONG)],
        ratio=round(medians[LONG] / medians[SHORT], 3),
        simulator_events_per_s=round(outcome.events / took_s),
    )
    return 0


class _Queue:
    """A scheduler that always has `length` requests waiting: each decision serves one batch."""

    def __init__(self, length: int) -> None:
        settings = SchedulerSettings(queue_rows=2 * LONG, staging_rows=8, max_batch_rows=4)
        self._scheduler = Scheduler(settings)
        self._rid = 0
        self._orders: list[Any] = self._tell(DeviceUp())
        for _ in range(length):
            self._orders += self._tell(self._arrival())

    def decide(self, count: int) -> list[float]:
        """The seconds of each of `count` calls, of all kinds of events, at constant length."""
        times: list[float] = []
        gc.disable()
        try:
            while len(times) < count:
                order = self._orders.pop(0)
                if isinstance(order, Prepare):
                    self._time(Prepared(order.rid, 0.0), times)
                elif isinstance(order, Run):
                    self._time(BatchDone(order.batch, 0.0, 0.0), times)
                    for _ in order.members:
                        self._time(self._arrival(), times)
        finally:
            gc.enable()
        return times

    def _arrival(self) -> Arrived:
        self._rid += 1
        part = Part("backbone", (f"task-{self._rid % 5}",))
        client = self._rid % CLIENTS
        return Arrived(Request(self._rid, client, (part,), deadline_s=1e9 + self._rid))

    def _time(self, event: Any, times: list[float]) -> None:
        started = time.perf_counter()
        orders = self._tell(event)
        times.append(time.perf_counter() - started)
        self._orders += orders

    def _tell(self, event: Any) -> list[Any]:
        return list(self._scheduler.handle(event, 0.0))


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[int(q * (len(values) - 1))]

"""Counters of the daemon, by task and by size of batch, as statistics show them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from edged.core.events import Answer, Arrived, BatchDone, Command, Event, Refuse, Request, Run
from edged.manifest import Manifest
from edged.wire import BatchStatistics, Duration, Failures, TaskStatistics

_GROWTH = 1.04  # each bucket of the histogram is so much wider: a quantile is off by 2 % at most
_LOG_GROWTH = math.log(_GROWTH)
_SMALLEST_S = 1e-6


class Quantiles:
    """Durations in buckets that grow geometrically: O(1) to add, a few kilobytes for ever."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0

    def add(self, seconds: float) -> None:
        bucket = math.ceil(math.log(max(seconds, _SMALLEST_S) / _SMALLEST_S) / _LOG_GROWTH)
        self._buckets[bucket] += 1
        self.count += 1

    def at(self, fraction: float) -> float:
        """Seconds that `fraction` of the durations did not exceed; 0.0 when there are none."""
        left = math.ceil(fraction * self.count)
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return _SMALLEST_S * float(_GROWTH ** (bucket - 0.5))
        return 0.0


@dataclass(slots=True)
class _Task:
    rows: int = 0
    batches: int = 0
    open: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    # The sums over all answers.
    queue_s: float = 0.0
    prepare_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
    latency: Quantiles = field(default_factory=Quantiles)


class TaskCounters:
    """Owns the counters. An observer: it counts requests that arrive, run and are answered."""

    def __init__(self, tasks: Iterable[str], models: Mapping[str, Manifest]) -> None:
        """tasks   all that can be asked for, so that each one shows
        models  all versions of models, by the keys that the scheduler knows them by
        """
        self._models = models
        self._tasks: dict[str, _Task] = {}
        self.know(tasks)
        self._requests: dict[int, tuple[Request, list[_Task]]] = {}  # those that are open
        self._batches: Counter[int] = Counter()
        self._mixed: Counter[int] = Counter()
        self.busy_s = 0.0  # time that batches took together
        self.answers = 0

    def know(self, tasks: Iterable[str]) -> None:
        """More that can be asked for; what was counted stays."""
        new = {task: _Task() for task in tasks if task not in self._tasks}
        self._tasks = dict(sorted({**self._tasks, **new}.items()))

    def turn(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if type(event) is Arrived:
            self._arrived(event.request)
        elif type(event) is BatchDone:
            self.busy_s += event.prepare_s + event.infer_s + event.output_s
        for command in commands:
            if type(command) is Run:
                self._ran(command)
            elif type(command) is Answer:
                self._answered(command)
            elif type(command) is Refuse:
                self._refused(command)

    def tasks(self) -> tuple[TaskStatistics, ...]:
        return tuple(_report(name, task) for name, task in self._tasks.items())

    def batches(self) -> tuple[BatchStatistics, ...]:
        return tuple(
            BatchStatistics(rows, count, self._mixed[rows])
            for rows, count in sorted(self._batches.items())
        )

    def _arrived(self, request: Request) -> None:
        tasks = []
        for part in request.parts:
            for key in part.models:
                task = self._tasks[self._models[key].task]
                task.open += 1
                tasks.append(task)
        self._requests[request.rid] = request, tasks

    def _ran(self, run: Run) -> None:
        models, tasks = self._models, set()
        for member in run.members:
            for key in member.models:
                tasks.add(models[key].task)
        self._batches[run.rows] += 1
        self._mixed[run.rows] += len(tasks) > 1
        for name in tasks:
            self._tasks[name].batches += 1

    def _answered(self, answer: Answer) -> None:
        request, tasks = self._requests.pop(answer.rid)
        self.answers += 1
        total_s = answer.queue_s + answer.prepare_s + answer.infer_s + answer.output_s
        for task in tasks:
            task.open -= 1
            task.rows += request.rows
            task.queue_s += answer.queue_s
            task.prepare_s += answer.prepare_s
            task.infer_s += answer.infer_s
            task.output_s += answer.output_s
            task.latency.add(total_s)

    def _refused(self, refusal: Refuse) -> None:
        _, tasks = self._requests.pop(refusal.rid)
        for task in tasks:
            task.open -= 1
            task.failures[refusal.code.value] += 1


def _report(name: str, task: _Task) -> TaskStatistics:
    count = task.latency.count

    def all_together(seconds: float) -> Duration:
        return Duration(count, round(seconds * 1e9))

    return TaskStatistics(
        name=name,
        inference_count=task.rows,
        execution_count=task.batches,
        success=all_together(task.queue_s + task.prepare_s + task.infer_s + task.output_s),
        fail=Failures(task.failures.total(), dict(task.failures)),
        queue=all_together(task.queue_s),
        compute_input=all_together(task.prepare_s),
        compute_infer=all_together(task.infer_s),
        compute_output=all_together(task.output_s),
        latency_us={f"p{q}": round(task.latency.at(q / 100) * 1e6, 1) for q in (50, 90, 99)},
        queued=task.open,
    )

"""Counters of the daemon, by task and by size of batch, and the reply that shows them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from edged.core.events import Answer
from edged.daemon.models.catalog import Resolved
from edged.errors import Code
from edged.wire import BatchStatistics, Duration, Failures, TaskStatistics

_GROWTH = 1.04  # of the histogram's buckets: a quantile is off by 2 % at most
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
    # Seconds of all answers together.
    queue_s: float = 0.0
    prepare_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
    latency: Quantiles = field(default_factory=Quantiles)


class Statistics:
    """Owns the counters; `tasks` are all that can be asked for, so that each one shows."""

    def __init__(self, tasks: Iterable[str]) -> None:
        self._tasks: dict[str, _Task] = {}
        self.know(tasks)
        self._batches: Counter[int] = Counter()
        self._mixed: Counter[int] = Counter()

    def know(self, tasks: Iterable[str]) -> None:
        """More that can be asked for; what was counted stays."""
        new = {task: _Task() for task in tasks if task not in self._tasks}
        self._tasks = dict(sorted({**self._tasks, **new}.items()))

    def arrived(self, tasks: Iterable[str]) -> None:
        for task in tasks:
            self._tasks[task].open += 1

    def answered(self, resolved: Resolved, answer: Answer) -> None:
        total_s = answer.queue_s + answer.prepare_s + answer.infer_s + answer.output_s
        for name in resolved.tasks:
            task = self._tasks[name]
            task.open -= 1
            task.rows += resolved.rows
            task.queue_s += answer.queue_s
            task.prepare_s += answer.prepare_s
            task.infer_s += answer.infer_s
            task.output_s += answer.output_s
            task.latency.add(total_s)

    def refused(self, tasks: Iterable[str], code: Code) -> None:
        for task in map(self._tasks.__getitem__, tasks):
            task.open -= 1
            task.failures[code.value] += 1

    def ran(self, tasks: set[str], rows: int) -> None:
        """A batch has run."""
        self._batches[rows] += 1
        self._mixed[rows] += len(tasks) > 1
        for task in tasks:
            self._tasks[task].batches += 1

    def tasks(self) -> tuple[TaskStatistics, ...]:
        return tuple(_report(name, task) for name, task in self._tasks.items())

    def batches(self) -> tuple[BatchStatistics, ...]:
        return tuple(
            BatchStatistics(rows, count, self._mixed[rows])
            for rows, count in sorted(self._batches.items())
        )


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

"""Counters of the daemon, by task and by size of batch, as statistics show them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edged.core.events import Answer, Arrived, BatchDone, Command, Event, Refuse, Request, Run
from edged.manifest import Manifest
from edged.observe.metrics import (
    ROWS,
    SECONDS,
    TASKS,
    Distribution,
    TaskMetrics,
    distribution,
)
from edged.observe.windows import SPANS_S, History
from edged.wire import (
    BatchStatistics,
    BatchWindow,
    Duration,
    Failures,
    TaskStatistics,
    TaskWindow,
)

_GROWTH = 1.04  # each bucket of the histogram is so much wider: a quantile is off by 2 % at most
_LOG_GROWTH = math.log(_GROWTH)
_SMALLEST_S = 1e-6


class Quantiles:
    """Durations in buckets that grow geometrically: O(1) to add, a few kilobytes for ever."""

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.count = 0

    def add(self, seconds: float) -> None:
        bucket = math.ceil(math.log(max(seconds, _SMALLEST_S) / _SMALLEST_S) / _LOG_GROWTH)
        self.buckets[bucket] += 1
        self.count += 1

    def shown_us(self) -> dict[str, float]:
        """Microseconds that 50, 90 and 99 % of the durations did not exceed, as statistics show
        them; nothing where nothing was added.
        """
        return _shown_us(self.buckets, self.count)


def _shown_us(buckets: Mapping[int, int], count: int) -> dict[str, float]:
    shown: dict[str, float] = {}
    wanted = [(percent, math.ceil(percent / 100 * count)) for percent in (99, 90, 50)]
    below = 0
    for bucket, number in sorted(buckets.items()):
        below += number
        while number and wanted and wanted[-1][1] <= below:
            percent, _ = wanted.pop()
            shown[f"p{percent}"] = round(_SMALLEST_S * _GROWTH ** (bucket - 0.5) * 1e6, 1)
    return shown


class _TaskSums(NamedTuple):
    """Figures of a task that windows show, since the daemon started."""

    answered: int = 0
    failed: int = 0
    rows: int = 0
    latency: Mapping[int, int] = {}  # the buckets of Quantiles


class _BatchSums(NamedTuple):
    batches: int = 0
    rows: int = 0
    mixed: int = 0


class _Sums(NamedTuple):
    tasks: Mapping[str, _TaskSums] = {}
    batches: _BatchSums = _BatchSums()


class _Histograms:
    """Times of answered requests, in the buckets of metrics; their sums are the task's."""

    def __init__(self) -> None:
        self.counts = [[0] * (len(SECONDS) + 1) for _ in range(5)]

    def add(self, answer: Answer, total_s: float) -> None:
        request, queue, prepare, infer, output = self.counts
        request[bisect_left(SECONDS, total_s)] += 1
        queue[bisect_left(SECONDS, answer.queue_s)] += 1
        prepare[bisect_left(SECONDS, answer.prepare_s)] += 1
        infer[bisect_left(SECONDS, answer.infer_s)] += 1
        output[bisect_left(SECONDS, answer.output_s)] += 1


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
    histograms: _Histograms | None = None  # where metrics ask for them

    def sums(self, before: _TaskSums) -> _TaskSums:
        """The sums now; `before` itself where nothing has changed."""
        answered, failed = self.latency.count, self.failures.total()
        if (answered, failed) == (before.answered, before.failed):
            return before
        return _TaskSums(answered, failed, self.rows, self.latency.buckets.copy())

    @property
    def total_s(self) -> float:
        return self.queue_s + self.prepare_s + self.infer_s + self.output_s

    def metrics(self) -> TaskMetrics:
        assert self.histograms is not None, "the counters were not told that metrics are wanted"
        sums = (self.total_s, self.queue_s, self.prepare_s, self.infer_s, self.output_s)
        return TaskMetrics(
            self.latency.count,
            self.failures,
            self.rows,
            self.batches,
            self.open,
            *map(Distribution, self.histograms.counts, sums),
        )


class TaskCounters:
    """Owns the counters. An observer: it counts requests that arrive, run and are answered."""

    def __init__(
        self,
        tasks: Iterable[str],
        models: Mapping[str, Manifest],
        started_at: float,
        *,
        histograms: bool = False,
    ) -> None:
        """tasks       all that can be asked for, so that each one shows
        models      all versions of models, by the keys that the scheduler knows them by
        histograms  whether `metrics` will be asked
        """
        self._models = models
        self._has_histograms = histograms
        self._tasks: dict[str, _Task] = {}
        self.know(tasks)
        self._requests: dict[int, tuple[Request, list[_Task]]] = {}  # those that are open
        self._batches: Counter[int] = Counter()
        self._mixed: Counter[int] = Counter()
        self.busy_s = 0.0  # time that batches took together
        self.answers = 0
        self._sharing: Counter[int] = Counter()  # batches by the number of tasks in them
        self._kept = _Sums()  # as they were kept last
        self._histories = [History(span_s, started_at, self._kept) for span_s in SPANS_S]
        self._keep_at = min(history.due_at for history in self._histories)

    def know(self, tasks: Iterable[str]) -> None:
        """More that can be asked for; what was counted stays."""
        new = {task: self._new_task() for task in tasks if task not in self._tasks}
        self._tasks = dict(sorted({**self._tasks, **new}.items()))

    def _new_task(self) -> _Task:
        return _Task(histograms=_Histograms() if self._has_histograms else None)

    def turn(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if now >= self._keep_at:
            self._keep(now)
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

    def tasks(self, now: float) -> tuple[TaskStatistics, ...]:
        if now >= self._keep_at:
            self._keep(now)
        return tuple(
            _report(name, task, self._windows(name, task, now))
            for name, task in self._tasks.items()
        )

    def batches(self) -> tuple[BatchStatistics, ...]:
        return tuple(
            BatchStatistics(rows, count, self._mixed[rows])
            for rows, count in sorted(self._batches.items())
        )

    def batch_windows(self, now: float) -> tuple[BatchWindow, ...]:
        if now >= self._keep_at:
            self._keep(now)
        sums, windows = self._batch_sums(), []
        for history in self._histories:
            seconds, before = history.since(now)
            added = (a - b for a, b in zip(sums, before.batches, strict=True))
            windows.append(BatchWindow(history.span_s, round(seconds, 3), *added))
        return tuple(windows)

    def metrics(self, tasks: Iterable[str]) -> dict[str, TaskMetrics]:
        """Of these tasks."""
        return {name: self._tasks[name].metrics() for name in tasks if name in self._tasks}

    def batch_rows(self) -> Distribution:
        """Batches by the number of their rows."""
        return distribution(ROWS, self._batches.items())

    def batch_tasks(self) -> Distribution:
        """Batches by the number of tasks that share them."""
        return distribution(TASKS, self._sharing.items())

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
        self._sharing[len(tasks)] += 1
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
            if task.histograms is not None:
                task.histograms.add(answer, total_s)

    def _refused(self, refusal: Refuse) -> None:
        _, tasks = self._requests.pop(refusal.rid)
        for task in tasks:
            task.open -= 1
            task.failures[refusal.code.value] += 1

    # --- windows --------------------------------------------------------------------------------

    def _keep(self, now: float) -> None:
        """Keep the sums for windows, before they change."""
        tasks = {
            name: task.sums(self._kept.tasks.get(name, _NOTHING))
            for name, task in self._tasks.items()
        }
        self._kept = _Sums(tasks, self._batch_sums())
        for history in self._histories:
            if now >= history.due_at:
                history.keep(now, self._kept)
        self._keep_at = min(history.due_at for history in self._histories)

    def _batch_sums(self) -> _BatchSums:
        rows = sum(rows * count for rows, count in self._batches.items())
        return _BatchSums(self._batches.total(), rows, self._mixed.total())

    def _windows(self, name: str, task: _Task, now: float) -> tuple[TaskWindow, ...]:
        windows = []
        for history in self._histories:
            seconds, sums = history.since(now)
            before = sums.tasks.get(name, _NOTHING)
            answered, old = task.latency.count - before.answered, before.latency
            buckets = task.latency.buckets if answered else {}
            added = {bucket: count - old.get(bucket, 0) for bucket, count in buckets.items()}
            windows.append(
                TaskWindow(
                    history.span_s,
                    round(seconds, 3),
                    answered,
                    task.failures.total() - before.failed,
                    task.rows - before.rows,
                    _shown_us(added, answered),
                )
            )
        return tuple(windows)


_NOTHING = _TaskSums()


def _report(name: str, task: _Task, windows: tuple[TaskWindow, ...]) -> TaskStatistics:
    count = task.latency.count

    def all_together(seconds: float) -> Duration:
        return Duration(count, round(seconds * 1e9))

    return TaskStatistics(
        name=name,
        inference_count=task.rows,
        execution_count=task.batches,
        success=all_together(task.total_s),
        fail=Failures(task.failures.total(), dict(task.failures)),
        queue=all_together(task.queue_s),
        compute_input=all_together(task.prepare_s),
        compute_infer=all_together(task.infer_s),
        compute_output=all_together(task.output_s),
        latency_us=task.latency.shown_us(),
        queued=task.open,
        windows=windows,
    )

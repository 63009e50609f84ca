"""The demo's results as frozen values, as a table for people and as JSON for programs. No I/O.

The accuracy of a task is top-1, or top-5 if there are too few images for that (imagenet).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median_high

import msgspec

from edged.cli.console import show_bytes, table
from edged.manifest import Manifest
from edged.wire import BatchStatistics
from tools.demo.data import HeldOut
from tools.demo.load import DEVICES, IN_FLIGHT, Answer

TOP = {"imagenet": 5}


class Task(msgspec.Struct, frozen=True):
    """One task, served by the daemon. Latencies are those that the client saw, under load."""

    name: str
    images: int  # held-out images
    top: int  # how many of the best classes count: top-1 or top-5
    right: int  # images that the daemon classified right
    right_uncut: int  # images that the uncut model in ONNX Runtime classified right
    unlike_uncut: int  # images where the daemon and the uncut model name different classes
    requests: int  # requests for the task, with its own images or with others
    p50_ms: float
    p99_ms: float
    batch_rows: dict[int, int]  # requests by the rows of the largest batch that they were in
    shared_bytes: int  # bytes of its blocks that other models have too
    own_bytes: int

    @property
    def accuracy(self) -> float:
        return self.right / self.images


class Summary(msgspec.Struct, frozen=True):
    """The results of a run."""

    tasks: tuple[Task, ...]
    seconds: float  # time between the first request and the last answer
    requests: int
    requests_for_all: int  # requests for every task at once
    batches: int
    mixed_batches: int  # batches with rows of several tasks
    block_bytes: int  # bytes of the store's blocks
    whole_bytes: int  # bytes of the same models, uncut

    @property
    def agrees(self) -> bool:
        """Whether every image was answered as the uncut models answer it."""
        return not any(task.unlike_uncut for task in self.tasks)


def summarize(
    answers: Sequence[Answer],
    uncut: Mapping[HeldOut, tuple[str, ...]],
    batches: Iterable[BatchStatistics],
    models: Mapping[str, Manifest],
    block_bytes: Mapping[str, int],
    seconds: float,
) -> Summary:
    """The results of a run: `answers` has all images, `uncut` the classes by uncut models."""
    batches = tuple(batches)
    for_all = [answer for answer in answers if answer.tasks > 1]
    used = {block for model in models.values() for block in _blocks(model)}
    return Summary(
        tasks=tuple(
            _task(task, answers, uncut, models, block_bytes)
            for task in dict.fromkeys(image.task for image in uncut)
        ),
        seconds=seconds,
        requests=len(answers),
        requests_for_all=len(for_all),
        batches=sum(batch.count for batch in batches),
        mixed_batches=sum(batch.mixed for batch in batches),
        block_bytes=sum(block_bytes[block] for block in used),
        whole_bytes=sum(model.whole_bytes for model in models.values()),
    )


def _task(
    name: str,
    all_answers: Sequence[Answer],
    uncut: Mapping[HeldOut, tuple[str, ...]],
    models: Mapping[str, Manifest],
    block_bytes: Mapping[str, int],
) -> Task:
    answers = [answer for answer in all_answers if answer.image.task == name]
    others = [answer for answer in all_answers if answer.tasks > 1 and answer.image.task != name]
    top = TOP.get(name, 1)
    round_trips_ms = sorted(answer.round_trip_s * 1e3 for answer in answers)
    users = Counter(block for model in models.values() for block in _blocks(model))
    (mine,) = (model for model in models.values() if model.task == name)
    return Task(
        name=name,
        images=len(answers),
        top=top,
        right=sum(answer.image.label in answer.classes[:top] for answer in answers),
        right_uncut=sum(answer.image.label in uncut[answer.image][:top] for answer in answers),
        unlike_uncut=sum(_differ(answer, uncut[answer.image], top) for answer in answers),
        requests=len(answers) + len(others),
        p50_ms=median_high(round_trips_ms),
        p99_ms=round_trips_ms[len(round_trips_ms) * 99 // 100],
        batch_rows=dict(sorted(Counter(answer.batch_rows for answer in answers).items())),
        shared_bytes=sum(block_bytes[b] for b in _blocks(mine) if users[b] > 1),
        own_bytes=sum(block_bytes[b] for b in _blocks(mine) if users[b] == 1),
    )


def render(summary: Summary) -> str:
    """The table, and sentences for the figures that are not in it."""
    headers = (
        "task", "held-out accuracy", "images", "uncut model", "requests", "p50 ms", "p99 ms",
        "rows a batch", "shared", "its own",
    )  # fmt: skip
    return "\n".join(
        [
            table(headers, [_row(task) for task in summary.tasks]),
            "",
            f"{DEVICES} clients, each with {IN_FLIGHT} requests in flight: {summary.requests} in "
            f"{summary.seconds:.1f} s, {summary.requests_for_all} of them for all "
            f"{len(summary.tasks)} tasks at once.",
            f"{summary.batches} batches, {summary.mixed_batches} with rows of several tasks.",
            f"The {len(summary.tasks)} models take {show_bytes(summary.block_bytes)} as blocks, "
            f"{show_bytes(summary.whole_bytes)} as whole models.",
            _verdict(summary),
        ]
    )


def _differ(answer: Answer, uncut: tuple[str, ...], top: int) -> bool:
    """Whether the best classes differ, or only one of the two answers is right.

    Lower ranks are not compared: rounding may swap two classes that score the same.
    """
    label = answer.image.label
    return answer.classes[0] != uncut[0] or (
        (label in answer.classes[:top]) != (label in uncut[:top])
    )


def _row(task: Task) -> tuple[str, ...]:
    rows = task.batch_rows.keys()
    return (
        task.name,
        f"{task.accuracy:.3f}" + (f" (top {task.top})" if task.top > 1 else ""),
        str(task.images),
        "the same" if not task.unlike_uncut else f"{task.unlike_uncut} differ",
        str(task.requests),
        f"{task.p50_ms:.1f}",
        f"{task.p99_ms:.1f}",
        f"{min(rows)} to {max(rows)}" if len(rows) > 1 else f"{max(rows)}",
        show_bytes(task.shared_bytes),
        show_bytes(task.own_bytes),
    )


def _verdict(summary: Summary) -> str:
    images = sum(task.images for task in summary.tasks)
    if summary.agrees:
        return f"All {images} images are classified as the uncut models in ONNX Runtime do it."
    differ = sum(task.unlike_uncut for task in summary.tasks)
    return f"FAILED: {differ} of {images} images are classified unlike the uncut models do it."


def _blocks(model: Manifest) -> set[str]:
    return {step.block for step in model.steps}

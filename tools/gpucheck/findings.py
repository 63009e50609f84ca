"""The findings of a check of a GPU, and its settings. Values only: no device, no files."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Point(msgspec.Struct, frozen=True):
    """Bare forward passes of one uncut model on rows that are on the device already."""

    rows: int
    eager_ms: float
    graph_ms: float | None  # time as a replayed CUDA graph; None if that is not possible

    @property
    def images_per_s(self) -> float:
        """The images a second of the faster of the two."""
        best_ms = self.eager_ms if self.graph_ms is None else min(self.eager_ms, self.graph_ms)
        return self.rows / best_ms * 1e3


class Whole(msgspec.Struct, frozen=True):
    """Three uncut models in one process."""

    curve: tuple[Point, ...]
    alone_per_s: float  # images a second, one at a time, through the three models in turn


class Served(msgspec.Struct, frozen=True):
    """The daemon under a load that keeps it busy."""

    images_per_s: float
    mean_rows: float  # mean rows of its batches
    mixed: float  # the share of batches with more than one task
    unanswered: int
    refused: dict[str, int]


class Memory(msgspec.Struct, frozen=True):
    """Bytes of the device that a process takes beyond what was taken before."""

    nothing: int  # a process that has only begun to use the device
    whole: int  # one with three uncut models, after the largest batch of each
    daemon: int  # edged, after the same batches


class Conformance(msgspec.Struct, frozen=True):
    """The results of the conformance suite of all backends."""

    passed: int
    failed: int
    skipped: int


class Findings(msgspec.Struct, frozen=True):
    label: str  # "measured", or "dry run, cpu"
    device: str
    versions: dict[str, str]
    machine: str
    date: str
    command: str
    seed: int
    model: str
    side: int  # side of the images in pixels
    tasks: int
    rows: int  # rows of the largest batch
    conformance: Conformance
    whole: Whole
    cross_task: Served
    alone: Served  # one model per task, one request at a time
    lone_ms: float  # median round trip of a request that has the device to itself
    memory: Memory


class Check(NamedTuple):
    what: str
    found: float
    least: float

    @property
    def held(self) -> bool:
        return self.found >= self.least


def bare_per_s(findings: Findings) -> float:
    """The images a second of the bare forward pass at the daemon's batch size."""
    return next(p for p in findings.whole.curve if p.rows == findings.rows).images_per_s


def checks(findings: Findings) -> list[Check]:
    """The figures with an aim, and whether they reached it."""
    memory = findings.memory
    return [
        Check(
            "cross-task batches by one model per task at batch 1, both served by the daemon",
            findings.cross_task.images_per_s / findings.alone.images_per_s,
            3.0,
        ),
        Check(
            f"the daemon by the bare forward pass at batch {findings.rows}",
            findings.cross_task.images_per_s / bare_per_s(findings),
            0.9,
        ),
        Check(
            f"less device memory than {findings.tasks} models",
            1.0 - memory.daemon / memory.whole,
            0.45,
        ),
    ]


def all_held(findings: Findings) -> bool:
    suite = findings.conformance
    return all(check.held for check in checks(findings)) and suite.passed > 0 and not suite.failed

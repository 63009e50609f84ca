"""What a check of a GPU has found, and how that compares with its aims. Values only.

A step that failed has left nothing: what is made of its figures is then not measured, which is a
miss and not a zero.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

MEASURED, DRY_RUN = "measured", "dry run, cpu"


class Facts(msgspec.Struct, frozen=True):
    device: str
    versions: dict[str, str]
    machine: str


class Suite(msgspec.Struct, frozen=True):
    """The results of the tests of backends, and of the CUDA device."""

    passed: int
    failed: int
    skipped: int


class Model(msgspec.Struct, frozen=True):
    """What is served."""

    name: str
    side: int  # of its images in pixels
    blocks: int
    bytes: int  # of all blocks


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
    """Uncut models in one process."""

    curve: tuple[Point, ...]
    alone_per_s: float  # images a second, one at a time, through the models in turn
    half: Point | None = None  # the largest batch in float16
    used_bytes: int = 0  # of the device, after the largest batch of each


class Served(msgspec.Struct, frozen=True):
    """The daemon under a load that keeps it busy."""

    images_per_s: float
    mean_rows: float  # mean rows of its batches
    mixed: float  # the share of batches with more than one task
    unanswered: int
    refused: dict[str, int]


class Serving(msgspec.Struct, frozen=True):
    cross_task: Served
    alone: Served  # one model per task, one request at a time
    lone_ms: float  # median round trip of a request that has the device to itself
    used_bytes: int  # of the device, after the largest batches
    half: Served | None = None  # rows of all tasks together, in float16


class Fixed(msgspec.Struct, frozen=True):
    """A process that has begun to use the device and its libraries, without a model."""

    used_bytes: int


class Pipeline(msgspec.Struct, frozen=True):
    """Milliseconds of the largest batch through the blocks, from staging memory to answers."""

    one_ms: float  # each batch waits for the one before
    two_ms: float | None  # two in flight; None where the device has use for one


class Parity(msgspec.Struct, frozen=True):
    """Outputs of the largest batch on the device against those of ONNX Runtime on the CPU."""

    worst: dict[
        str, float
    ]  # for each precision the largest difference, by the range of the outputs
    same_best: dict[str, float]  # for each precision the rows with the same best class


class Loads(msgspec.Struct, frozen=True):
    """The largest block."""

    block_bytes: int
    load_s: float  # median
    copy_s: float  # of its bytes from page-locked memory
    kept_bytes: int  # still held when it was unloaded again, beyond before


class Faults(msgspec.Struct, frozen=True):
    """The daemon when a kernel has ended the device for its process."""

    answered: int  # of the requests beside the one that did it
    asked: int
    refused: bool  # the one that did it
    replaced: bool  # another worker serves


class Findings(msgspec.Struct, frozen=True):
    label: str  # "measured", or "dry run, cpu"
    date: str
    command: str
    errors: dict[str, str]  # of steps that failed, by name
    facts: Facts | None = None
    suite: Suite | None = None
    store: Model | None = None
    bare: Whole | None = None
    daemon: Serving | None = None
    memory: Fixed | None = None
    pipeline: Pipeline | None = None
    parity: Parity | None = None
    loads: Loads | None = None
    faults: Faults | None = None

    @classmethod
    def of(cls, lines: Mapping[str, Mapping[str, Any]], *, command: str, dry_run: bool) -> Findings:
        """From the lines of the steps."""
        found = {name: line["found"] for name, line in lines.items() if "found" in line}
        errors = {name: line["error"] for name, line in lines.items() if "error" in line}
        head = {
            "label": DRY_RUN if dry_run else MEASURED,
            "date": datetime.date.today().isoformat(),
            "command": command,
            "errors": errors,
        }
        return msgspec.convert({**head, **found}, cls)

    @property
    def device(self) -> str:
        return "an unknown device" if self.facts is None else self.facts.device


class Check(NamedTuple):
    what: str
    found: float | None  # None: not measured
    least: float

    @property
    def held(self) -> bool:
        return self.found is not None and self.found >= self.least

    @property
    def said(self) -> str:
        return "not measured" if self.found is None else f"{self.found:.2f}"


def bare_per_s(whole: Whole) -> float:
    """The images a second of the bare forward pass at the largest batch."""
    return max(whole.curve, key=lambda point: point.rows).images_per_s


def checks(findings: Findings) -> list[Check]:
    """The figures with an aim, and whether they reached it."""
    bare, daemon, faults = findings.bare, findings.daemon, findings.faults
    ratios = memory_ratios(findings)
    cross_task = by_bare = half = None
    if daemon is not None:
        cross_task = daemon.cross_task.images_per_s / daemon.alone.images_per_s
    if daemon is not None and bare is not None:
        by_bare = daemon.cross_task.images_per_s / bare_per_s(bare)
        if daemon.half is not None and bare.half is not None:
            half = daemon.half.images_per_s / bare.half.images_per_s
    answered = None if faults is None else faults.answered / faults.asked * faults.replaced
    return [
        Check(
            "cross-task batches by one model per task at batch 1, both served by the daemon",
            cross_task,
            3.0,
        ),
        Check("the daemon by the bare forward pass at the largest batch, float32", by_bare, 0.95),
        Check("the same in float16", half, 0.95),
        Check(
            "less device memory than the uncut models, above what a process without any takes",
            None if ratios is None else ratios[1],
            0.45,
        ),
        Check("answered beside a request that ends the device", answered, 1.0),
    ]


def memory_ratios(findings: Findings) -> tuple[float, float] | None:
    """How much less device memory the daemon takes than uncut models do: of all, and above what a
    process without a model takes, which none of them can save."""
    bare, daemon, fixed = findings.bare, findings.daemon, findings.memory
    if bare is None or daemon is None or fixed is None:
        return None
    above = [used.used_bytes - fixed.used_bytes for used in (daemon, bare)]
    return 1 - daemon.used_bytes / bare.used_bytes, 1 - above[0] / above[1]


def all_held(findings: Findings) -> bool:
    suite = findings.suite
    suite_held = suite is not None and suite.passed > 0 and not suite.failed
    return suite_held and not findings.errors and all(check.held for check in checks(findings))

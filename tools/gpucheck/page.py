"""The page with the findings: text made of values. Knows no files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from tools.gpucheck.findings import (
    Findings,
    Point,
    Served,
    all_held,
    bare_per_s,
    checks,
    memory_ratios,
)

UNVERIFIED = (
    "**What this page cannot verify**: TensorRT; the unified memory of a Jetson, its uncached "
    "page-locked memory, its power and its clocks; the latency of a board; a kernel that never "
    "ends. All figures are of one GPU with memory of its own."
)


def file_name(findings: Findings) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", findings.device.lower()).strip("-")
    return f"gpu-{slug}-{findings.date}.md"


def page(findings: Findings) -> str:
    """The Markdown of docs/results/gpu-<device>-<date>.md."""
    parts = [f"# {findings.device}", UNVERIFIED, *_head(findings), _checks(findings)]
    for part in (_curve, _daemon, _memory, _device):
        parts += part(findings)
    return "\n\n".join(map(_wrapped, parts)) + "\n"


def _head(findings: Findings) -> Iterator[str]:
    facts, model, suite = findings.facts, findings.store, findings.suite
    known = [findings.date]
    if facts is not None:
        known += [facts.machine, *(f"{name} {of}" for name, of in facts.versions.items())]
    yield f"**Label: {findings.label}.** {', '.join(known)}. To make this page again:"
    yield f"    {findings.command}"
    verdict = "everything held" if all_held(findings) else "NOT everything held"
    what = ""
    if model is not None:
        what = (
            f"{model.name}, {model.side} px, random weights, {model.blocks} blocks of "
            f"{model.bytes / 1e6:.0f} MB; float32 without TF32 where nothing else is said. "
        )
    yield f"{what}All figures are of this run: {verdict}."
    if suite is not None:
        yield (
            f"Tests of backends and of the device: {suite.passed} passed, {suite.failed} failed, "
            f"{suite.skipped} skipped."
        )
    if findings.errors:
        yield "Steps that failed: " + "; ".join(f"{n}, {e}" for n, e in findings.errors.items())


def _checks(findings: Findings) -> str:
    return "\n".join(
        [
            "| what | asked for | found | |",
            "| --- | --- | --- | --- |",
            *(
                f"| {check.what} | at least {check.least:g} | **{check.said}** "
                f"| {'held' if check.held else 'MISSED'} |"
                for check in checks(findings)
            ),
        ]
    )


def _curve(findings: Findings) -> Iterator[str]:
    bare = findings.bare
    if bare is None:
        return
    yield "## Batch curve"
    yield "Forward passes of one uncut model on rows that lie on the device already."
    rows = [*map(_point, bare.curve), *([_point(bare.half, " (float16)")] if bare.half else [])]
    head = ["| rows | eager, ms | CUDA graph, ms | images/s, the better |"]
    yield "\n".join([*head, "| --- | --- | --- | --- |", *rows])


def _point(point: Point, note: str = "") -> str:
    graph = "-" if point.graph_ms is None else f"{point.graph_ms:.2f}"
    return f"| {point.rows}{note} | {point.eager_ms:.2f} | {graph} | {point.images_per_s:.1f} |"


def _daemon(findings: Findings) -> Iterator[str]:
    daemon, bare = findings.daemon, findings.bare
    if daemon is None:
        return
    yield "## The daemon"
    yield (
        "`edged serve` with the torch backend; each request is one row of float32 for one task, "
        "over ipc from processes of their own."
    )
    loads = [
        ("all tasks together, saturated", daemon.cross_task),
        ("the same in float16", daemon.half),
        ("one model per task, one request at a time", daemon.alone),
    ]
    yield "\n".join(
        [
            "| load | images/s | rows a batch | mixed batches | without an answer | refused |",
            "| --- | --- | --- | --- | --- | --- |",
            *(_served(what, served) for what, served in loads if served is not None),
        ]
    )
    without = ""
    if bare is not None:
        without = (
            f" Without a daemon the uncut models in turn, one image at a time, do "
            f"{bare.alone_per_s:.1f} images/s, and one of them at the largest batch does "
            f"{bare_per_s(bare):.1f}."
        )
    yield f"A lone request takes {daemon.lone_ms:.1f} ms (median round trip).{without}"


def _served(what: str, served: Served) -> str:
    refused = ", ".join(f"{code} {n}" for code, n in served.refused.items()) or "0"
    return (
        f"| {what} | {served.images_per_s:.1f} | {served.mean_rows:.1f} | {served.mixed:.0%} "
        f"| {served.unanswered} | {refused} |"
    )


def _memory(findings: Findings) -> Iterator[str]:
    ratios, used = memory_ratios(findings), (findings.daemon, findings.bare, findings.memory)
    if ratios is None:
        return
    daemon, whole, fixed = (found.used_bytes / 1e6 for found in used if found is not None)
    yield "## Device memory"
    yield (
        f"The daemon {daemon:.0f} MB, the uncut models in one process {whole:.0f} MB, each after "
        f"its largest batches: {ratios[0]:.0%} less. A process that has begun to use the device "
        f"and its libraries, without a model, takes {fixed:.0f} MB; above that the daemon takes "
        f"{ratios[1]:.0%} less."
    )


def _device(findings: Findings) -> Iterator[str]:
    found: list[str] = []
    if (pipeline := findings.pipeline) is not None:
        two = "-" if pipeline.two_ms is None else f"{pipeline.two_ms:.2f}"
        found.append(
            f"* Largest batch, from staging memory to answers: {pipeline.one_ms:.2f} ms when each "
            f"waits for the one before, {two} ms with two in flight."
        )
    if (parity := findings.parity) is not None:
        for name, worst in parity.worst.items():
            found.append(
                f"* {name} against ONNX Runtime on the CPU: largest difference {worst:.1e} of the "
                f"range, the same best class in {parity.same_best[name]:.0%} of the rows."
            )
    if (loads := findings.loads) is not None:
        found.append(
            f"* The largest block, {loads.block_bytes / 1e6:.0f} MB, loads in {loads.load_s:.3f} "
            f"s; to copy its bytes from page-locked memory takes {loads.copy_s:.3f} s. Unloaded "
            f"it leaves {loads.kept_bytes / 1e6:.1f} MB."
        )
    if (faults := findings.faults) is not None:
        found.append(
            f"* A kernel ends the device: {faults.answered} of {faults.asked} other requests are "
            f"answered, {'another' if faults.replaced else 'NO other'} worker serves, and the one "
            f"that did it is {'refused' if faults.refused else 'NOT refused'}."
        )
    if found:
        yield "## The device"
        yield "\n".join(found)


def _wrapped(part: str) -> str:
    """At 120 characters; tables and commands stay as they are."""
    lines = []
    for line in part.split("\n"):
        if line.startswith(("|", "    ", "#")):
            lines.append(line)
        else:
            indent = "  " if line.startswith("* ") else ""
            lines += textwrap.wrap(line, 120, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines)

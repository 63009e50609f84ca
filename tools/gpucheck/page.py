"""The page with the findings: text made of values. Knows no files."""

from __future__ import annotations

from tools.gpucheck.findings import Findings, Point, Served, all_held, bare_per_s, checks


def page(findings: Findings) -> str:
    """The Markdown of docs/results/gpu-<device>-<date>.md."""
    suite = findings.conformance
    verdict = "everything held" if all_held(findings) else "NOT everything held"
    versions = ", ".join(f"{name} {of}" for name, of in findings.versions.items())
    lines = [
        f"# {findings.device}",
        "",
        f"**Label: {findings.label}.** {findings.date}, {findings.machine}; {versions}; "
        f"seed {findings.seed}. To make this page again:",
        "",
        f"    {findings.command}",
        "",
        f"{findings.model}, {findings.side} px, random weights, float32 without TF32; "
        f"{findings.tasks} tasks on one backbone; batches of up to {findings.rows} rows. "
        f"All figures are of this run: {verdict}.",
        "",
        f"Conformance suite (tests/backends): {suite.passed} passed, {suite.failed} failed, "
        f"{suite.skipped} skipped.",
        "",
        "| what | asked for | found | |",
        "| --- | --- | --- | --- |",
        *(
            f"| {check.what} | at least {check.least:g} | **{check.found:.2f}** "
            f"| {'held' if check.held else 'MISSED'} |"
            for check in checks(findings)
        ),
        "",
        "## Batch curve",
        "",
        "Forward passes of one uncut model on rows that lie on the device already.",
        "",
        "| rows | eager, ms | CUDA graph, ms | images/s, the better |",
        "| --- | --- | --- | --- |",
        *map(_point, findings.whole.curve),
        "",
        "## The daemon",
        "",
        "`edged serve` with the torch backend; each request is one row of float32 for one task, "
        "over ipc from processes of their own.",
        "",
        "| load | images/s | rows a batch | mixed batches | without an answer | refused |",
        "| --- | --- | --- | --- | --- | --- |",
        _served("all tasks together, saturated", findings.cross_task),
        _served("one model per task, one request at a time", findings.alone),
        "",
        f"A lone request takes {findings.lone_ms:.1f} ms (median round trip). Without a daemon the "
        f"uncut models in turn, one image at a time, do {findings.whole.alone_per_s:.1f} "
        f"images/s, and one of them at batch {findings.rows} does {bare_per_s(findings):.1f}.",
        "",
        "## Device memory",
        "",
        _memory(findings),
        "",
    ]
    return "\n".join(lines)


def _point(point: Point) -> str:
    graph = "-" if point.graph_ms is None else f"{point.graph_ms:.2f}"
    return f"| {point.rows} | {point.eager_ms:.2f} | {graph} | {point.images_per_s:.1f} |"


def _served(what: str, served: Served) -> str:
    refused = ", ".join(f"{code} {n}" for code, n in served.refused.items()) or "0"
    return (
        f"| {what} | {served.images_per_s:.1f} | {served.mean_rows:.1f} | {served.mixed:.0%} "
        f"| {served.unanswered} | {refused} |"
    )


def _memory(findings: Findings) -> str:
    memory = findings.memory
    fixed, daemon, whole = memory.nothing, memory.daemon, memory.whole
    return (
        f"The daemon {daemon / 1e6:.0f} MB, {findings.tasks} uncut models in one process "
        f"{whole / 1e6:.0f} MB, each after batches of {findings.rows} rows. A process that only "
        f"begins to use the device takes {fixed / 1e6:.0f} MB; above that the daemon takes "
        f"{1 - (daemon - fixed) / (whole - fixed):.0%} less."
    )

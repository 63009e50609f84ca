"""`edged status`: whether a daemon is ready, its counts and times since the start, and lately."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edged.cli.connection import (
    add_connection_options,
    client_of,
    plain,
    show_duration,
    show_ms,
    show_span,
)
from edged.cli.console import print_json, say, show_bytes, table

if TYPE_CHECKING:
    from edged import wire


def register(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="how a daemon is doing",
        description="Whether a daemon is ready, and its counts and times: since it started, and "
        "in the last minute and ten. The exit status is 0 when it is ready, 1 when it is not.",
    )
    add_connection_options(parser, timeout_s=5.0)
    parser.set_defaults(run=_status)


def _status(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        metadata, ready, statistics = client.metadata(), client.ready(), client.statistics()
        models = client.models() if ready.ready else ()
    if args.json:
        about = {"endpoint": args.endpoint, "version": metadata.version, "ready": ready.ready}
        print_json({**about, **plain(statistics)})
    else:
        say(f"{metadata.name} {metadata.version} at {args.endpoint}")
        for model in models:
            if model.state == "UNAVAILABLE":
                say(f"model {model.name} cannot be served: {model.reason}")
        say("\n\n".join(part for part in _parts(statistics) if part))
    return 0 if ready.ready else 1


def _parts(statistics: wire.StatisticsReply) -> list[str]:
    board = statistics.board
    memory = [[_words(name), show_bytes(count)] for name, count in statistics.memory.items()]
    return [
        _server(statistics.server),
        _tasks(statistics.tasks),
        _windows(statistics.tasks),
        _batches(statistics.batches),
        table(["memory", "size"], memory) if memory else "",
        "" if board is None else _board(board),
    ]


def _server(server: wire.ServerStatistics) -> str:
    state = server.state + (f" ({server.reason})" if server.reason else "")
    return (
        f"{state}, up {show_duration(server.uptime_s)}, pid {server.pid}, "
        f"restarts of the device worker: {server.worker_restarts}\n"
        f"clients: {server.clients}, open requests: {server.in_flight}, "
        f"of these waiting: {server.queued}"
    )


def _tasks(tasks: tuple[wire.TaskStatistics, ...]) -> str:
    headers = ["task", "requests", "failed", "rows/batch", "p50", "p99", *_PHASES]
    rows = [
        [
            task.name,
            str(task.success.count),
            str(task.fail.count),
            _ratio(task.inference_count, task.execution_count),
            *(show_ms(task.latency_us[q]) if q in task.latency_us else "" for q in ("p50", "p99")),
            *(_mean(getattr(task, phase)) for phase in _PHASES.values()),
        ]
        for task in tasks
    ]
    failures = [
        f"{task.name} failed: " + ", ".join(f"{n} {code}" for code, n in task.fail.by_code.items())
        for task in tasks
        if task.fail.by_code
    ]
    return "\n".join([table(headers, rows), *failures]) if rows else ""


_PHASES = {
    "queue": "queue",
    "input": "compute_input",
    "infer": "compute_infer",
    "output": "compute_output",
}  # columns of means, and the fields that they show


def _windows(tasks: tuple[wire.TaskStatistics, ...]) -> str:
    """Requests a second and their times lately; empty where nothing was asked."""
    spans = [window.span_s for window in tasks[0].windows] if tasks else []
    if not spans:
        return ""  # an older daemon has no windows
    headers = ["task", *(name for s in spans for name in (show_span(s), "failed", "p50", "p99"))]
    rows = [[task.name, *(cell for w in task.windows for cell in _lately(w))] for task in tasks]
    return table(headers, rows)


def _lately(window: wire.TaskWindow) -> list[str]:
    if not window.answered and not window.failed:
        return [""] * 4
    times = [show_ms(us) if (us := window.latency_us.get(q)) else "" for q in ("p50", "p99")]
    return [f"{window.answered / window.seconds:.1f}/s", str(window.failed), *times]


def _batches(batches: tuple[wire.BatchStatistics, ...]) -> str:
    count = sum(batch.count for batch in batches)
    if not count:
        return ""
    rows = sum(batch.rows * batch.count for batch in batches)
    mixed = sum(batch.mixed for batch in batches)
    sizes = ", ".join(f"{batch.count} of {batch.rows}" for batch in batches)
    return f"{count} batches, {rows / count:.2f} rows each, {mixed} of several tasks: {sizes}"


def _board(board: wire.BoardStatistics) -> str:
    """What the board tells, as far as it does."""
    clock, limit = (None if hz is None else hz / 1e6 for hz in (board.gpu_hz, board.gpu_limit_hz))
    facts = {
        "power mode {}": board.power_mode,
        "GPU load {:.0%}": board.gpu_load,
        "GPU clock {:.0f} MHz": clock,
        "limit {:.0f} MHz": limit,
        "power {:.1f} W": board.total_w,
        "{:.3g} J an answer": board.answer_j,
    }
    lines = [", ".join(text.format(fact) for text, fact in facts.items() if fact is not None)]
    lines.append(", ".join(f"{name} {at:.0f} °C" for name, at in board.temperatures_c.items()))
    lines.append(", ".join(f"{name} {watts:.1f} W" for name, watts in board.rails_w.items()))
    if board.throttled:
        slower = f"; batches are expected to take {board.pace:.2g} times as long"
        why = ", ".join(board.throttled)
        lines.append(f"throttled: {why}{slower if board.pace != 1.0 else ''}")
    return "\n".join(f"board: {line}" for line in lines if line)


def _mean(duration: wire.Duration) -> str:
    return show_ms(duration.ns / 1e3 / duration.count) if duration.count else ""


def _ratio(a: int, b: int) -> str:
    return f"{a / b:.2f}" if b else ""


def _words(name: str) -> str:
    """The words of a name, as `front pss` of `front_pss_bytes`."""
    return name.removesuffix("_bytes").replace("_", " ")

"""The screen of `edged top`: statistics as lines of text that fit a width. Pure.

A section is a function from statistics and a width to lines; `_SECTIONS` has them in order. What
does not fit is cut, and what has no figures is empty: nothing is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from edged import wire
from edged.cli.connection import show_duration, show_span
from edged.cli.console import show_bytes

_CUT = "…"
_GAP = "  "
_NAME_COLUMNS = 20  # the widest column of names
_LINES = ("fixed", "staging", "workspace", "blocks", "unexplained")


def screen(statistics: wire.StatisticsReply, width: int, height: int | None = None) -> list[str]:
    """The lines of one look, each `width` characters at most, and `height` of them at most.

    Where the height is short the longest sections give way, and say how many lines they have left
    out.
    """
    sections = [section for make in _SECTIONS if (section := make(statistics, width))]
    if height is not None:
        _shorten(sections, height - (len(sections) - 1))
    lines: list[str] = []
    for section in sections:
        lines += ["", *section] if lines else section
    return [_fitted(line, width).rstrip() for line in lines]


def _shorten(sections: list[list[str]], height: int) -> None:
    """Cut the longest ones until all together have `height` lines, or none is left to be cut."""
    hidden = [0] * len(sections)
    while sum(map(len, sections)) + sum(map(bool, hidden)) > height:
        longest = max(range(len(sections)), key=lambda n: len(sections[n]))
        if len(sections[longest]) <= 2:
            break
        sections[longest].pop()
        hidden[longest] += 1
    for section, count in zip(sections, hidden, strict=True):
        if count:
            section.append(f"{_CUT} {count} more")


# --- sections -------------------------------------------------------------------------------------


def _server(statistics: wire.StatisticsReply, width: int) -> list[str]:
    server = statistics.server
    parts = [
        f"edged {server.state}",
        f"up {show_duration(server.uptime_s)}",
        f"pid {server.pid}",
        f"worker restarts: {server.worker_restarts}",
        f"clients: {server.clients}",
        f"open requests: {server.in_flight}",
        f"of these waiting: {server.queued}",
    ]
    return [*_wrapped(parts, width), *([server.reason] if server.reason else [])]


def _memory(statistics: wire.StatisticsReply, width: int) -> list[str]:
    memory = statistics.memory
    if "total_bytes" not in memory:
        return []
    of = f"memory {show_bytes(memory['total_bytes'])} of {show_bytes(memory['budget_bytes'])}"
    return _wrapped(
        [of, *(f"{line} {show_bytes(memory[f'{line}_bytes'])}" for line in _LINES)], width
    )


def _batches(statistics: wire.StatisticsReply, width: int) -> list[str]:
    return [
        f"batches, {show_span(window.span_s)}: {window.count / window.seconds:.1f}/s, "
        f"{window.rows / window.count:.2f} rows each, "
        f"{100 * window.mixed / window.count:.0f} % of several tasks"
        for window in statistics.batch_windows
        if window.count
    ]


class _Column(NamedTuple):
    title: str
    cell: Callable[[wire.TaskStatistics], str]


def _tasks(statistics: wire.StatisticsReply, width: int) -> list[str]:
    """The busiest first. More columns where there is room: the longer window, then means."""
    if not statistics.tasks:
        return []
    spans = [window.span_s for window in statistics.tasks[0].windows]
    columns = [_Column("open", lambda task: str(task.queued))]
    for place, span_s in enumerate(spans):
        columns += _of_window(place, show_span(span_s))
    columns += _MEANS
    tasks = sorted(statistics.tasks, key=lambda task: (-_rate(task, 0), task.name))
    names = [task.name for task in tasks]
    rows = [[column.cell(task) for column in columns] for task in tasks]
    return _table("task", names, [column.title for column in columns], rows, width)


def _of_window(place: int, span: str) -> list[_Column]:
    def window(task: wire.TaskStatistics) -> wire.TaskWindow | None:
        """None where nothing was asked."""
        found = task.windows[place] if place < len(task.windows) else None
        return found if found and (found.answered or found.failed) else None

    def quantile(name: str) -> Callable[[wire.TaskStatistics], str]:
        def cell(task: wire.TaskStatistics) -> str:
            us = found.latency_us.get(name) if (found := window(task)) else None
            return "" if us is None else f"{us / 1e3:.1f}"

        return cell

    return [
        _Column(f"{span} req/s", lambda task: f"{_rate(task, place):.1f}" if window(task) else ""),
        _Column("fail", lambda task: str(found.failed) if (found := window(task)) else ""),
        _Column("p50 ms", quantile("p50")),
        _Column("p99 ms", quantile("p99")),
    ]


def _rate(task: wire.TaskStatistics, place: int) -> float:
    if place >= len(task.windows):
        return 0.0
    window = task.windows[place]
    return window.answered / window.seconds if window.seconds else 0.0


def _mean_ms(duration: wire.Duration) -> str:
    return f"{duration.ns / 1e6 / duration.count:.1f}" if duration.count else ""


_MEANS = [
    _Column("since start", lambda task: str(task.success.count)),
    _Column("failed", lambda task: str(task.fail.count)),
    _Column("queue ms", lambda task: _mean_ms(task.queue)),
    _Column("input ms", lambda task: _mean_ms(task.compute_input)),
    _Column("infer ms", lambda task: _mean_ms(task.compute_infer)),
    _Column("output ms", lambda task: _mean_ms(task.compute_output)),
]  # of all requests since the start


def _blocks(statistics: wire.StatisticsReply, width: int) -> list[str]:
    """What is shared most comes first."""
    blocks = sorted(statistics.blocks, key=lambda b: (-len(b.models), -b.bytes, b.block))
    if not blocks:
        return []
    titles = ["size", "state", "models"]
    rows = [[show_bytes(b.bytes), b.state, str(len(b.models))] for b in blocks]
    lines = _table("block", [block.block[:12] for block in blocks], titles, rows, width)
    room = width - max(map(len, lines)) - len(_GAP)
    shared = ["shared by", *(_listed(block.models, room) for block in blocks)]
    longest = max(map(len, lines))
    return [f"{line:{longest}}{_GAP}{by}" for line, by in zip(lines, shared, strict=True)]


_SECTIONS: tuple[Callable[[wire.StatisticsReply, int], list[str]], ...] = (
    _server,
    _memory,
    _batches,
    _tasks,
    _blocks,
)


# --- text -----------------------------------------------------------------------------------------


def _table(
    title: str,
    names: Sequence[str],
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
) -> list[str]:
    """A column of names and as many columns of figures as fit, aligned to the right."""
    name_width = min(_NAME_COLUMNS, max(len(title), *map(len, names)))
    lines = [f"{_fitted(name, name_width):{name_width}}" for name in (title, *names)]
    for number, heading in enumerate(titles):
        cells = [heading, *(row[number] for row in rows)]
        column = max(map(len, cells))
        if len(lines[0]) + len(_GAP) + column > width:
            break
        lines = [f"{line}{_GAP}{cell:>{column}}" for line, cell in zip(lines, cells, strict=True)]
    return lines


def _wrapped(parts: Iterable[str], width: int) -> list[str]:
    """The parts side by side, in as many lines as they need."""
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}{_GAP}{part}" if lines[-1] else part
        if len(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def _listed(names: Iterable[str], room: int) -> str:
    """As many names as there is room for, and how many there are besides."""
    left = list(names)
    text = ", ".join(left)
    shown = len(left)
    while len(text) > room and shown > 0:
        shown -= 1
        more = f"+{len(left) - shown}"
        text = ", ".join([*left[:shown], more])
    return text


def _fitted(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + _CUT

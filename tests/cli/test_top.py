"""`edged top`: the screen at two widths, to the letter, and what a small one leaves out."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edged import wire
from edged.cli import main
from edged.cli.dashboard import screen
from tests.client.fake_daemon import FakeDaemon, other_reply

HERE = Path(__file__).parent
_MB = 10**6


def task(
    name: str, answered: int, failed: int = 0, *, lately: bool = True, ms: float = 12.0
) -> wire.TaskStatistics:
    """One that was asked for lately, or only long ago."""
    latency = {"p50": ms * 1e3, "p90": ms * 1.5e3, "p99": ms * 2.5e3}
    empty = (wire.TaskWindow(60, 62.0), wire.TaskWindow(600, 610.0))
    full = (
        wire.TaskWindow(60, 62.0, answered // 10, failed, answered // 5, latency),
        wire.TaskWindow(600, 610.0, answered, failed, answered * 2, latency),
    )
    return wire.TaskStatistics(
        name,
        inference_count=2 * answered,
        execution_count=answered,
        success=wire.Duration(answered, int(answered * ms * 1e6)),
        fail=wire.Failures(failed, {"UNAVAILABLE": failed} if failed else {}),
        queue=wire.Duration(answered, int(answered * 2e6)),
        compute_input=wire.Duration(answered, int(answered * 1e6)),
        compute_infer=wire.Duration(answered, int(answered * (ms - 3.5) * 1e6)),
        compute_output=wire.Duration(answered, int(answered * 0.5e6)),
        latency_us=latency,
        queued=3 if lately else 0,
        windows=full if lately else empty,
    )


STATISTICS = wire.StatisticsReply(
    "",
    wire.ServerStatistics(
        "READY", "degraded: 1 of 5 models do not fit", 4242, 93_784.0, 1, 12, 7, 2
    ),
    (
        task("birds-of-the-southern-hemisphere", 900, ms=31.4),
        task("faces", 0, lately=False),
        task("flowers", 12_000, 24),
        task("food", 14_500, ms=8.25),
    ),
    (wire.BatchStatistics(1, 700, 0), wire.BatchStatistics(8, 3_000, 2_400)),
    {
        "budget_bytes": 2_000 * _MB,
        "total_bytes": 812 * _MB,
        "fixed_bytes": 120 * _MB,
        "staging_bytes": 30 * _MB,
        "workspace_bytes": 64 * _MB,
        "blocks_bytes": 590 * _MB,
        "unexplained_bytes": 8 * _MB,
        "worker_pss_bytes": 700 * _MB,
    },
    batch_windows=(
        wire.BatchWindow(60, 62.0, 372, 1_980, 297),
        wire.BatchWindow(600, 610.0, 3_700, 24_700),
    ),
    blocks=(
        wire.BlockStatistics("4f" * 32, 512 * _MB, "resident", ("bird", "face", "flower", "food")),
        wire.BlockStatistics("a1" * 32, 40 * _MB, "loading", ("faces",)),
        wire.BlockStatistics("b2" * 32, 38 * _MB, "resident", ("flowers", "food")),
    ),
)  # fmt: skip


@pytest.mark.parametrize("width", [80, 200])
def test_the_screen_is_as_it_was(width: int) -> None:
    """After a change that is meant: EDGED_SNAPSHOTS=1 writes them anew."""
    text = "\n".join(screen(STATISTICS, width)) + "\n"
    snapshot = HERE / f"top-{width}.txt"
    if os.environ.get("EDGED_SNAPSHOTS"):
        snapshot.write_text(text)
    assert text == snapshot.read_text()


@pytest.mark.parametrize("width", [20, 40, 79, 80, 120, 200, 400])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, screen(STATISTICS, width))) <= width


@pytest.mark.parametrize("height", range(10, 40, 3))
def test_a_low_terminal_shows_every_section_and_what_it_left_out(height: int) -> None:
    blocks = tuple(wire.BlockStatistics(f"{n:064x}", _MB, "resident", ("food",)) for n in range(60))
    lines = screen(msgspec.structs.replace(STATISTICS, blocks=blocks), 80, height)
    if height >= 20:
        assert len(lines) <= height
    assert any(line.startswith("block ") for line in lines)
    assert any(line.startswith("task ") for line in lines)
    shown = sum(line.startswith("0000") for line in lines)
    assert f"… {60 - shown} more" in lines


def test_an_older_daemon_has_fewer_figures_and_none_is_made_up() -> None:
    old = msgspec.structs.replace(
        STATISTICS,
        tasks=tuple(msgspec.structs.replace(t, windows=()) for t in STATISTICS.tasks),
        batch_windows=(),
        blocks=(),
        memory={},
    )
    lines = screen(old, 80)
    assert [line for line in lines if line.startswith("flowers")]
    assert not [line for line in lines if "req/s" in line or line.startswith(("batch", "block"))]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(f"ipc://{tmp_path}/edged.sock")
    daemon.answer_others = lambda received: [
        wire.encode_reply(msgspec.structs.replace(STATISTICS, id=received.id))
        if isinstance(received.request.header, wire.StatisticsQuery)
        else other_reply(received)
    ]
    daemon.start()
    yield daemon
    daemon.stop()


def test_once_for_people_and_for_programs(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["top", "--once", "--endpoint", daemon.endpoint]) == 0
    assert capsys.readouterr().out == (HERE / "top-80.txt").read_text()
    assert main(["top", "--once", "--json", "--endpoint", daemon.endpoint]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tasks"][2]["windows"][0]["answered"] == 1200
    assert found["blocks"][0]["models"] == ["bird", "face", "flower", "food"]


def test_without_a_terminal_it_says_what_to_do(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["top", "--endpoint", daemon.endpoint]) == 2
    assert "add --once" in capsys.readouterr().err
    assert main(["top", "--interval", "0", "--endpoint", daemon.endpoint]) == 2
    assert "--interval" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["q", "interrupt"])
def test_on_a_terminal_it_follows_the_daemon_and_leaves_the_terminal_as_it_was(
    daemon: FakeDaemon, end: str
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "edged", "top", "--interval", "0.2"]
    command += ["--endpoint", daemon.endpoint]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell may ignore it
    )  # fmt: skip
    try:
        os.close(theirs)
        seen = b""
        while seen.count(b"clients: 12") < 3:
            seen += os.read(ours, 65_536)
        if end == "q":
            os.write(ours, b"q")
        else:
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the other side is closed
            while True:
                seen += os.read(ours, 65_536)
        assert process.wait(30) == (0 if end == "q" else 130)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert seen.startswith(b"\x1b[?1049h")
    assert seen.endswith(b"\x1b[?1049l")
    assert b"Traceback" not in seen

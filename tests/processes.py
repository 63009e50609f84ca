"""What tests do to the processes of a daemon."""

from __future__ import annotations

from pathlib import Path

import psutil

from tests.daemon.live import until


def suspend(process: psutil.Process) -> None:
    """Return when every thread has stopped: one that runs may go on for a little while."""
    process.suspend()
    tasks = Path(f"/proc/{process.pid}/task")
    until(lambda: all(_state(task) == "T" for task in tasks.iterdir()))


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]

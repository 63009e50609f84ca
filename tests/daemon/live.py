"""The real daemon as a child process, on an ipc socket in a temporary directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

PATIENCE_S = 60.0


class Daemon:
    """`edged serve`, its endpoint and what it has said."""

    def __init__(
        self,
        folder: Path,
        store: Path,
        *,
        server: str = "",
        settings: str = "",
        record: bool = False,
        under: Sequence[str] = (),
    ):
        """`server`: lines of that section; `settings`: further sections; `under`: a command that
        runs it. Returns when it listens, or has ended: a client waits for seconds only, and on a
        busy machine the imports take longer.
        """
        self.folder = folder
        self.endpoint = f"ipc://{folder}/edged.sock"
        self.admin = f"ipc://{folder}/edged.admin"
        self.recording = folder / "run.jsonl"
        config = folder / "edged.toml"
        config.write_text(
            f'store = "{store}"\n[server]\nendpoints = ["{self.endpoint}"]\n{server}\n'
            f'[device]\ncache_dir = "{folder}/cache"\n{settings}'
        )
        command = [*under, sys.executable, "-m", "edged", "serve", "--config", str(config)]
        if record:
            command += ["--record", str(self.recording)]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        socket = folder / "edged.sock"
        until(lambda: socket.exists() or self.process.poll() is not None)

    def log(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str) -> None:
        """Wait until the log holds `text`."""
        until(lambda: text in self.log() or self.process.poll() is not None)
        assert text in self.log(), f"{text!r} not in:\n{self.log()}"

    def worker(self) -> psutil.Process:
        (worker,) = self._children(exporters=False)
        return worker

    def exporter(self) -> psutil.Process:
        """The process that answers scrapes."""
        (exporter,) = self._children(exporters=True)
        return exporter

    def _children(self, *, exporters: bool) -> list[psutil.Process]:
        """A child that has ended has no command line."""
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if (b"edged.observe.exporter" in Path(f"/proc/{child.pid}/cmdline").read_bytes())
            is exporters
        ]

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)


def until(condition: Callable[[], bool]) -> None:
    """Wait for another process; fail instead of hanging."""
    patience = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < patience, "waited in vain"
        pause.wait(0.01)

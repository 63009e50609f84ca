"""`edged serve` as a child process: started, waited for, and ended as a service manager does it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from edged.errors import EdgedError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "demo.toml"
SOCKET = "edged.sock"  # name of the socket in the daemon's folder, by the configuration

_LEASH = Path(__file__).resolve().with_name("leash.py")
_START_S = 120.0
_DRAIN_S = 40.0


def command(config: Path = CONFIG) -> list[str]:
    """The command that runs the daemon in the foreground, with this Python."""
    return [sys.executable, "-m", "edged", "serve", "--config", str(config)]


class DaemonFailed(EdgedError):
    """The daemon did not start, or did not end, as it should. Says where its log is."""


class Daemon:
    """The daemon in `folder`: serving inside the `with` block, drained and gone after it.

    `config` has it listen at `folder`/edged.sock. Its log is `folder`/daemon.log. It is also told
    to drain when the thread that entered the block ends.

    Raises DaemonFailed when it does not get ready in time, or ends with a status other than 0.
    """

    def __init__(self, folder: Path, config: Path = CONFIG, *, start_s: float = _START_S) -> None:
        self._folder = folder
        self._config = config
        self._start_s = start_s
        self.endpoint = f"ipc://{folder / SOCKET}"
        self.log = folder / "daemon.log"

    def __enter__(self) -> Daemon:
        address = f"\0edged-demo-{os.getpid()}"  # an abstract socket: no file to clean up
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self.log.open("wb") as log:
            notify.bind(address)
            self._process = subprocess.Popen(
                self._command(),
                cwd=self._folder,
                env=os.environ | {"NOTIFY_SOCKET": f"@{address[1:]}"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            try:
                self._wait_until_ready(notify)
            except BaseException:
                self._process.kill()
                self._process.wait()
                raise
        return self

    def _command(self) -> list[str]:
        return [sys.executable, "-I", str(_LEASH), str(os.getpid()), *command(self._config)]

    @property
    def pid(self) -> int:
        """The process id of the front; the worker is its child."""
        return self._process.pid

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(_DRAIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        if status != 0 and error is None:
            raise self._failed(f"ended with status {status}")

    def _wait_until_ready(self, notify: socket.socket) -> None:
        """Wait for READY=1 (sd_notify). Raises if the daemon dies or the time limit passes."""
        deadline_s = time.monotonic() + self._start_s
        death = os.pidfd_open(self._process.pid)
        try:
            while True:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise self._failed(f"was not ready after {self._start_s:.0f} s")
                readable, _, _ = select.select([notify.fileno(), death], [], [], left_s)
                if death in readable:
                    raise self._failed(f"ended with status {self._process.wait()}")
                if notify.fileno() in readable and b"READY=1" in notify.recv(4096).splitlines():
                    return
        finally:
            os.close(death)

    def _failed(self, what: str) -> DaemonFailed:
        lines = self.log.read_text(errors="replace").splitlines()
        last = f"; its last words: {lines[-1]}" if lines else ""
        return DaemonFailed(f"the daemon {what} (log: {self.log}){last}")

"""The front's end of a device worker: starts the process, holds its sockets, knows how it ended.

Takes no decisions: it never restarts a worker. One object is one worker's life; the next worker
is another object with other sockets, so nothing late from the old one is taken for its own.

There is one ipc socket for each direction, because each thread of the worker sends its reports
itself: a finished batch does not wait for the worker's main thread.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import zmq

from edged.device.settings import Settings, Start
from edged.errors import Unavailable

Buffer: TypeAlias = "bytes | bytearray | memoryview"


class WorkerProcess:
    """A device worker from its start to `close`.

    Belongs to one thread, the one that makes it: the kernel kills the worker when that thread
    ends, however it ends. Frames are those of `edged.device.link`.
    """

    def __init__(self, settings: Settings, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Start the process; it sends Ready, or Failed, when it has loaded and warmed up."""
        self._folder = tempfile.TemporaryDirectory(prefix="edged-")  # mode 0700
        self._commands, commands = self._bind(context, zmq.PUSH, "commands")
        self.reports, reports = self._bind(context, zmq.PULL, "reports")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edged.device"],
            stdin=subprocess.PIPE,
            env={**os.environ, **_environment(settings)},
        )
        self.death_fd = os.pidfd_open(self._process.pid)  # readable when the process has ended
        start = Start(os.getpid(), commands, reports, settings)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(start))
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it died at once: `death_fd` says so

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, frames: Sequence[Buffer]) -> None:
        """Hand a message to the worker. Raises Unavailable when it is not there to take it."""
        try:
            self._commands.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            raise Unavailable("the device worker is gone or still starting: try again") from None

    def receive(self) -> list[memoryview] | None:
        """The next message of the worker, None when there is none (yet)."""
        try:
            frames = self.reports.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        return [frame.buffer for frame in frames]

    def alive(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the process; False when it still lives after `timeout_s`."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it now, whatever it does."""
        self._process.kill()

    def exit_reason(self) -> str:
        """How the process ended, for people. A worker that said Failed has told why itself."""
        status = self._process.poll()
        if status is None:
            return "the device worker runs"
        if status < 0:
            hint = " (out of memory?)" if status == -signal.SIGKILL else ""
            return f"the device worker was ended by {signal.Signals(-status).name}{hint}"
        return f"the device worker ended with status {status}"

    def close(self) -> None:
        """End the process if it lives, and free its sockets."""
        self._process.kill()
        self._process.wait()
        os.close(self.death_fd)
        self._commands.close(linger=0)
        self.reports.close(linger=0)
        self._folder.cleanup()

    def _bind(
        self, context: zmq.Context[zmq.Socket[bytes]], kind: int, name: str
    ) -> tuple[zmq.Socket[bytes], str]:
        # No high-water mark: the scheduler bounds what is on its way, and a full queue would
        # look like a dead worker.
        socket = context.socket(kind)
        socket.sndhwm = socket.rcvhwm = 0
        endpoint = f"ipc://{self._folder.name}/{name}"
        socket.bind(endpoint)
        return socket, endpoint


def _environment(settings: Settings) -> dict[str, str]:
    """What must be set before the worker's libraries are imported."""
    return {
        # Threads of numpy's BLAS would fight those of the backend for the cores.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": str(settings.threads),
        "ORT_DISABLE_TELEMETRY": "1",  # else it writes under the home directory
        "PYTHONUNBUFFERED": "1",
    }

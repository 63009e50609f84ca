"""The front's end of a device worker: starts the process, holds its channel, knows how it ended.

Takes no decisions: it never restarts a worker. One object is one worker's life; the next worker
is another object with another channel, so nothing late from the old one is taken for its own.
"""

from __future__ import annotations

import os
import signal
import subprocess

import msgspec

from edged.children import command
from edged.device.settings import Settings, WorkerStart
from edged.link.channel import Receiver, Sender, channel_pair


class WorkerProcess:
    """A device worker from its start to `close`.

    Belongs to one thread, the one that makes it: the kernel kills the worker when that thread
    ends, however it ends. Frames are those of `edged.link.messages`.
    """

    def __init__(self, settings: Settings) -> None:
        """Start the process; it sends Ready or WorkerFailed when its backend is open."""
        self._orders, orders = channel_pair()
        self._reports, reports = channel_pair()
        for end in (self._orders, self._reports):
            end.setblocking(False)
        self.sender = Sender(self._orders)  # the scheduler bounds what is on its way
        self.receiver = Receiver(self._reports)
        # Its standard input is a file in memory. A pipe does not hold long settings, so the front
        # would wait until the worker reads them.
        with orders, reports, os.fdopen(os.memfd_create("worker-settings"), "r+b") as file:
            theirs = (orders.fileno(), reports.fileno())
            file.write(msgspec.json.encode(WorkerStart(os.getpid(), *theirs, settings)))
            file.seek(0)
            self._process = subprocess.Popen(
                command("edged.device"),
                stdin=file,
                env={**os.environ, **environment(settings)},
                pass_fds=theirs,
            )
        self.death_fd = os.pidfd_open(self._process.pid)  # readable when the process has ended

    @property
    def pid(self) -> int:
        return self._process.pid

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
        """End the process now."""
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

    def let_go(self) -> None:
        """Kill the process if it lives, and free its channel.

        The process may end later: a driver holds it until it has put the device in order.
        """
        self._process.kill()
        os.close(self.death_fd)
        self._orders.close()
        self._reports.close()

    def close(self) -> None:
        """As `let_go`, and wait for the end of the process."""
        self.let_go()
        self._process.wait()


def environment(settings: Settings) -> dict[str, str]:
    """What must be set before the worker's libraries are imported."""
    return {
        # Threads of numpy's BLAS would fight those of the backend for the cores.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": str(settings.threads),
        "ORT_DISABLE_TELEMETRY": "1",  # else it writes under the home directory
        "PYTHONUNBUFFERED": "1",
    }

"""The worker process. The front starts it as `python -m edged.device` and talks on its stdin."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys

import msgspec

from edged import logs
from edged.device.settings import WorkerStart
from edged.device.worker import Worker

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> int:
    logs.begin()
    start = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerStart)
    logs.begin(start.settings.log_level)
    _end_with(start.parent_pid)
    # The front decides when to end, also when a terminal or systemd signals the whole group.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    orders, reports = (socket.socket(fileno=fd) for fd in (start.orders, start.reports))
    with orders, reports:
        worker = Worker(start.settings, orders, reports)
        try:
            worker.start()
            worker.serve()
            return 0
        except Exception as error:
            worker.fail(error)
    return 1


def _end_with(parent_pid: int) -> None:
    """Let the kernel kill this process when its parent's thread ends, however it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:  # it ended before this call
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())

"""`python leash.py PARENT COMMAND..`: become COMMAND, which the kernel ends when PARENT ends.

The kernel sends SIGTERM when the thread of PARENT that started this process is gone, for any
reason. This file runs as a script, so that it needs nothing but Python itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2); it outlives execve(2)


def main() -> None:
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):  # PARENT ended before prctl
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()

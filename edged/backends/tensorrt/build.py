"""The process that builds: `python -m edged.backends.tensorrt.build`, one order, one entry.

Standard input has a BuildOrder as a line of JSON and stays open; when it is closed the build is
cancelled, also if whoever ordered it has died. Standard output has lines of JSON: BuildProgress,
and at the end Built or NotBuilt. It is the first that the kernel ends when memory runs out.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from edged.backends.tensorrt.builder import BuildFailed
from edged.backends.tensorrt.making import make_entry
from edged.backends.tensorrt.orders import (
    GRACE_S,
    BuildOrder,
    BuildProgress,
    Built,
    FromBuild,
    NotBuilt,
)
from edged.device.failures import typed
from edged.errors import StoreError

_REPORT_S = 0.25  # pause after a report
_NICE = 10  # 19 is the most
_OOM_SCORE = "900"  # 1000 is the most


def outcome(order: BuildOrder, report: Callable[[str, float], bool]) -> Built | NotBuilt:
    """Make the entry; whatever goes wrong is an answer."""
    try:
        return Built(make_entry(order, report))
    except Exception as caught:
        error = typed(caught, "the build failed")
        return NotBuilt(
            error.code,
            str(error),
            may_shrink=isinstance(caught, BuildFailed | MemoryError),
            is_damaged=isinstance(caught, StoreError),
        )


class _Reporter:
    """Writes the lines, and knows whether the build is to go on."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()  # TensorRT reports from threads of its own
        self._next_s = 0.0
        self.is_cancelled = threading.Event()

    def report(self, phase: str, done: float) -> bool:
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + _REPORT_S
            self.write(BuildProgress(phase, round(done, 4)))
        return not self.is_cancelled.is_set()

    def write(self, message: FromBuild) -> None:
        with self._lock, contextlib.suppress(OSError):  # nobody reads any more
            self._out.write(msgspec.json.encode(message) + b"\n")
            self._out.flush()

    def watch(self, orders: BinaryIO) -> None:
        """Cancel at the end of the input, and end the process if the build goes on."""
        orders.read()
        self.is_cancelled.set()
        threading.Event().wait(GRACE_S)
        os._exit(1)


def _be_the_first_to_go() -> None:
    with contextlib.suppress(OSError):  # a sandbox may not allow it
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    with contextlib.suppress(OSError):
        os.nice(_NICE)


def main() -> int:
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # libraries that print must not disturb the lines
        _be_the_first_to_go()
        order = msgspec.json.decode(sys.stdin.buffer.readline(), type=BuildOrder)
        reporter = _Reporter(out)
        threading.Thread(target=reporter.watch, args=(sys.stdin.buffer,), daemon=True).start()
        reporter.write(outcome(order, reporter.report))
        out.flush()
    os._exit(0)  # a thread may still wait for the input


if __name__ == "__main__":
    sys.exit(main())

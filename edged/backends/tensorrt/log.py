"""What TensorRT says: its last lines are kept, since all it returns on failure is False or None."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

log = logging.getLogger("edged.tensorrt")

_KEPT = 50  # lines
_WARNING, _ERROR = 2, 1  # severities; less is worse
_LINE = 300  # characters of a line that go into an error


class Lines:
    """The last lines. TensorRT writes them from any of its threads."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=_KEPT)

    def add(self, severity: int, text: str) -> None:
        line = " ".join(text.split())
        if severity <= _WARNING:
            self._lines.append((severity, line))
        log.debug("%s", line)

    def last(self, otherwise: str) -> str:
        """The last error, or else the last warning."""
        kept = list(self._lines)
        errors = [line for severity, line in kept if severity <= _ERROR]
        return next(reversed(errors or [line for _, line in kept]), otherwise)[:_LINE]

    def clear(self) -> None:
        """So that what is said next is not taken for what was said before."""
        self._lines.clear()


def logger(trt: Any, lines: Lines) -> Any:
    """An ILogger that writes to `lines`."""

    class KeepingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            lines.add(int(severity), msg)

    return KeepingLogger()

"""Where log records go: to the journal with their fields, or to standard error with the time.

Front and worker call `begin` first of all, so that both write in one form, and so that what Python
itself prints (a mistake on the command line, a traceback) has a priority in the journal as well.
Does not depend on libsystemd.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

JOURNAL = Path("/run/systemd/journal/socket")
FIELDS = ("task", "model", "block", "client", "request")
"""What `extra` of a log call may name; the journal has it as EDGED_TASK= and so on."""

_IDENTIFIER = "edged"
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (0, 7),
)


def begin(level: str = "info") -> None:
    """Log from this level on; the first call decides where to."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    if root.handlers:
        return
    stream = sys.stderr
    if not is_journal(stream):
        root.addHandler(_handler(stream, TimedFormatter()))
        return
    sys.stderr = PriorityStream(stream, priority=3)
    lines = _handler(stream, JournalFormatter())
    root.addHandler(JournalHandler(lines) if JOURNAL.is_socket() else lines)


def is_journal(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to this stream goes to the journal; systemd.exec(5)."""
    try:
        status = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return False  # the stream is closed, or is no file
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class TimedFormatter(logging.Formatter):
    """Lines with the time in UTC: `2026-11-30T20:35:18.123Z edged: ERROR: it hung`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(name)s: %(levelname)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


class JournalFormatter(logging.Formatter):
    """Lines that begin with their priority, as sd-daemon(3) has it: `journalctl -p err` works.

    The journal adds the time and the name itself.
    """

    def format(self, record: logging.LogRecord) -> str:
        start = f"<{_priority(record)}>"
        return "\n".join(start + line for line in super().format(record).splitlines())


class JournalHandler(logging.Handler):
    """Sends each record to the journal as one entry with fields, as systemd's "Native Journal
    Protocol" has it: a traceback is one entry, and `journalctl EDGED_MODEL=flowers` works.

    A record that is too long for one entry goes to `otherwise`. One that comes while the journal's
    socket is full is lost, and counted in the log later: to wait for a journal that stands still
    would stop whoever logs.
    """

    def __init__(self, otherwise: logging.Handler, path: Path = JOURNAL) -> None:
        super().__init__()
        self._otherwise = otherwise
        self._path = str(path)
        self._lost = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        # The journal looks up the unit of a process when it first reads something of it. A process
        # that ends with its first words would be of no unit, so an empty entry goes first.
        with contextlib.suppress(BlockingIOError):
            self._send(b"\n")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._report_loss()
            is_sent = self._send(_entry(record, self.format(record)))
        except BlockingIOError:
            self._lost += 1
            return
        except Exception:
            self.handleError(record)
            return
        if not is_sent:
            self._otherwise.handle(record)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _report_loss(self) -> None:
        text = f"{self._lost} log records were lost while the journal was busy"
        warning = logging.makeLogRecord({"levelno": logging.WARNING})
        if self._lost and self._send(_entry(warning, text)):
            self._lost = 0

    def _send(self, entry: bytes) -> bool:
        """Raises BlockingIOError while the journal's socket is full."""
        try:
            self._socket.sendto(entry, self._path)
        except BlockingIOError:
            raise
        except OSError:
            return False
        return True


class PriorityStream(io.TextIOBase):
    """A stream whose lines begin with a priority, for what is not logged but printed."""

    def __init__(self, stream: TextIO, *, priority: int) -> None:
        self._stream = stream
        self._start = f"<{priority}>"
        self._is_new_line = True

    def write(self, text: str) -> int:
        for line in text.splitlines(keepends=True):
            self._stream.write(self._start + line if self._is_new_line else line)
            self._is_new_line = line.endswith("\n")
        return len(text)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()


def _handler(stream: TextIO, formatter: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    return handler


def _priority(record: logging.LogRecord) -> int:
    return next(priority for level, priority in _PRIORITIES if record.levelno >= level)


def _entry(record: logging.LogRecord, text: str) -> bytes:
    fields = {
        "MESSAGE": text,
        "PRIORITY": _priority(record),
        "SYSLOG_IDENTIFIER": _IDENTIFIER,
        **{f"EDGED_{name.upper()}": record.__dict__.get(name) for name in FIELDS},
    }
    return b"".join(_field(name, value) for name, value in fields.items() if value is not None)


def _field(name: str, value: object) -> bytes:
    """`NAME=value` on a line, or with the value's length where the value has several lines."""
    data = str(value).encode(errors="backslashreplace")
    if b"\n" not in data:
        return b"%b=%b\n" % (name.encode(), data)
    return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)

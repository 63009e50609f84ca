"""Messages to the service manager (sd_notify(3): ready, status, stopping, watchdog) and journal.

A message is a datagram to the socket that the environment names; outside systemd nothing is sent.
Does not depend on libsystemd.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends states. A state that cannot be sent never disturbs the service."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = _watchdog_s(environment)

    def ready(self) -> None:
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={' '.join(text.splitlines())}")

    def starting(self, *, within_s: float) -> None:
        """Ask for `within_s` seconds, from now, to become ready."""
        self._send(_extend(within_s))

    def stopping(self, *, within_s: float) -> None:
        """Ask for `within_s` seconds, from now, to end."""
        self._send(f"STOPPING=1\n{_extend(within_s)}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            # The manager may be restarting or its queue full: the next state will reach it.
            with contextlib.suppress(OSError):
                sender.sendto(state.encode(), self._address)


class Watchdog:
    """Decides when to feed the service manager's watchdog: only while the daemon makes progress.

    It makes progress if there is no work, or if work advanced less than `patience_s` ago. A loop
    that turns without progress does not feed the watchdog, and systemd restarts the service.
    """

    def __init__(self, period_s: float | None, patience_s: float) -> None:
        # A quarter of the period: one refusal to feed does not miss the deadline.
        self._interval_s = math.inf if period_s is None else period_s / 4
        self._patience_s = patience_s
        self.ask_at = math.inf if period_s is None else -math.inf

    def due(self, now: float, *, busy: bool, progress_at: float) -> bool:
        """Whether to feed the watchdog now. `progress_at` is the time at which work last advanced.

        Call it at `ask_at`, which is infinity if there is no watchdog.
        """
        if now < self.ask_at:
            return False
        self.ask_at = now + self._interval_s
        return not busy or now - progress_at <= self._patience_s


class JournalFormatter(logging.Formatter):
    """Formats lines that begin with their priority (sd-daemon(3)), for `journalctl -p err`."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next(p for level, p in _PRIORITIES if record.levelno >= level)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


def is_journal(descriptor: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this open file leads to the journal."""
    status = os.fstat(descriptor)
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _extend(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """The period of the watchdog that this process must feed; None if there is none."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    period_us = environment.get("WATCHDOG_USEC", "")
    return int(period_us) / 1e6 if period_us.isdigit() and int(period_us) > 0 else None

"""Word to the service manager (sd_notify(3)): ready, status, stopping, watchdog.

A datagram to the socket that the environment names, and nothing at all outside systemd. Does not
depend on libsystemd.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends states. Failing to send one never disturbs the service."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = _watchdog_s(environment)

    def ready(self) -> None:
        self.send("READY=1")

    def status(self, text: str) -> None:
        """One line that `systemctl status` shows."""
        self.send(f"STATUS={text}")

    def stopping(self) -> None:
        self.send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self.send("WATCHDOG=1")

    def extend_start(self, seconds: float) -> None:
        """Ask for so much more time to become ready, from now."""
        self.send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def send(self, state: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            # The manager may be restarting or its queue full: the next state will do.
            with contextlib.suppress(OSError):
                sender.sendto(state.encode(), self._address)


class Watchdog:
    """Says when to feed the service manager's watchdog: only while the daemon gets on.

    It gets on when it has nothing to do or has seen progress less than `patience_s` ago. A loop
    that turns without getting anywhere starves the watchdog, and systemd restarts the service.
    """

    def __init__(self, period_s: float | None, patience_s: float) -> None:
        self._interval_s = period_s / 2 if period_s is not None else None
        self._patience_s = patience_s
        self._fed_at: float | None = None

    def due(self, now: float, *, busy: bool, progress_at: float) -> bool:
        """True when it should be fed now. `progress_at`: when something last got done."""
        if self._interval_s is None or (busy and now - progress_at > self._patience_s):
            return False
        if self._fed_at is not None and now - self._fed_at < self._interval_s:
            return False
        self._fed_at = now
        return True

    def wakeup_at(self) -> float | None:
        """When to ask again, at the latest."""
        if self._interval_s is None or self._fed_at is None:
            return None
        return self._fed_at + self._interval_s


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """The watchdog's period, if this very process is to feed one."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    period_us = environment.get("WATCHDOG_USEC", "")
    return int(period_us) / 1e6 if period_us.isdigit() and int(period_us) > 0 else None

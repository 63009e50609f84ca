"""Word to the service manager, sd_notify(3): ready, status, stopping, watchdog.

A datagram to the socket that the environment names, and nothing at all outside systemd. Does not
depend on libsystemd.
"""

from __future__ import annotations

import contextlib
import math
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
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line that `systemctl status` shows."""
        self._send(f"STATUS={' '.join(text.splitlines())}")

    def starting(self, *, within_s: float) -> None:
        """Ask for so much time to become ready, from now."""
        self._send(_extend(within_s))

    def stopping(self, *, within_s: float) -> None:
        """Ask for so much time to end, from now."""
        self._send(f"STOPPING=1\n{_extend(within_s)}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            # The manager may be restarting or its queue full: the next state will do.
            with contextlib.suppress(OSError):
                sender.sendto(state.encode(), self._address)


class Watchdog:
    """Says when to feed the service manager's watchdog: only while the daemon gets on.

    It gets on when no work is under way, or when that went on until less than `patience_s` ago. A
    loop that turns without getting anywhere starves the watchdog, and systemd restarts the service.
    """

    def __init__(self, period_s: float | None, patience_s: float) -> None:
        # Often enough that one refusal does not miss the deadline.
        self._interval_s = math.inf if period_s is None else period_s / 4
        self._patience_s = patience_s
        self.ask_at = math.inf if period_s is None else -math.inf

    def due(self, now: float, *, busy: bool, progress_at: float) -> bool:
        """True when it should be fed now. `progress_at`: up to when work went on.

        To be asked at `ask_at`, which is never without a watchdog.
        """
        if now < self.ask_at:
            return False
        self.ask_at = now + self._interval_s
        return not busy or now - progress_at <= self._patience_s


def state_directory(environment: Mapping[str, str] = os.environ) -> str | None:
    """The directory that the unit's `StateDirectory=` names; None where it names none."""
    return environment.get("STATE_DIRECTORY", "").partition(":")[0] or None


def _extend(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """The watchdog's period, if this very process is to feed one."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    period_us = environment.get("WATCHDOG_USEC", "")
    return int(period_us) / 1e6 if period_us.isdigit() and int(period_us) > 0 else None

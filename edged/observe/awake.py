"""Keeps the processors from deep idle states while there is work: PM QoS of the Linux kernel.

An idle processor saves power in states that take long to leave: tens of microseconds in a virtual
machine, milliseconds on some boards. A lone request wakes several processors in turn. As long as a
limit is written to /dev/cpu_dma_latency, which stays open, no processor enters a state that takes
longer to leave (Documentation/power/pm_qos_interface.rst of the kernel).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path

from edged.core.events import (
    BatchDone,
    BatchFailed,
    Command,
    DeviceDown,
    Event,
    Prepare,
    Run,
)
from edged.errors import ConfigError

DEVICE = Path("/dev/cpu_dma_latency")
HOLD_S = 1.0  # processors stay awake this long after work: who asks often finds them awake
_ANY_US = 2_000_000_000  # the kernel's value for no limit: PM_QOS_CPU_LATENCY_DEFAULT_VALUE


class Awake:
    """Owns this process's limit. An observer; `sweep` ends the limit some time after the work."""

    def __init__(self, limit_us: int, device: Path = DEVICE) -> None:
        """Raises ConfigError where the kernel cannot be told."""
        self._limit_us = limit_us
        self._needed_at = 0.0
        self._is_limited = False
        self._batches = 0  # batches that run
        try:
            self._file = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(
                f"device.idle_latency_us: {device}: {error.strerror}; let the account of the "
                "daemon write there (docs/operations.md), or leave the setting out"
            ) from error

    def turn(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        """There is work while batches run, and when something is to be prepared or run."""
        if isinstance(event, (BatchDone, BatchFailed)):
            self._batches -= 1
        elif isinstance(event, DeviceDown):
            self._batches = 0
        for command in commands:
            if isinstance(command, Run):
                self._batches += 1
            if isinstance(command, (Prepare, Run)):
                self.needed(now)

    def needed(self, now: float) -> None:
        """There is work."""
        self._needed_at = now
        if not self._is_limited:
            self._write(self._limit_us)
            self._is_limited = True

    def sweep(self, now: float) -> None:
        """Let the processors sleep as they like when there has been no work for a while."""
        if self._batches:
            self.needed(now)
        if self._is_limited and now - self._needed_at > HOLD_S:
            self._write(_ANY_US)
            self._is_limited = False

    def close(self) -> None:
        """The limit ends with it."""
        os.close(self._file)

    def _write(self, limit_us: int) -> None:
        os.write(self._file, struct.pack("=i", limit_us))

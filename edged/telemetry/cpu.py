"""The clocks of the processors, as the kernel's cpufreq tells them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edged.telemetry.files import FileTree


class CpuClock(msgspec.Struct, frozen=True, omit_defaults=True):
    """The processors that share a clock."""

    processors: str  # 0 1 2 3
    hz: int | None = None
    limit_hz: int | None = None  # what the power mode, and cooling, allow now
    hardware_hz: int | None = None  # what the hardware can do
    governor: str | None = None


def read(tree: FileTree) -> tuple[CpuClock, ...]:
    """All clocks; none in a virtual machine."""
    return tuple(
        CpuClock(
            tree.text(f"{folder}/affected_cpus") or folder.rpartition("policy")[2],
            _hz(tree, f"{folder}/scaling_cur_freq"),
            _hz(tree, f"{folder}/scaling_max_freq"),
            _hz(tree, f"{folder}/cpuinfo_max_freq"),
            tree.text(f"{folder}/scaling_governor"),
        )
        for folder in tree.find("sys/devices/system/cpu/cpufreq/policy*")
    )


def total_limit_hz(clocks: Iterable[CpuClock]) -> int | None:
    """The limits of all processors that are on, added up: power modes switch some off."""
    return sum(len(c.processors.split()) * (c.limit_hz or 0) for c in clocks) or None


def _hz(tree: FileTree, path: str) -> int | None:
    khz = tree.number(path)
    return None if khz is None else khz * 1000

"""What processes take of this machine's memory, and how much the daemon may take. Linux only.

The budget is the smallest of what the configuration says, what the control group leaves (version 1
or 2, with all groups above) and what the machine has available; of the latter two a reserve stays
free. On a Jetson the GPU's memory is the machine's, so this is its budget as well.

Knows nothing of what the memory is for. Read again and again: others come and go.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edged import cgroups


class Footprint(NamedTuple):
    """Proportional set sizes: a page that n processes share counts 1/n in each, so they add up."""

    pss_bytes: int
    private_bytes: int  # of it, what no file backs: the kernel cannot take it back

    def __add__(self, other: tuple[object, ...]) -> Footprint:
        assert isinstance(other, Footprint)
        return Footprint(self.pss_bytes + other.pss_bytes, self.private_bytes + other.private_bytes)


def footprint(process: int | str = "self", proc: Path = Path("/proc")) -> Footprint:
    """Of a process of ours. It takes the kernel about 1 ms for each 100 MB."""
    sizes = _sizes((proc / str(process) / "smaps_rollup").read_text())
    return Footprint(sizes["Pss"], sizes["Pss_Anon"])


def anonymous_bytes(proc: Path = Path("/proc")) -> int:
    """Of this process, what no file backs: a reading of some microseconds, to look often."""
    _, resident, shared, *_ = (proc / "self" / "statm").read_text().split()
    return (int(resident) - int(shared)) * _PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Machine:
    """Where to look; tests bring their own files."""

    proc: Path = Path("/proc")
    cgroups: Path = Path("/sys/fs/cgroup")

    def budget_bytes(self, configured_bytes: int, reserve_bytes: int, held: Footprint) -> int:
        """What the daemon may hold in all, if it holds `held` now. `configured_bytes` 0: any.

        What it holds that a file backs counts as available to the kernel, so it is not added to
        what the machine has available.
        """
        limits = [self._available_bytes() + held.private_bytes - reserve_bytes]
        for group in self._groups():
            free_bytes = group.limit_bytes - group.working_bytes
            limits.append(min(group.limit_bytes, free_bytes + held.pss_bytes) - reserve_bytes)
        if configured_bytes:
            limits.append(configured_bytes)
        return max(0, min(limits))

    def ceiling_bytes(self, configured_bytes: int, reserve_bytes: int) -> int:
        """What it may hold at most, when nobody else holds any. `configured_bytes` 0: any."""
        limits = [_sizes((self.proc / "meminfo").read_text())["MemTotal"] - reserve_bytes]
        limits += [group.limit_bytes - reserve_bytes for group in self._groups()]
        if configured_bytes:
            limits.append(configured_bytes)
        return max(0, min(limits))

    def _available_bytes(self) -> int:
        return _sizes((self.proc / "meminfo").read_text())["MemAvailable"]

    def _groups(self) -> Iterator[_Group]:
        """Those with a limit, from this process's own to the root."""
        for folder in cgroups.folders("memory", self.proc, self.cgroups):
            for names in (_V1, _V2):
                group = names.read(folder)
                if group is not None:
                    yield group


class _Group(NamedTuple):
    limit_bytes: int
    working_bytes: int  # in use, without what the kernel drops when it needs memory


@dataclass(frozen=True, slots=True)
class _Names:
    """How a version of control groups calls its files and figures."""

    limit: str
    usage: str
    prefix: str  # of figures that include the groups below
    mapped: str

    def read(self, folder: Path) -> _Group | None:
        """The group of a folder; None without a limit."""
        try:
            text = (folder / self.limit).read_text().strip()
            if text == "max" or int(text) >= _NO_LIMIT:
                return None
            usage_bytes = int((folder / self.usage).read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
        except FileNotFoundError:
            return None  # the root of version 2 has none, nor has a group without the controller
        stat = {name: int(value) for name, value in (line.split() for line in lines)}
        cached = stat[f"{self.prefix}inactive_file"] + stat[f"{self.prefix}active_file"]
        unmapped = max(0, cached - stat[f"{self.prefix}{self.mapped}"])
        return _Group(int(text), usage_bytes - unmapped)


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NO_LIMIT = 1 << 60
_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_", "mapped_file")
_V2 = _Names("memory.max", "memory.current", "", "file_mapped")


def _sizes(text: str) -> dict[str, int]:
    """Bytes by name of lines as `Pss:   123 kB`; others are passed over."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0]) * 1024
    return found

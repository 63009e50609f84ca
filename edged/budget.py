"""The memory that processes take on this machine, and the memory that the daemon may take.

The budget is the smallest of three: the configured size, what the control group leaves (version 1
or 2, with all groups above), and what the machine has available. A reserve stays free of the latter
two. The GPU of a Jetson uses the machine's memory, so the budget is the GPU's as well, and what is
allocated there is in no proportional set size. A GPU with memory of its own has its own budget.

The budget is read again and again, since other processes come and go. Linux only. Knows nothing of
what the memory is for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias

from msgspec import Meta

from edged import cgroups
from edged.typeinfo import describe

Size: TypeAlias = Annotated[int, Meta(ge=0)]  # bytes


class Footprint(NamedTuple):
    """Proportional set sizes: a page that n processes share counts 1/n in each, so they add up."""

    pss_bytes: int
    private_bytes: int  # the part that no file backs, which the kernel cannot take back

    def __add__(self, other: tuple[object, ...]) -> Footprint:
        assert isinstance(other, Footprint)
        return Footprint(self.pss_bytes + other.pss_bytes, self.private_bytes + other.private_bytes)


class DeviceBytes(NamedTuple):
    """Memory of a GPU, which is in no process's proportional set size."""

    held_bytes: Size  # what the worker has for blocks and batches
    free_bytes: Size = 0  # that the worker may take besides, of memory of its own
    total_bytes: Size = 0  # of its own; 0: it takes the machine's, as on a Jetson

    @property
    def is_unified(self) -> bool:
        """Whether it is the machine's memory."""
        return self.total_bytes == 0

    def budget_bytes(self, configured_bytes: int) -> int:
        """What the worker may hold of memory of its own; `configured_bytes` as for a Machine."""
        limit = self.held_bytes + self.free_bytes
        return min(limit, configured_bytes or limit)

    def ceiling_bytes(self, configured_bytes: int) -> int:
        """The same when nobody else holds any."""
        return min(self.total_bytes, configured_bytes or self.total_bytes)


def footprint(process: int | str = "self", proc: Path = Path("/proc")) -> Footprint:
    """The footprint of a process of ours. The kernel takes about 1 ms for each 100 MB."""
    sizes = _sizes((proc / str(process) / "smaps_rollup").read_text())
    return Footprint(sizes["Pss"], sizes["Pss_Anon"])


def anonymous_bytes(proc: Path = Path("/proc")) -> int:
    """The memory of this process that no file backs. Reading it takes only some microseconds."""
    _, resident, shared, *_ = (proc / "self" / "statm").read_text().split()
    return (int(resident) - int(shared)) * _PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Machine:
    """The files that tell the machine's memory; tests bring their own."""

    proc: Path = Path("/proc")
    cgroups: Path = Path("/sys/fs/cgroup")

    def budget_bytes(self, configured_bytes: int, reserve_bytes: int, held: Footprint) -> int:
        """The memory that the daemon may hold, if it holds `held` now.

        `configured_bytes` is 0 if the configuration sets no limit. Memory of the daemon that a file
        backs already counts as available to the kernel, so it is not added to that.
        """
        limits = [self._available_bytes() + held.private_bytes - reserve_bytes]
        for group in self._groups():
            free_bytes = group.limit_bytes - group.working_bytes
            limits.append(min(group.limit_bytes, free_bytes + held.pss_bytes) - reserve_bytes)
        if configured_bytes:
            limits.append(configured_bytes)
        return max(0, min(limits))

    def ceiling_bytes(self, configured_bytes: int, reserve_bytes: int) -> int:
        """The most that the daemon may hold when nobody else holds any memory.

        `configured_bytes` is 0 if the configuration sets no limit.
        """
        limits = [_sizes((self.proc / "meminfo").read_text())["MemTotal"] - reserve_bytes]
        limits += [group.limit_bytes - reserve_bytes for group in self._groups()]
        if configured_bytes:
            limits.append(configured_bytes)
        return max(0, min(limits))

    def _available_bytes(self) -> int:
        return _sizes((self.proc / "meminfo").read_text())["MemAvailable"]

    def _groups(self) -> Iterator[_Group]:
        """The control groups with a limit, from this process's own to the root."""
        for folder in cgroups.folders("memory", self.proc, self.cgroups):
            for names in (_V1, _V2):
                group = names.read(folder)
                if group is not None:
                    yield group


class _Group(NamedTuple):
    limit_bytes: int
    working_bytes: int  # memory in use that the kernel cannot simply drop


@dataclass(frozen=True, slots=True)
class _Names:
    """The names of files and figures in one version of control groups."""

    limit: str
    usage: str
    prefix: str  # begins the names of figures that include the groups below
    mapped: str

    def read(self, folder: Path) -> _Group | None:
        """The group of a folder; None if it has no limit."""
        try:
            text = (folder / self.limit).read_text().strip()
            if text == "max" or int(text) >= _NO_LIMIT:
                return None
            usage_bytes = int((folder / self.usage).read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
        except FileNotFoundError:
            return None  # the root of version 2 and groups without the controller have no such file
        stat = {name: int(value) for name, value in (line.split() for line in lines)}
        cached = stat[f"{self.prefix}inactive_file"] + stat[f"{self.prefix}active_file"]
        unmapped = max(0, cached - stat[f"{self.prefix}{self.mapped}"])
        return _Group(int(text), usage_bytes - unmapped)


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_NO_LIMIT = 1 << 60
_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_", "mapped_file")
_V2 = _Names("memory.max", "memory.current", "", "file_mapped")


def _sizes(text: str) -> dict[str, int]:
    """The bytes, by name, in lines like `Pss:   123 kB`; other lines are skipped."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            found[name] = int(words[0]) * 1024
    return found


describe(DeviceBytes)

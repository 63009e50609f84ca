"""The control groups of this process, version 1 and 2, and how much of the processors they leave.

Limits of all groups above hold as well, so each is looked at from this process's own to the root.
Linux only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def folders(controller: str, proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[Path]:
    """Of the groups that limit this process by the controller, or may do; its own first."""
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            root = cgroups / controller
        elif not controllers:
            root = cgroups  # version 2 has one tree for all
        else:
            continue
        # In a container the path may be the host's, and the root here the group itself.
        folder = root / path.lstrip("/")
        if not folder.is_dir():
            folder = root
        for at in (folder, *folder.parents):
            if not at.is_relative_to(root):
                break
            yield at


def processors(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """How many this process may use: by its affinity, and by the quotas of its groups.

    A quota is a share of the time, and may be a fraction. Half a processor and more is worth a
    thread; with one more than that, all of them run out of the quota together and stand still for
    the rest of each period.
    """
    allowed = len(os.sched_getaffinity(0))
    quotas = [_quota(folder) for folder in folders("cpu", proc, cgroups)]
    return max(1, math.floor(min([allowed, *quotas]) + 0.5))


def _quota(folder: Path) -> float:
    """Processors' worth of time; infinity without a limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except FileNotFoundError:
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text()
        except FileNotFoundError:
            return math.inf  # a root, or a group without the controller
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)

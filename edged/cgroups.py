"""The control groups of this process, version 1 and 2, and the processors that they leave to it.

The limits of all groups above hold as well, so all are read, from this process's own to the root.
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
    """The folders of the groups in which the controller may limit this process, its own first."""
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            root = cgroups / controller
        elif not controllers:
            root = cgroups  # version 2 has one tree for all controllers
        else:
            continue
        # The path in a container may be the host's, and the root here the group itself.
        folder = root / path.lstrip("/")
        if not folder.is_dir():
            folder = root
        for at in (folder, *folder.parents):
            if not at.is_relative_to(root):
                break
            yield at


def processors(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """The number of processors that this process may use, by its affinity and its groups' quotas.

    A quota is a share of the time, and may be a fraction. It is rounded: half a processor is worth
    a thread. One thread more, and all of them use up the quota together and stand still for the
    rest of each period.
    """
    allowed = len(os.sched_getaffinity(0))
    quotas = [_quota(folder) for folder in folders("cpu", proc, cgroups)]
    return max(1, math.floor(min([allowed, *quotas]) + 0.5))


def _quota(folder: Path) -> float:
    """The quota of a group in processors; infinity if there is no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except FileNotFoundError:
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text()
        except FileNotFoundError:
            return math.inf  # the folder is the root, or a group without the controller
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)

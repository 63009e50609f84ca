"""The processors that a control group leaves, on groups made of files and on a real one."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged import cgroups
from edged.config import Config, DeviceConfig
from edged.daemon import worker_settings


@pytest.fixture
def of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight processors, whatever this one has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))


def processors(folder: Path, groups: str, **files: str) -> int:
    """`files` by their paths below the root of control groups, with __ for the slashes."""
    (folder / "self").mkdir()
    (folder / "self" / "cgroup").write_text(groups)
    (folder / "root").mkdir()
    for name, text in files.items():
        path = folder / "root" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return cgroups.processors(folder, folder / "root")


@pytest.mark.usefixtures("of_eight")
@pytest.mark.parametrize(
    ("quota", "count"),
    [("max", 8), ("20", 1), ("100", 1), ("140", 1), ("150", 2), ("200", 2), ("260", 3), ("990", 8)],
)
def test_a_quota_is_worth_as_many_threads_as_it_keeps_running(tmp_path, quota, count):
    text = f"{quota}000 100000" if quota != "max" else "max 100000"
    assert processors(tmp_path, "0::/edged\n", edged__cpu_max=text) == count


@pytest.mark.usefixtures("of_eight")
def test_the_least_of_all_groups_above_counts(tmp_path):
    quotas = {"a__cpu_max": "300000 100000", "a__b__cpu_max": "1000000 100000"}
    assert processors(tmp_path, "0::/a/b/c\n", a__b__c__cpu_max="max 100000", **quotas) == 3


@pytest.mark.usefixtures("of_eight")
def test_the_first_version_has_files_of_its_own(tmp_path):
    files = {
        "cpu__a__cpu_cfs_quota_us": "50000",
        "cpu__a__cpu_cfs_period_us": "25000",
        "cpu__a__b__cpu_cfs_quota_us": "-1",
        "cpu__a__b__cpu_cfs_period_us": "100000",
    }
    assert processors(tmp_path, "3:cpu,cpuacct:/a/b\n2:cpuset:/\n0::/\n", **files) == 2


@pytest.mark.usefixtures("of_eight")
def test_in_a_container_the_root_is_the_group_itself(tmp_path):
    groups = "4:cpu:/docker/of-the-host\n0::/docker/of-the-host\n"
    assert processors(tmp_path, groups, cpu_max="400000 100000") == 4


@pytest.mark.usefixtures("of_eight")
def test_without_groups_all_that_are_allowed(tmp_path):
    assert processors(tmp_path, "") == 8


def test_affinity_may_allow_less(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert processors(tmp_path, "0::/\n", cpu_max="700000 100000") == 2


@contextlib.contextmanager
def real_group() -> Iterator[Path]:
    """A group of our own with a quota of one processor, if we may make one."""
    for root in (cgroups.CGROUPS / "cpu", cgroups.CGROUPS):
        group = root / f"edged-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / "cpu.max").exists():
                (group / "cpu.max").write_text("100000 100000")
            elif (group / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_quota_us").write_text("100000")
            else:
                continue
            yield group
            return
        finally:
            group.rmdir()
    pytest.skip("needs the right to make a control group with a quota of processor time")


def test_the_threads_of_a_worker_follow_a_real_quota():
    asks = (
        "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "from edged.config import Config\nfrom edged.daemon import worker_settings\n"
        "settings = worker_settings(Config(), ())\n"
        "print(settings.threads, settings.prepare_threads)"
    )
    with real_group() as group:
        command = [sys.executable, "-c", asks, str(group / "cgroup.procs")]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        until = time.monotonic() + 10.0
        while (group / "cgroup.procs").read_text() and time.monotonic() < until:
            pass  # the kernel removes the ended process from the group
    assert said.stdout.split() == ["1", "1"]


def test_what_the_configuration_says_goes_before_that():
    settings = worker_settings(Config(device=DeviceConfig(threads=7)), ())
    assert (settings.threads, settings.prepare_threads) == (7, cgroups.processors())

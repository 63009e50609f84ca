"""The budget, on machines made of files: control groups of both versions, and no groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edged.budget import Footprint, Machine, footprint

MIB = 1 << 20
HELD = Footprint(pss_bytes=100 * MIB, private_bytes=60 * MIB)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def machine(tmp_path: Path, groups: str = "", available_mib: int = 1000, **_: object) -> Machine:
    write(
        tmp_path / "proc",
        {
            "meminfo": f"MemTotal: 9 kB\nMemAvailable: {available_mib << 10} kB\nPages: 0\n",
            "self/cgroup": groups,
        },
    )
    return Machine(tmp_path / "proc", tmp_path / "cgroup")


def v1(limit: int, usage: int, cached: int = 0, mapped: int = 0) -> dict[str, str]:
    return {
        "memory.limit_in_bytes": f"{limit}\n",
        "memory.usage_in_bytes": f"{usage}\n",
        "memory.stat": f"inactive_file 1\ntotal_inactive_file {cached}\ntotal_active_file 0\n"
        f"total_mapped_file {mapped}\n",
    }


def v2(limit: int | str, usage: int, cached: int = 0, mapped: int = 0) -> dict[str, str]:
    return {
        "memory.max": f"{limit}\n",
        "memory.current": f"{usage}\n",
        "memory.stat": f"inactive_file {cached}\nactive_file 0\nfile_mapped {mapped}\n",
    }


def test_the_machine_alone(tmp_path: Path) -> None:
    """The budget is the available memory and ours, except for memory that a file backs."""
    found = machine(tmp_path).budget_bytes(0, 50 * MIB, HELD)
    assert found == (1000 + 60 - 50) * MIB


def test_the_configuration_is_taken_as_it_is(tmp_path: Path) -> None:
    assert machine(tmp_path).budget_bytes(300 * MIB, 50 * MIB, HELD) == 300 * MIB
    assert machine(tmp_path, available_mib=100).budget_bytes(300 * MIB, 0, HELD) == 160 * MIB


def test_a_machine_that_is_full(tmp_path: Path) -> None:
    assert machine(tmp_path, available_mib=0).budget_bytes(0, 500 * MIB, HELD) == 0


@pytest.mark.parametrize(
    ("line", "folder", "files"), [("4:cpu,memory:/a/b", "memory/a/b", v1), ("0::/a/b", "a/b", v2)]
)
def test_a_control_group(tmp_path: Path, line: str, folder: str, files) -> None:
    found = machine(tmp_path, f"9:pids:/\n{line}\n")
    root = tmp_path / "cgroup"
    write(root / folder, files(limit=400 * MIB, usage=120 * MIB))
    assert found.budget_bytes(0, 50 * MIB, HELD) == (400 - 120 + 100 - 50) * MIB
    # Cache that the kernel drops when it needs memory is not in use; the mapped part of it is.
    write(root / folder, files(400 * MIB, 390 * MIB, cached=300 * MIB, mapped=40 * MIB))
    assert found.budget_bytes(0, 50 * MIB, HELD) == (400 - 130 + 100 - 50) * MIB
    # Pages of ours that are charged to another group do not raise the limit.
    write(root / folder, files(400 * MIB, 10 * MIB))
    assert found.budget_bytes(0, 50 * MIB, HELD) == (400 - 50) * MIB
    # A group above may allow less.
    write((root / folder).parent, files(300 * MIB, 200 * MIB))
    assert found.budget_bytes(0, 50 * MIB, HELD) == (300 - 200 + 100 - 50) * MIB


@pytest.mark.parametrize("unlimited", [v1((1 << 63) - 4096, 0), v2("max", 0)])
def test_groups_without_a_limit(tmp_path: Path, unlimited: dict[str, str]) -> None:
    found = machine(tmp_path, "4:memory:/\n0::/\n")
    write(tmp_path / "cgroup", unlimited)
    write(tmp_path / "cgroup" / "memory", unlimited)
    assert found.budget_bytes(0, 0, HELD) == 1060 * MIB


def test_the_path_of_the_host_in_a_container(tmp_path: Path) -> None:
    found = machine(tmp_path, "0::/machine.slice/of-the-host\n")
    write(tmp_path / "cgroup", v2(200 * MIB, 100 * MIB))
    assert found.budget_bytes(0, 0, HELD) == 200 * MIB


def test_this_machine() -> None:
    held = footprint()
    assert 0 < held.private_bytes < held.pss_bytes
    assert footprint(os.getpid()).pss_bytes == pytest.approx(held.pss_bytes, rel=0.05)
    assert (held + held).pss_bytes == 2 * held.pss_bytes
    assert Machine().budget_bytes(0, 0, held) > 0

"""The names of machines, on made-up trees of files for boards and PCs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.profiles import boards

CORE = "processor\t: {}\nCPU implementer\t: 0x41\nCPU part\t: {}\n\n"
PC = "processor\t: {}\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9B14\n\n"


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def orin(part: str = "0xd42", cores: int = 6, **files: str) -> dict[str, str]:
    return {
        "proc/cpuinfo": "".join(CORE.format(number, part) for number in range(cores)),
        "proc/meminfo": "MemTotal:        7802740 kB\n",
        **files,
    }


def test_a_pc_is_named_by_its_processor_alone(tmp_path):
    files = {"proc/cpuinfo": PC.format(0) + PC.format(1), "proc/meminfo": "MemTotal: 1 kB\n"}
    assert boards.name(tree(tmp_path, files), "x86_64") == "AMD EPYC 9B14, x86_64"


def test_a_board_is_named_by_the_model_that_its_device_tree_tells(tmp_path):
    files = {"proc/device-tree/model": "NVIDIA Jetson Orin Nano\0", **orin()}
    assert boards.name(tree(tmp_path, files), "aarch64") == "NVIDIA Jetson Orin Nano, aarch64"


def test_a_board_without_a_model_is_named_by_what_it_is_made_of(tmp_path):
    files = orin(cores=2)
    files["sys/firmware/devicetree/base/compatible"] = "nvidia,p3768\0nvidia,tegra234\0"
    files["etc/nv_tegra_release"] = "# R36 (release), REVISION: 3.0, BOARD: generic, EABI: aarch64"
    for number in range(2):
        files[f"sys/devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq"] = "1510400\n"
    assert boards.name(tree(tmp_path, files), "aarch64") == (
        "nvidia,p3768 nvidia,tegra234; generic; 2 cores 0x41:0xd42 at most 1.51 GHz; 8 GiB, aarch64"
    )


@pytest.mark.parametrize(
    "other",
    [
        orin(part="0xd08"),
        orin(cores=8),
        orin(**{"proc/meminfo": "MemTotal:       16000000 kB\n"}),
        orin(**{"proc/device-tree/compatible": "nvidia,p3701\0"}),
        orin(**{"sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2201600\n"}),
        orin(**{"etc/nv_tegra_release": "# R36, BOARD: t186ref, EABI: aarch64"}),
    ],
    ids=["cores of another kind", "more cores", "memory", "chips", "speed", "release"],
)
def test_boards_that_differ_have_different_names(tmp_path, other):
    names = {
        boards.name(tree(tmp_path / name, files), "aarch64")
        for name, files in (("one", orin()), ("other", other))
    }
    assert len(names) == 2


def test_a_model_name_that_all_boards_have_is_not_enough(tmp_path):
    alike = "model name\t: ARMv8 Processor rev 1 (v8l)\nprocessor\t: 0\nCPU part\t: {}\n"
    names = {
        boards.name(tree(tmp_path / part, {"proc/cpuinfo": alike.format(part)}), "aarch64")
        for part in ("0xd42", "0xd08")
    }
    assert len(names) == 2


def test_a_machine_that_tells_nothing_has_a_name_too(tmp_path):
    assert boards.name(tmp_path, "riscv64") == "unknown processor, riscv64"

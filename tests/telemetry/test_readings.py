"""What is read of boards at rest, and what is left out because it would be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.telemetry import board, gpu, power, thermal
from edged.telemetry.files import FileTree
from edged.telemetry.gpu import GpuReading
from edged.telemetry.reading import BoardReading, look
from tests.jetson import trees


def tree(root: Path, name: str = "orin-nano", jetpack: str = "6.2", **more: str) -> FileTree:
    return FileTree(trees.plant(root, {**trees.files(name, jetpack), **more}))


def test_an_orin_nano_tells_everything(tmp_path):
    assert look(tree(tmp_path)) == BoardReading(
        gpu=GpuReading(0.045, 306_000_000, 306_000_000, 918_000_000, "nvhost_podgov"),
        cpu_limit_hz=6 * 1_344_000_000,
        temperatures_c={"cpu": 50.125, "gpu": 50.562, "tj": 50.562},
        rails_w={"VDD_IN": 6.62872, "VDD_CPU_GPU_CV": 1.226064, "VDD_SOC": 2.378528},
        total_w=6.62872,
        power_mode="25W",
        alerts=(),
        supply_events={"under-voltage": 0, "over-current": 0, "over-current peak": 0},
    )


def test_an_agx_orin_has_no_rail_for_all_so_three_are_added(tmp_path):
    reading = look(tree(tmp_path, "agx-orin"))
    assert reading.rails_w == pytest.approx(
        {"VDD_GPU_SOC": 2.4, "VDD_CPU_CV": 0.8, "VIN_SYS_5V0": 3.5, "VDDQ_VDD2_1V8AO": 0.3}
    )
    assert reading.total_w == pytest.approx(6.7)


def test_a_thor_tells_no_load_and_its_negative_rail_is_left_out(tmp_path):
    reading = look(tree(tmp_path, "thor", "7.1"))
    assert reading.gpu == GpuReading(None, 315_000_000, 315_000_000, 1_575_000_000, "nvhost_podgov")
    assert reading.rails_w == pytest.approx(
        {"VDD_CPU_SOC_MSS": 6.48, "VIN_SYS_5V0": 6.5, "VIN": 23.1}
    )
    assert reading.total_w == pytest.approx(23.1)
    assert "gpu" not in reading.temperatures_c
    assert reading.alerts == ()  # devfreq-gpu-gpc-0 is the limit of a power mode


def test_a_machine_without_sensors_tells_nothing(tmp_path):
    assert look(FileTree(trees.plant(tmp_path, trees.PC))).tells_nothing
    assert look(FileTree(tmp_path / "nothing")).tells_nothing


@pytest.mark.parametrize("load", ["", "off", "-1", "1001"])
def test_a_load_that_cannot_be_is_absent(tmp_path, load):
    files = tree(tmp_path, **{"sys/class/devfreq/17000000.gpu/device/load": load})
    assert gpu.read(files).load is None


def test_a_sensor_that_cannot_be_read_is_absent(tmp_path):
    files = tree(tmp_path)
    zone = tmp_path / "sys/class/thermal/thermal_zone1/temp"
    zone.unlink()
    zone.mkdir()  # reading it is an error, as that of a sensor whose unit is off
    assert thermal.temperatures_c(files) == {"cpu": 50.125, "tj": 50.562}


def test_a_fan_that_turns_is_no_throttling(tmp_path):
    files = tree(tmp_path, **{"sys/class/thermal/cooling_device2/cur_state": "1\n"})
    assert thermal.alerts(files) == ("gpu-throttle-alert",)


@pytest.mark.parametrize(
    ("status", "mode"), [("pmode:0002", "MAXN_SUPER"), ("pmode:0009", None), ("nothing", None)]
)
def test_a_power_mode_is_a_name_or_nothing(tmp_path, status, mode):
    assert power.mode(tree(tmp_path, **{"var/lib/nvpmodel/status": status})) == mode


@pytest.mark.parametrize(("name", "jetpack"), trees.ALL)
def test_a_board_is_recognised(tmp_path, name, jetpack):
    found = board.read(tree(tmp_path, name, jetpack))
    assert found.jetpack is not None
    assert found.jetpack.name == jetpack
    assert found.jetpack.python == trees.RELEASES[jetpack][2]
    assert found.chip == ("tegra264" if name == "thor" else "tegra234")


@pytest.mark.parametrize(
    ("l4t", "name"),
    [("35.2.1", "5.1"), ("35.6.0", "5.1"), ("36.4.7", "6.2.1"), ("36.5.0", "6.2.2"),
     ("39.2.1", "7.2"), ("36.2.0", None), ("32.7.1", None), ("41.0.0", None)],
)  # fmt: skip
def test_releases_between_rows_belong_to_the_row_above(l4t, name):
    found = board.jetpack(l4t)
    assert (found and found.name) == name


def test_the_table_ascends_and_only_what_is_new_enough_is_served():
    rows = board.table()
    releases = [tuple(map(int, row.l4t.split("."))) for row in rows]
    assert releases == sorted(releases)
    for row in rows:
        is_new = tuple(map(int, row.tensorrt.split("."))) >= (10, 3) and row.python != "3.8"
        assert row.served == is_new

"""What calibration finds out about blocks, on lanes whose times are written down."""

from __future__ import annotations

import json
import queue
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edged.backends.memory import HostMemory
from edged.budget import DeviceBytes
from edged.device.calibration import Calibration
from edged.device.executor import Segment
from edged.device.measurements import BlockFigures, Measurements
from edged.link import messages as link
from edged.manifest import SCHEMA, Layer, Manifest, PathStep, Value

IMAGE, LATE = 3000, 10  # bytes of a row of the input, and of what crosses
LIGHT, HEAVY = 500, 100_000  # bytes of weights
ROWS = 4


def model(name: str, *blocks: tuple[str, int]) -> Manifest:
    """Blocks one after the other, each with what it weighs."""
    names = ["x", *(f"v{i}" for i in range(len(blocks)))]
    return Manifest(
        schema=SCHEMA,
        name=name,
        task=name,
        precision="fp32",
        inputs=("x",),
        outputs=(names[-1],),
        values=tuple(Value(n, "UINT8", (IMAGE if n == "x" else LATE,)) for n in names),
        steps=tuple(
            PathStep(block, (r,), (w,), (Layer(block, (r,), (w,), weight_bytes),))
            for (block, weight_bytes), r, w in zip(blocks, names, names[1:], strict=False)
        ),
        whole_bytes=0,
    )


class Ran(msgspec.Struct):
    runs: list[link.BlockRun]


class Lane:
    """Runs nothing. `us`: of a run of 1, 2 and 4 rows of each block."""

    memory = HostMemory()

    def __init__(self, models: Mapping[str, Manifest], us: Mapping[str, tuple[int, int, int]]):
        self._models = models
        self._us = us
        self.sizes: list[int] = []
        self.microbatches: dict[str, int] = {}

    def compute(self, segments: Sequence[Segment], *, wide: bool = True) -> Ran:
        (segment,) = segments
        rows = len(segment.rows)
        self.sizes.append(rows)
        steps = self._models[segment.models[0]].steps
        times_us = {
            step.block: dict(zip((1, 2, 4), self._us[step.block], strict=True)) for step in steps
        }
        return Ran([link.BlockRun(block, rows, of[rows]) for block, of in times_us.items()])

    def split(self, microbatches: Mapping[str, int]) -> None:
        self.microbatches = dict(microbatches)


ROW_BY_ROW, IN_PAIRS, AT_ONCE = (5000, 11000, 25000), (5000, 9000, 22000), (5000, 8000, 12000)


class Device:
    """Two lanes of a host."""

    lanes = 2
    memory = HostMemory()

    def device_bytes(self) -> DeviceBytes | None:
        return None


class Card(Device):
    """One lane of a GPU with memory of its own, whose runs take it."""

    lanes = 1

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def device_bytes(self) -> DeviceBytes:
        return DeviceBytes(1000 + 5000 + 70 * max(self._lane.sizes, default=0), 10**6, 10**7)


def calibrated(models: Sequence[Manifest], us: Mapping[str, Any], folder: Path) -> list[Lane]:
    """Two lanes, after all models were measured one after the other."""
    by_name = {one.name: one for one in models}
    lanes: list[Any] = [Lane(by_name, us), Lane(by_name, us)]
    idle: queue.LifoQueue[Any] = queue.LifoQueue()
    for lane in lanes:
        idle.put(lane)
    measurements = Measurements(folder, {})
    for block in us:
        if measurements.block(block) is None:
            measurements.keep_block(block, BlockFigures(1, 1, 0))
    device: Any = Device()
    calibration = Calibration(device, lanes, idle, measurements, counted_bytes=lambda: 0)
    for lane in lanes:
        lane.split(calibration.microbatches(tuple(us)))
    for name, one in by_name.items():
        while not calibration.step(name, one, ROWS):
            pass
        assert calibration.is_known(one, ROWS)
    return lanes


def test_a_light_block_runs_as_many_rows_as_are_quickest_on_every_lane(tmp_path: Path) -> None:
    backbone = model("a", ("early", LIGHT), ("late", HEAVY))
    for times_us, found in ((ROW_BY_ROW, 1), (IN_PAIRS, 2)):
        us = {"early": times_us, "late": ROW_BY_ROW}
        for lane in calibrated([backbone], us, tmp_path / str(found)):
            assert lane.microbatches == {"early": found}
    for lane in calibrated([backbone], {"early": AT_ONCE, "late": AT_ONCE}, tmp_path / "all"):
        assert lane.microbatches == {}


def test_blocks_are_judged_once_and_all_models_keep_what_was_found(tmp_path: Path) -> None:
    models = [
        model("a", ("early", LIGHT), ("late", HEAVY)),
        model("b", ("early", LIGHT), ("other", HEAVY)),
        model("c", ("third", LIGHT), ("late", HEAVY)),
    ]
    times_us = dict.fromkeys(("early", "third", "late", "other"), ROW_BY_ROW)
    first, _ = calibrated(models, times_us, tmp_path / "three")
    assert first.microbatches == {"early": 1, "third": 1}
    alone = calibrated(models[:1], times_us, tmp_path / "one")
    later = calibrated(models[:2], times_us, tmp_path / "one")
    of_a, of_b = (sum(lane.sizes.count(2) for lane in lanes) for lanes in (alone, later))
    assert of_a > of_b > 0, "b has nothing new to be judged"


def test_what_was_found_holds_for_later_starts_and_is_not_looked_for_again(tmp_path: Path) -> None:
    backbone = model("a", ("early", LIGHT), ("late", HEAVY))
    us = {"early": ROW_BY_ROW, "late": ROW_BY_ROW}
    calibrated([backbone], us, tmp_path)
    for lane in calibrated([backbone], us, tmp_path):
        assert lane.microbatches == {"early": 1}
        assert lane.sizes == []


def test_a_file_that_is_damaged_is_measured_again(tmp_path: Path) -> None:
    backbone = model("a", ("early", LIGHT), ("late", HEAVY))
    us = {"early": ROW_BY_ROW, "late": ROW_BY_ROW}
    calibrated([backbone], us, tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    first, _ = calibrated([backbone], us, tmp_path)
    assert first.sizes != []


@pytest.mark.parametrize(
    "wrong",
    [
        {"row_bytes": 2**70},
        {"base_bytes": 10**15},
        {"rows": 10**6},
        {"times": [{"rows": ROWS, "wide": False, "us": 10**15}]},
        {"times": [{"rows": ROWS, "wide": False, "us": 2**64}]},
        {"times": [{"rows": 1, "wide": False, "us": 5000}]},
        {"times": []},
    ],
)
def test_figures_of_a_model_that_cannot_be_are_measured_again(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    backbone = model("a", ("early", LIGHT), ("late", HEAVY))
    us = {"early": ROW_BY_ROW, "late": ROW_BY_ROW}
    calibrated([backbone], us, tmp_path)
    for path in tmp_path.iterdir():
        if not path.name.startswith(("early-", "late-")):
            change(path, wrong)
    assert Measurements(tmp_path, {}).path(backbone) is None
    first, _ = calibrated([backbone], us, tmp_path)
    assert first.sizes != []


@pytest.mark.parametrize(
    "wrong", [{"bytes_used": 2**64}, {"extra_bytes": 10**15}, {"load_us": 10**15}]
)
def test_figures_of_a_block_that_cannot_be_count_as_none(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    Measurements(tmp_path, {}).keep_block("early", BlockFigures(1, 1, 0))
    assert Measurements(tmp_path, {}).block("early") == BlockFigures(1, 1, 0)
    (path,) = tmp_path.iterdir()
    change(path, wrong)
    assert Measurements(tmp_path, {}).block("early") is None


def change(path: Path, wrong: dict[str, Any]) -> None:
    """Put other figures in a file."""
    file = json.loads(path.read_bytes())
    file["figures"] |= wrong
    path.write_text(json.dumps(file))


def test_a_folder_that_cannot_be_written_harms_nobody(tmp_path: Path) -> None:
    backbone = model("a", ("early", LIGHT), ("late", HEAVY))
    (tmp_path / "file").write_bytes(b"")
    first, _ = calibrated([backbone], {"early": AT_ONCE, "late": AT_ONCE}, tmp_path / "file" / "in")
    assert first.sizes != []


def test_what_runs_take_of_a_gpu_is_measured_there(tmp_path: Path) -> None:
    """Of 1000 bytes of blocks, 5000 of every run and 70 a row; staging memory is elsewhere."""
    one = model("a", ("early", HEAVY))
    lane: Any = Lane({"a": one}, {"early": AT_ONCE})
    device: Any = Card(lane)
    idle: queue.LifoQueue[Any] = queue.LifoQueue()
    idle.put(lane)
    measurements = Measurements(tmp_path, {})
    calibration = Calibration(device, [lane], idle, measurements, counted_bytes=lambda: 1000)
    while not calibration.step("a", one, ROWS):
        pass
    figures = measurements.path(one)
    assert figures is not None
    assert figures.base_bytes == 5070
    assert figures.row_bytes == 70

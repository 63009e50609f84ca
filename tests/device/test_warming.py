"""What warm-up finds out about blocks, on lanes whose times are written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from edged.backends.memory import HostMemory
from edged.device.executor import Segment
from edged.device.staging import Staging
from edged.device.warming import Warming
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


def warmed(models: Sequence[Manifest], us: Mapping[str, Any], **options: Any) -> list[Lane]:
    by_name = {one.name: one for one in models}
    lanes: list[Any] = [Lane(by_name, us), Lane(by_name, us)]
    pools = Staging(by_name, ROWS, HostMemory()).pools
    warming = Warming(lanes, pools, ROWS, **{"microbatches": {}, **options})
    for name, one in by_name.items():
        for less, more in ((1, 2), (2, 4)):
            warming.judge(name, one, less, more)
        warming.time(name, one, ROWS)
    return lanes


def test_a_light_block_runs_as_many_rows_as_are_quickest_on_every_lane() -> None:
    backbone = model("a", ("early", LIGHT), ("late", HEAVY))
    for times_us, found in ((ROW_BY_ROW, 1), (IN_PAIRS, 2)):
        for lane in warmed([backbone], {"early": times_us, "late": ROW_BY_ROW}):
            assert lane.microbatches == {"early": found}
    for lane in warmed([backbone], {"early": AT_ONCE, "late": AT_ONCE}):
        assert lane.microbatches == {}


def test_blocks_are_judged_once_and_all_models_keep_what_was_found() -> None:
    models = [
        model("a", ("early", LIGHT), ("late", HEAVY)),
        model("b", ("early", LIGHT), ("other", HEAVY)),
        model("c", ("third", LIGHT), ("late", HEAVY)),
    ]
    times_us = dict.fromkeys(("early", "third", "late", "other"), ROW_BY_ROW)
    first, _ = warmed(models, times_us)
    assert first.microbatches == {"early": 1, "third": 1}
    alone, _ = warmed(models[:1], times_us)
    again, _ = warmed([models[0], models[1]], times_us)
    assert again.sizes.count(2) == alone.sizes.count(2) > 0, "b has nothing new to be judged"


def test_who_knows_the_times_says_how_blocks_run() -> None:
    backbone = model("a", ("early", LIGHT), ("late", HEAVY))
    us = {"early": ROW_BY_ROW, "late": ROW_BY_ROW}
    for lane in warmed([backbone], us, timed=False, microbatches={"late": 2}):
        assert lane.microbatches == {"late": 2}
        assert 2 not in lane.sizes

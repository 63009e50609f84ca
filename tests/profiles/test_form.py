"""Profiles as values: the costs of paths, and profiles that are refused."""

from __future__ import annotations

import msgspec
import pytest

from edged import profiles
from edged.core.events import GroupCost
from edged.errors import ConfigError
from edged.profiles.form import (
    SCHEMA,
    BlockProfile,
    DeviceProfile,
    affine,
    check_fits,
    decode,
    encode,
    group_costs,
    microbatches,
)
from edged.profiles.microbatch import CALL_S
from tests.daemon.samples import BACKBONE, OTHER_BACKBONE, manifest

HEADS = {name: manifest(name).steps[1].block for name in ("flowers", "food", "fine")}
HERE = {"backend": "onnxruntime", "device": "cpu, 2 threads", "machine": "a board", "lanes": 2}
PROFILE = DeviceProfile(
    schema=SCHEMA,
    source="a test",
    blocks={
        BACKBONE: BlockProfile((1, 2, 4), (0.010, 0.012, 0.020), weight_bytes=100),
        OTHER_BACKBONE: BlockProfile((1, 4), (0.001, 0.004)),
        HEADS["flowers"]: BlockProfile((1, 4), (0.001, 0.001)),
        HEADS["food"]: BlockProfile((1, 4), (0.0008, 0.0032), load_cold_s=0.5, load_warm_s=0.1),
        HEADS["fine"]: BlockProfile((1,), (0.002,)),
    },
    **HERE,
)


def test_a_profile_is_read_as_it_was_written():
    assert decode(encode(PROFILE)) == PROFILE


def test_a_group_costs_what_its_slowest_path_costs_at_each_size():
    models = [manifest("flowers"), manifest("food"), manifest("fine", backbone=OTHER_BACKBONE)]
    first, second = group_costs(PROFILE, models)
    assert (first.group, first.rows) == (BACKBONE, (1, 2, 4))
    assert first.time_s == pytest.approx((0.011, 0.0136, 0.0232))
    assert second == GroupCost(OTHER_BACKBONE, (1, 4), (0.003, 0.012))


def test_a_group_is_sooner_on_all_lanes_by_what_its_slowest_path_is():
    wide = {BACKBONE: 0.004, HEADS["food"]: 0.0005}  # the head of flowers has none
    blocks = {
        name: msgspec.structs.replace(block, wide_s=wide.get(name))
        for name, block in PROFILE.blocks.items()
    }
    profile = msgspec.structs.replace(PROFILE, blocks=blocks)
    assert decode(encode(profile)) == profile
    models = [manifest("flowers"), manifest("food"), manifest("fine", backbone=OTHER_BACKBONE)]
    first, second = group_costs(profile, models)
    assert first.speed_up == pytest.approx(0.011 / 0.005)
    assert second.speed_up is None


def test_a_block_that_is_quicker_row_by_row_is_counted_so():
    blocks = PROFILE.blocks | {BACKBONE: BlockProfile((1, 2, 4), (0.010, 0.025, 0.060))}
    profile = msgspec.structs.replace(PROFILE, blocks=blocks)
    assert microbatches(PROFILE) == {}
    assert microbatches(profile) == {BACKBONE: 1}
    (cost,) = group_costs(profile, [manifest("flowers")])
    calls_s = [0.0, CALL_S, 3 * CALL_S]
    runs_s = [0.010 + 0.001, 0.020 + 0.001, 0.040 + 0.001]
    assert cost.time_s == pytest.approx([a + b for a, b in zip(calls_s, runs_s, strict=True)])


def test_one_bad_point_does_not_move_the_line():
    times_s = [0.002 + 0.001 * rows for rows in (1, 2, 4, 8, 16)]
    times_s[2] *= 3
    assert affine(BlockProfile((1, 2, 4, 8, 16), tuple(times_s))) == pytest.approx((0.002, 0.001))
    assert affine(BlockProfile((4,), (0.008,))) == (0.008, 0.0)


def test_a_profile_of_this_device_and_these_blocks_fits():
    check_fits(PROFILE, [BACKBONE], **HERE)


@pytest.mark.parametrize(
    ("name", "value"),
    [("backend", "torch"), ("device", "cpu, 4 threads"), ("machine", "another"), ("lanes", 1)],
)
def test_a_profile_of_another_device_is_refused(name, value):
    with pytest.raises(ConfigError, match=rf"{name} {HERE[name]}, this is {value}.*edged profile"):
        check_fits(PROFILE, [BACKBONE], **{**HERE, name: value})


def test_a_profile_of_other_blocks_is_refused():
    with pytest.raises(ConfigError, match=r"1 of 2 blocks, as 121212121212.*edged profile"):
        check_fits(PROFILE, [BACKBONE, "12" * 32], **HERE)


def test_a_published_profile_fits_no_device():
    with pytest.raises(ConfigError, match="backend unknown"):
        check_fits(profiles.read(profiles.SMOOTH_TABLE_2), ["backbone"], **HERE)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": [2, 1]}, r"blocks\.b\.rows must ascend"),
        ({"rows": [0, 1]}, r"from 1 at least"),
        ({"time_s": [1.0]}, "time_s has 1 entries for 2"),
        ({"time_s": [0.0, 1.0]}, "time_s must be above 0"),
        ({"spread_s": [1.0]}, "spread_s has 1 entries for 2"),
        ({"load_warm_s": -1.0}, "below 0"),
        ({"wide_s": 0.0}, "wide_s must be above 0"),
        ({"times": []}, "unknown field `times`"),
    ],
)
def test_a_bad_profile_is_named(changes, says):
    block = {"rows": [1, 2], "time_s": [1.0, 2.0], **changes}
    profile = {"schema": 1, "source": "", "device": "", "blocks": {"b": block}}
    with pytest.raises(ConfigError, match=says):
        decode(msgspec.json.encode(profile))


def test_a_newer_profile_is_refused():
    with pytest.raises(ConfigError, match="upgrade"):
        decode(b'{"schema": 2, "something": "new"}')


def test_a_file_is_named(tmp_path):
    path = tmp_path / "p.json"
    with pytest.raises(ConfigError, match=r"p\.json: No such file.*smooth-table2"):
        profiles.read(str(path))
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"p\.json: .*schema"):
        profiles.read(str(path))


@pytest.mark.parametrize("name", profiles.shipped())
def test_what_ships_is_good(name):
    assert profiles.read(name).blocks

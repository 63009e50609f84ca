"""The emulated backend: the time that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edged import backends
from edged.errors import ConfigError, StoreError
from edged.profiles.form import SCHEMA, BlockProfile, DeviceProfile, encode
from tests.backends.blocks import dense

BLOCK = dense(6, 4)
OTHER = dense(6, 5)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits that it asks for, without waiting: at most the duration, less the time passed."""
    waits: list[float] = []
    monkeypatch.setattr("edged.backends.emulated.time.sleep", waits.append)
    return waits


def emulated(**options: Any) -> Any:
    return backends.create("emulated", options, threads=1, cache_dir=Path("unused"))


def run(backend: Any, rows: int) -> None:
    x, y = np.zeros((rows, 6), np.float32), np.ones((rows, 4), np.float32)
    backend.run(BLOCK.id, [x], [y])
    assert not y.any()


def about(seconds: float) -> Any:
    return pytest.approx(seconds, rel=0.01)


def test_what_was_measured_with_a_profile_is_not_taken_for_another_of_the_same_name(tmp_path):
    path = tmp_path / "p.json"
    versions = []
    for load_ms in (50.0, 60.0):
        figures = BlockProfile((1, 3), (10.0, 20.0), weight_bytes=7, load_cold_s=load_ms)
        path.write_bytes(encode(DeviceProfile(SCHEMA, "a test", "a board", {BLOCK.id: figures})))
        versions.append(emulated(profile=str(path)).versions)
    assert versions[0] != versions[1]


def test_blocks_take_the_times_and_bytes_of_a_profile(tmp_path, slept):
    figures = BlockProfile((1, 3), (10.0, 20.0), weight_bytes=7, load_cold_s=50.0, load_warm_s=5.0)
    profile = DeviceProfile(SCHEMA, "a test", "a board", {BLOCK.id: figures}, prepare_s=0.5)
    path = tmp_path / "p.json"
    path.write_bytes(encode(profile))
    backend = emulated(profile=str(path))
    assert backend.device == "a board, emulated"
    assert backend.prepare_row_s == 0.5
    file = BLOCK.write(tmp_path)
    for _ in range(2):
        assert backend.load(BLOCK.id, file, [BLOCK.use]).bytes_used == 7
        backend.unload(BLOCK.id)
    backend.load(BLOCK.id, file, [BLOCK.use])
    run(backend, 2)
    assert slept == [about(50.0), about(5.0), about(5.0), about(15.0)]


def test_a_block_begins_when_the_last_one_of_its_batch_should_have_ended(tmp_path, slept):
    backend = emulated(blocks={"*": msgspec.to_builtins(BlockProfile((1,), (10.0,)))})
    backend.load(BLOCK.id, BLOCK.write(tmp_path), [BLOCK.use])
    for _ in range(2):
        run(backend, 1)
        run(backend, 1)
        backend.memory.wait()
    assert slept == [about(10.0), about(20.0)] * 2  # no time passes in this test


def test_a_published_profile_says_what_its_own_names_take(tmp_path, slept):
    blocks = {BLOCK.id[:16]: "backbone", "*": "head"}
    backend = emulated(profile="smooth-table2", blocks=blocks, speed=0.001)
    for block in (BLOCK, OTHER):
        backend.load(block.id, block.write(tmp_path), [block.use])
    run(backend, 16)
    backend.memory.wait()  # the head belongs to another batch
    backend.run(OTHER.id, [np.zeros((2, 6))], [np.zeros((2, 5))])
    assert slept == [about(99.99), about(0.3)]
    assert backend.prepare_row_s == about(3.0)


def test_figures_can_be_given_without_a_profile(tmp_path, slept):
    figures = {"rows": [1], "time_s": [10.0]}
    backend = emulated(blocks={"*": figures}, load_bytes_per_ms=0.1)
    file = BLOCK.write(tmp_path)
    backend.load(BLOCK.id, file, [BLOCK.use])
    run(backend, 1)
    assert slept == [about(file.stat().st_size / 0.1 / 1e3), about(10.0)]
    assert backend.prepare_row_s == 0.0


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no block called 'neck'"):
        emulated(profile="smooth-table2", blocks={"*": "neck"})
    with pytest.raises(ConfigError, match=r"blocks\.\*\.rows must ascend"):
        emulated(blocks={"*": msgspec.to_builtins(BlockProfile((), ()))})
    backend = emulated(profile="smooth-table2")
    with pytest.raises(StoreError, match=f"no times for block {BLOCK.id[:12]}"):
        backend.load(BLOCK.id, BLOCK.write(tmp_path), [BLOCK.use])

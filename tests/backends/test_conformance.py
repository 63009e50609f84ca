"""What every backend must do, whatever computes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edged import backends
from edged.backends.base import Backend
from edged.backends.memory import Array
from edged.errors import ConfigError
from tests.backends.blocks import Block, dense, mean_of_image, sum_and_difference

CURVE = {"rows": [1, 8], "time_ms": [0.1, 0.2]}
OPTIONS: dict[str, dict[str, Any]] = {
    "onnxruntime": {},
    "fake": {},
    "emulated": {"blocks": {"*": CURVE}, "device": "a test"},
}
BLOCKS = [dense(6, 4), mean_of_image(), sum_and_difference(5)]


def test_every_backend_is_in_this_suite() -> None:
    assert set(OPTIONS) == set(backends.NAMES)


@pytest.fixture(params=sorted(OPTIONS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made = backends.create(
        request.param, OPTIONS[request.param], threads=1, cache_dir=tmp_path / "cache"
    )
    yield made
    made.close()


def inputs(block: Block, rows: int, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.random((rows, *t.shape), dtype=np.float32) for t in block.use.reads]


def outputs(block: Block, rows: int) -> list[Array]:
    return [np.full((rows, *t.shape), np.nan, np.float32) for t in block.use.writes]


def run(backend: Backend, block: Block, given: Sequence[Array]) -> list[Array]:
    found = outputs(block, len(given[0]))
    backend.run(block.id, given, found)
    return found


def load(backend: Backend, block: Block, folder: Path) -> None:
    loaded = backend.load(block.id, block.write(folder), [block.use])
    assert loaded.bytes_used > 0
    assert loaded.max_rows is None


@pytest.mark.parametrize("block", BLOCKS)
def test_each_row_is_computed_alone(backend: Backend, block: Block, tmp_path: Path) -> None:
    load(backend, block, tmp_path)
    for rows in (1, 2, 5, 1):
        given = inputs(block, rows, seed=rows)
        found = run(backend, block, given)
        assert not any(np.isnan(array).any() for array in found)
        for row in range(rows):
            alone = run(backend, block, [array[row : row + 1] for array in given])
            for array, one in zip(found, alone, strict=True):
                np.testing.assert_allclose(array[row : row + 1], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_same_again(backend: Backend, block: Block, tmp_path: Path) -> None:
    load(backend, block, tmp_path)
    given = inputs(block, 3)
    first, second = run(backend, block, given), run(backend, block, given)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_the_given_rows_are_read_and_written(backend: Backend, tmp_path: Path) -> None:
    block = dense(6, 4)
    load(backend, block, tmp_path)
    source = np.full((8, 6), np.nan, np.float32)
    source[3:5] = inputs(block, 2)[0]
    target = np.full((8, 4), -7.0, np.float32)
    backend.run(block.id, [source[3:5]], [target[5:7]])
    assert (target[:5] == -7.0).all()
    assert (target[7:] == -7.0).all()
    np.testing.assert_array_equal(target[5:7], run(backend, block, [source[3:5]])[0])


def test_new_arrays_in_old_places(backend: Backend, tmp_path: Path) -> None:
    """Buffers are reused: what lies at an address now counts, not what lay there before."""
    block = dense(6, 4)
    load(backend, block, tmp_path)
    source, target = np.empty((2, 6), np.float32), np.empty((2, 4), np.float32)
    for seed in range(3):
        source[:] = inputs(block, 2, seed)[0]
        backend.run(block.id, [source], [target])
        np.testing.assert_array_equal(target, run(backend, block, inputs(block, 2, seed))[0])


def test_blocks_come_and_go(backend: Backend, tmp_path: Path) -> None:
    one, other = dense(6, 4, seed=1), dense(6, 4, seed=2)
    load(backend, one, tmp_path)
    given = inputs(one, 2)
    expected = run(backend, one, given)[0]
    load(backend, other, tmp_path)
    backend.unload(other.id)
    np.testing.assert_array_equal(run(backend, one, given)[0], expected)
    backend.unload(one.id)
    load(backend, one, tmp_path)
    np.testing.assert_array_equal(run(backend, one, given)[0], expected)


def test_threads_do_not_disturb_each_other(backend: Backend, tmp_path: Path) -> None:
    block = dense(6, 4)
    load(backend, block, tmp_path)
    expected = {seed: run(backend, block, inputs(block, 3, seed))[0] for seed in range(2)}
    wrong: list[int] = []

    def repeat(seed: int) -> None:
        given = inputs(block, 3, seed)
        for _ in range(200):
            if not np.array_equal(run(backend, block, given)[0], expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=repeat, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_it_says_what_it_is(backend: Backend) -> None:
    assert backend.name in backends.NAMES
    assert backend.device
    assert backend.emulated == (backend.name in ("fake", "emulated"))


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_unknown_option_is_refused(name: str, tmp_path: Path) -> None:
    options = {**OPTIONS[name], "sped": 2}
    with pytest.raises(ConfigError, match=f"options of backend {name}: .*`sped`"):
        backends.create(name, options, threads=1, cache_dir=tmp_path)


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no backend 'tpu'; name one of onnxruntime, "):
        backends.create("tpu", {}, threads=1, cache_dir=tmp_path)

"""The conformance suite: what every backend must do."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edged import backends
from edged.backends.base import Backend, BlockUse
from edged.backends.memory import ALIGNMENT, NUMPY, Array, DeviceArray, host_view
from edged.backends.torch import Torch
from edged.backends.torch_device import Processor
from edged.errors import ConfigError, EdgedError, StoreError, Unsupported
from edged.manifest import DataType
from edged.paths.layout import Tensor
from tests.backends.blocks import (
    Block,
    dense,
    fails_on_large_values,
    mean_of_image,
    one_row_only,
    sum_and_difference,
    sum_of_image,
)
from tests.backends.fake_tensorrt import VERSIONS
from tests.backends.fake_tensorrt.rig import Rig

CURVE = {"rows": [1, 8], "time_s": [0.1e-3, 0.2e-3]}
OPTIONS: dict[str, dict[str, Any]] = {
    "onnxruntime": {},
    "torch": {},
    "fake": {},
    "emulated": {"blocks": {"*": CURVE}, "device": "a test"},
    "emulated-cuda": {"memory_bytes": 17 << 20},
    "tensorrt": {},
}
COMPUTING = ["onnxruntime", "emulated-cuda", "torch", "torch, recorded"]
COMPUTING += [f"tensorrt, {version}" for version in VERSIONS]
if torch.cuda.is_available():
    COMPUTING += ["torch, cuda", "torch, cuda without graphs"]
BLOCKS = [dense(6, 4), mean_of_image(), sum_and_difference(5)]


def make(name: str, folder: Path) -> Backend:
    """A backend by its name, or torch in one of the ways that it can run."""
    if name == "torch, recorded":  # runs on memory of its own and is repeated, like a CUDA graph
        return Torch(Processor(1), recorder=lambda: lambda work: work)
    if name.startswith("tensorrt"):  # a fake, of each API that was recorded
        return Rig(folder / "cache", name.partition(", ")[2] or VERSIONS[-1]).backend
    options: dict[str, Any] = OPTIONS.get(name, {"device": "cuda", "graphs": "without" not in name})
    return backends.create(name.partition(",")[0], options, threads=1, cache_dir=folder / "cache")


def test_every_backend_is_in_this_suite() -> None:
    assert set(OPTIONS) == set(backends.NAMES)


@pytest.fixture(params=sorted({*OPTIONS, *COMPUTING}))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made = make(request.param, tmp_path)
    yield made
    made.close()


def inputs(block: Block, rows: int, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.random((rows, *t.shape), dtype=np.float32) for t in block.use.reads]


def place(backend: Backend, array: Array) -> DeviceArray:
    """A copy of `array` in the backend's memory."""
    memory = backend.memory
    staged = memory.staging(array.nbytes)
    staged[:] = array.reshape(-1).view(np.uint8)
    rows = staged.view(array.dtype).reshape(array.shape)
    tensor = Tensor("FP32", array.shape[1:])
    target = memory.view(memory.allocate(array.nbytes), 0, len(array), tensor)
    flight = memory.flight()
    flight.put([(rows, target)])
    flight.wait()
    return target


def fetch(backend: Backend, *arrays: DeviceArray) -> list[Array]:
    """What lies in the backend's memory once all work is done."""
    flight = backend.memory.flight()
    flight.put(())
    found = flight.fetch(arrays)
    flight.wait()
    return [array.copy() for array in found]


def run(backend: Backend, block: Block, given: Sequence[Array]) -> list[Array]:
    rows = len(given[0])
    empty = [np.full((rows, *t.shape), np.nan, np.float32) for t in block.use.writes]
    outputs = [place(backend, array) for array in empty]
    backend.run(block.id, [place(backend, array) for array in given], outputs)
    return fetch(backend, *outputs)


def load(backend: Backend, block: Block, folder: Path) -> None:
    loaded = backend.load(block.id, block.write(folder), [block.use])
    assert loaded.bytes_used >= 0
    assert loaded.max_rows is None or loaded.max_rows > 1


def near(backend: Backend) -> dict[str, float]:
    """How far an answer may be from that of NumPy. TensorRT computes in FP16 here."""
    if backend.name == "tensorrt":
        return {"rtol": 1e-2, "atol": 2e-2}
    return {"rtol": 1e-4, "atol": 1e-5}


def test_a_block_that_comes_back_computes_as_before(backend: Backend, tmp_path: Path) -> None:
    block = dense(64, 100)
    path = block.write(tmp_path)
    backend.prepare(block.id, path)
    assert all(file.is_file() for file in backend.files(block.id, path))
    given = inputs(block, 2)
    first = backend.load(block.id, path, [block.use])
    before = run(backend, block, given)
    backend.unload(block.id)
    assert backend.load(block.id, path, [block.use]).bytes_used == first.bytes_used
    np.testing.assert_array_equal(run(backend, block, given)[0], before[0])


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
                np.testing.assert_allclose(array[row : row + 1], one, **near(backend))


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
    x = inputs(block, 2)[0]
    source = np.full((8, 6), np.nan, np.float32)
    source[3:5] = x
    target = place(backend, np.full((8, 4), -7.0, np.float32))
    backend.run(block.id, [place(backend, source)[3:5]], [target[5:7]])
    (found,) = fetch(backend, target)
    assert (found[:5] == -7.0).all()
    assert (found[7:] == -7.0).all()
    np.testing.assert_array_equal(found[5:7], run(backend, block, [x])[0])


def test_new_rows_in_old_places(backend: Backend, tmp_path: Path) -> None:
    """Buffers are reused, so a run must read what lies at an address now."""
    block = dense(6, 4)
    load(backend, block, tmp_path)
    source = place(backend, np.empty((2, 6), np.float32))
    target = place(backend, np.empty((2, 4), np.float32))
    flight = backend.memory.flight()
    rows = backend.memory.staging(2 * 6 * 4).view(np.float32).reshape(2, 6)
    for seed in range(6):
        rows[:] = inputs(block, 2, seed)[0]
        flight.put([(rows, source)])
        backend.run(block.id, [source], [target])
        (found,) = flight.fetch([target])
        flight.wait()
        np.testing.assert_array_equal(found, run(backend, block, [rows])[0])


def test_rows_are_gathered(backend: Backend) -> None:
    memory = backend.memory
    source = np.arange(24, dtype=np.float32).reshape(6, 4)
    target = place(backend, np.zeros((4, 4), np.float32))
    flight, given = memory.flight(), place(backend, source)
    flight.put(())
    flight.take(given, memory.indices([5, 0, 0]), target[1:])
    (found,) = flight.fetch([target])
    flight.wait()
    np.testing.assert_array_equal(found[1:], source[[5, 0, 0]])
    assert (found[:1] == 0).all()


@pytest.mark.parametrize("datatype", sorted(NUMPY))
def test_every_type_goes_to_the_device_and_back(backend: Backend, datatype: DataType) -> None:
    memory, tensor = backend.memory, Tensor(datatype, (3, 2))
    size = 4 * tensor.row_bytes
    staged = memory.staging(size)
    staged[:] = np.arange(size) % 2
    rows = host_view(staged, 0, 4, tensor)
    target = memory.view(memory.allocate(size + ALIGNMENT), ALIGNMENT, 4, tensor)
    flight = memory.flight()
    flight.put([(rows[1:3], target[:2]), (rows[:2], target[2:])])
    (found,) = flight.fetch([target])
    flight.wait()
    assert found.dtype == NUMPY[datatype]
    np.testing.assert_array_equal(found, rows[[1, 2, 0, 1]])


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
    emulated = ("fake", "emulated", "emulated-cuda", "tensorrt")  # the last one on a fake device
    assert backend.emulated == (backend.name in emulated)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_unknown_option_is_refused(name: str, tmp_path: Path) -> None:
    options = {**OPTIONS[name], "sped": 2}
    with pytest.raises(ConfigError, match=f"options of backend {name}: .*`sped`"):
        backends.create(name, options, threads=1, cache_dir=tmp_path)


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no backend 'tpu'; name one of onnxruntime, "):
        backends.create("tpu", {}, threads=1, cache_dir=tmp_path)


# --- those that compute ---------------------------------------------------------------------------


@pytest.fixture(params=COMPUTING)
def computing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made = make(request.param, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("block", [*BLOCKS, dense(64, 100, seed=3)])
def test_it_computes_what_the_block_says(computing: Backend, block: Block, tmp_path: Path) -> None:
    load(computing, block, tmp_path)
    for rows in (5, 1):
        given = inputs(block, rows)
        for found, expected in zip(run(computing, block, given), block.twin(*given), strict=True):
            np.testing.assert_allclose(found, expected, **near(computing))


def test_a_block_is_used_at_two_sizes(computing: Backend, tmp_path: Path) -> None:
    """What was bound or recorded for one of them is not taken for the other."""
    block = sum_of_image()
    uses = [BlockUse((Tensor("FP32", (n, n)),), (Tensor("FP32", ()),)) for n in (1, 8)]
    if computing.name == "tensorrt":  # its engines are of one size, and it says so
        with pytest.raises(Unsupported, match="export the model for one size"):
            computing.load(block.id, block.write(tmp_path), uses)
        return
    computing.load(block.id, block.write(tmp_path), uses)
    for _ in range(5):
        for size in (8, 1):
            given = np.ones((2, size, size), np.float32)
            assert run(computing, block, [given])[0].tolist() == [size**2] * 2


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (BlockUse((Tensor("FP32", (6,)),), (Tensor("FP32", (5,)),)), "has y0 FP32"),
        (BlockUse((Tensor("FP32", (7,)),), (Tensor("FP32", (4,)),)), "has x0 FP32"),
        (BlockUse((Tensor("INT64", (6,)),), (Tensor("FP32", (4,)),)), "has x0 FP32"),
        (BlockUse((Tensor("FP32", (6,)),) * 2, (Tensor("FP32", (4,)),)), "expect x0, x1 of"),
    ],
)
def test_a_block_that_does_not_fit_its_models_is_refused(
    computing: Backend, tmp_path: Path, use: BlockUse, says: str
) -> None:
    block = dense(6, 4)
    with pytest.raises(StoreError, match=says):
        computing.load(block.id, block.write(tmp_path), [block.use, use])


def test_a_file_that_is_no_block_is_refused(computing: Backend, tmp_path: Path) -> None:
    path = tmp_path / "block.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(StoreError, match="export its models again"):
        computing.load("0" * 64, path, [dense(6, 4).use])


def test_a_block_exported_for_one_row_says_so(computing: Backend, tmp_path: Path) -> None:
    block = one_row_only(3)
    assert computing.load(block.id, block.write(tmp_path), [block.use]).max_rows == 1


def test_a_run_that_fails_harms_nothing(computing: Backend, tmp_path: Path) -> None:
    if computing.device.startswith("cuda"):
        pytest.skip("a lookup out of range ends everything that a process has on a CUDA device")
    block = fails_on_large_values()
    load(computing, block, tmp_path)
    good = np.array([[0.5], [0.25]], np.float32)
    np.testing.assert_array_equal(run(computing, block, [good])[0], good)
    with pytest.raises(EdgedError, match=f"block {block.id[:12]} failed: ") as caught:
        run(computing, block, [np.array([[0.5], [9.0]], np.float32)])
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(run(computing, block, [good])[0], good)


def test_nan_is_the_clients_business(computing: Backend, tmp_path: Path) -> None:
    block = dense(6, 4, relu=False)
    load(computing, block, tmp_path)
    given = np.ones((2, 6), np.float32)
    given[1, 0] = np.nan
    found = run(computing, block, [given])[0]
    assert np.isnan(found[1]).all()
    assert not np.isnan(found[0]).any()

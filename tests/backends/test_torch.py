from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edged import backends
from edged.backends.base import BlockUse, DeviceLost
from edged.backends.memory import Array
from edged.backends.torch import Torch
from edged.backends.torch_device import Processor
from edged.errors import EdgedError, ResourceExhausted, StoreError, Unsupported
from edged.paths.layout import Tensor
from tests.backends.blocks import Block, block, dense, sum_of_image
from tests.backends.torch_devices import ShakyDevice, cuda

TIMEOUT_S = 30


def recorded(device: Processor | None = None) -> Torch:
    """A backend that records repeated runs, and does them again when they are replayed."""
    return Torch(device or Processor(1), recorder=lambda: lambda work: work)


def compute(backend: Torch, block: Block, given: Array) -> Array:
    """One batch through a block."""
    memory, tensor = backend.memory, Tensor("FP32", given.shape[1:])
    (out,) = block.twin(given)
    source = memory.view(memory.allocate(max(64, given.nbytes)), 0, len(given), tensor)
    written = Tensor("FP32", out.shape[1:])
    target = memory.view(memory.allocate(64 + out.nbytes), 0, len(given), written)
    flight = memory.flight()
    flight.put([(given, source)])
    backend.run(block.id, [source], [target])
    (found,) = flight.fetch([target])
    flight.wait()
    return found


def test_a_gpu_that_is_not_there_is_said(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(Unsupported, match=r"torch finds no CUDA device: .* set device = cpu"):
        backends.create("torch", {"device": "cuda"}, threads=1, cache_dir=tmp_path)


def test_an_output_of_another_shape_is_not_stretched_to_fit(tmp_path: Path) -> None:
    """The file does not say its extents, so only a run shows that they are not the models'."""
    block = dense(6, 1)
    model = onnx.load_from_string(block.data)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "any"
    path = tmp_path / "block.onnx"
    path.write_bytes(model.SerializeToString())
    backend = recorded()
    backend.load(block.id, path, [BlockUse(block.use.reads, (Tensor("FP32", (4,)),))])
    with pytest.raises(StoreError, match=r"wrote \[1, 1\] where its models expect \[1, 4\]"):
        backend.run(block.id, [torch.ones(1, 6)], [torch.zeros(1, 4)])


def test_a_block_that_is_used_at_two_sizes(tmp_path: Path) -> None:
    """What was recorded at one size is not taken for the other."""
    image_sum = sum_of_image()
    small, large = (BlockUse((Tensor("FP32", (n, n)),), (Tensor("FP32", ()),)) for n in (1, 8))
    backend = recorded()
    backend.load(image_sum.id, image_sum.write(tmp_path), [small, large])
    for _ in range(5):
        for size in (8, 1):
            assert compute(backend, image_sum, np.ones((1, size, size), np.float32)) == size**2


# --- a device that fails --------------------------------------------------------------------------


def serve(device: ShakyDevice, folder: Path) -> Array:
    """Everything that a worker does with a backend, once."""
    rotation = dense(6, 4)
    backend = recorded(device)
    memory = backend.memory
    backend.load(rotation.id, rotation.write(folder), [rotation.use])
    staged = memory.staging(24).view(np.float32).reshape(1, 6)
    staged[:] = 1.0
    source = memory.view(memory.allocate(64), 0, 1, Tensor("FP32", (6,)))
    target, other = (memory.view(memory.allocate(64), 0, 1, Tensor("FP32", (4,))) for _ in range(2))
    flight = memory.flight()
    for _ in range(4):
        flight.put([(staged, source)])
        backend.run(rotation.id, [source], [target])
        flight.take(target, memory.indices([0]), other)
        (found,) = flight.fetch([other])
        flight.wait()
    backend.device_bytes()
    backend.unload(rotation.id)
    return found


@pytest.mark.parametrize("code", [700, 719, None], ids=["address", "launch", "of a library"])
def test_a_device_that_is_lost_is_known_wherever_the_error_comes_out(
    code: int | None, tmp_path: Path
) -> None:
    """The error of a kernel comes out of any later call: nothing may take it for its own."""
    healthy = ShakyDevice()
    serve(healthy, tmp_path)
    assert healthy.uses > 20
    for at in range(1, healthy.uses + 1):
        with pytest.raises(DeviceLost, match="an illegal memory access was encountered Compile"):
            serve(ShakyDevice(at, code=code), tmp_path)


def test_a_call_that_fails_alone_is_not_a_lost_device(tmp_path: Path) -> None:
    healthy = ShakyDevice()
    serve(healthy, tmp_path)
    for at in range(1, healthy.uses + 1):
        device = ShakyDevice(at, code=None, is_lost=False)
        with pytest.raises(EdgedError) as caught:
            serve(device, tmp_path)
        assert not isinstance(caught.value, DeviceLost)
        assert device.checks == 1  # what was begun has ended before rows are given back


def test_memory_that_is_full_once_costs_recordings_and_no_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubled, device = dense(6, 4), ShakyDevice()
    backend = recorded(device)
    backend.load(doubled.id, doubled.write(tmp_path), [doubled.use])
    given = np.ones((2, 6), np.float32)
    expected = compute(backend, doubled, given)
    real, full = backend._compute, 1

    def run(*args: object) -> None:
        nonlocal full
        if full:
            full -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "_compute", run)
    np.testing.assert_array_equal(compute(backend, doubled, given), expected)
    assert device.given_back == 1
    full, checks = 2, device.checks
    with pytest.raises(ResourceExhausted, match="out of memory: serve fewer models"):
        compute(backend, doubled, given)
    assert device.checks == checks + 1
    np.testing.assert_array_equal(compute(backend, doubled, given), expected)


def test_an_unloaded_block_gives_its_memory_back_to_the_system(tmp_path: Path) -> None:
    one, device = dense(6, 4), ShakyDevice()
    backend = recorded(device)
    backend.load(one.id, one.write(tmp_path), [one.use])
    backend.unload(one.id)
    assert device.given_back == 1


def test_whoever_waits_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread waits for a batch others begin the next one and load a block."""
    device, one, other = ShakyDevice(), dense(6, 4), dense(6, 4, seed=1)
    waiting, ended = threading.Event(), threading.Event()

    def wait() -> None:
        waiting.set()
        assert ended.wait(TIMEOUT_S)

    backend = recorded(device)
    backend.load(one.id, one.write(tmp_path), [one.use])
    flight = backend.memory.flight()
    monkeypatch.setattr(device, "leaving", lambda: wait)
    thread = threading.Thread(target=flight.wait)
    thread.start()
    try:
        assert waiting.wait(TIMEOUT_S)
        monkeypatch.undo()
        compute(backend, one, np.ones((1, 6), np.float32))
        backend.load(other.id, other.write(tmp_path), [other.use])
    finally:
        ended.set()
        thread.join()


def test_a_block_is_loaded_while_another_one_runs(tmp_path: Path) -> None:
    one = dense(6, 4)
    backend = recorded()
    with backend.memory.use("a batch"):
        thread = threading.Thread(
            target=backend.load, args=(one.id, one.write(tmp_path), [one.use]), daemon=True
        )
        thread.start()
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


# --- weights --------------------------------------------------------------------------------------


def with_weights_apart(block: Block, folder: Path, location: str = "tensors/w") -> Path:
    """The block's file with the weight `w` in a file of its own."""
    model = onnx.load_from_string(block.data)
    (weight,) = (each for each in model.graph.initializer if each.name == "w")
    data = weight.raw_data
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "64", "length": str(len(data))}.items():
        weight.external_data.add(key=key, value=value)
    (folder / "tensors").mkdir(exist_ok=True)
    (folder / "tensors" / "w").write_bytes(bytes(64) + data)
    path = folder / f"{block.id}.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_blocks_with_the_same_weights_have_them_once(tmp_path: Path) -> None:
    """As one backbone at two sizes. What one block brought stays while the other has it."""
    one, other, device = dense(6, 4), dense(6, 4, relu=False), ShakyDevice()
    brought: list[int] = []

    def upload(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        brought.append(sum(value.nbytes for value in values))
        return [value.clone() for value in values]

    device.upload = upload  # type: ignore[method-assign]
    backend, given = recorded(device), np.ones((2, 6), np.float32)
    loaded = [
        backend.load(block.id, with_weights_apart(block, tmp_path), [block.use])
        for block in (one, other)
    ]
    assert brought == [96 + 16, 16]
    assert [each.bytes_used for each in loaded] == [112, 112]
    assert loaded[0].shared == loaded[1].shared
    assert sum(loaded[0].shared.values()) == 96
    backend.unload(one.id)
    np.testing.assert_allclose(compute(backend, other, given), other.twin(given)[0], rtol=1e-5)
    backend.unload(other.id)
    assert not backend._weights


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    apart, backend = dense(6, 4), recorded()
    path = with_weights_apart(apart, tmp_path)
    assert backend.load(apart.id, path, [apart.use]).bytes_used == 4 * (6 * 4 + 4)
    given = np.random.default_rng(1).random((3, 6), dtype=np.float32)
    np.testing.assert_allclose(compute(backend, apart, given), apart.twin(given)[0], rtol=1e-5)


def test_weights_that_are_not_where_the_block_says(tmp_path: Path) -> None:
    apart, backend = dense(6, 4), recorded()
    path = with_weights_apart(apart, tmp_path)
    (tmp_path / "tensors" / "w").write_bytes(bytes(70))
    with pytest.raises(StoreError, match="does not hold weight w"):
        backend.load(apart.id, path, [apart.use])


def test_weights_outside_of_the_store_are_refused(tmp_path: Path) -> None:
    apart = dense(6, 4)
    path = with_weights_apart(apart, tmp_path, "../w")
    with pytest.raises(StoreError, match=r"weight w lies outside of the store, in \.\./w"):
        recorded().load(apart.id, path, [apart.use])


def convolution() -> Block:
    """y0 = mean over pixels of (a normalised convolution of x0), an image (3, 8, 8)."""
    w = np.random.default_rng(2).standard_normal((5, 3, 3, 3)).astype(np.float32)
    ones = np.ones(5, np.float32)
    nodes = [
        helper.make_node("Conv", ["x0", "w"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["h", "one", "zero", "zero", "one"], ["n"]),
        helper.make_node("GlobalAveragePool", ["n"], ["m"]),
        helper.make_node("Flatten", ["m"], ["y0"]),
    ]
    values = {"w": w, "one": ones, "zero": 0 * ones}
    constants = [numpy_helper.from_array(value, name) for name, value in values.items()]

    def twin(x0: Array) -> list[Array]:
        found = torch.nn.functional.conv2d(torch.from_numpy(x0), torch.from_numpy(w), padding=1)
        return [found.mean((2, 3)).numpy()]

    return block(nodes, [(3, 8, 8)], [(5,)], twin, constants=constants)


@pytest.mark.parametrize("whole", [dense(64, 100), convolution()], ids=["product", "convolution"])
def test_half_precision(whole: Block, tmp_path: Path) -> None:
    """Half the memory for weights, and answers that differ as float16 does."""
    path, given = whole.write(tmp_path), np.ones((2, *whole.use.reads[0].shape), np.float32)
    full, half = (
        backends.create("torch", {"precision": name}, threads=1, cache_dir=tmp_path)
        for name in ("fp32", "fp16")
    )
    assert isinstance(full, Torch)
    assert isinstance(half, Torch)
    sizes = [each.load(whole.id, path, [whole.use]).bytes_used for each in (full, half)]
    assert sizes[1] < 0.6 * sizes[0] or whole.use.reads[0].shape == (3, 8, 8)
    exact, rounded = (compute(each, whole, given) for each in (full, half))
    np.testing.assert_allclose(exact, whole.twin(given)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rounded, exact, rtol=4e-3, atol=4e-3)
    assert (rounded != exact).any()


# --- what a CUDA device is asked for --------------------------------------------------------------


def test_a_batch_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks wait for the copies of their batch, answers for its blocks; the host sleeps."""
    with cuda(monkeypatch) as gpu:
        flight = gpu.device.flight()
        target = torch.zeros(2)
        flight.put([(np.ones(2, np.float32), target)])
        (found,) = flight.fetch([target])
        assert gpu.calls == [
            "blocks waits for end of copies in",
            "copies out waits for end of blocks",
        ]
        wait = flight.leaving()
        assert wait is not None
        wait()
        assert gpu.calls[2:] == ["host waits asleep for end of copies out"]
        assert found.tolist() == [1.0, 1.0]
        assert flight.leaving() is None  # a second wait is for all there is


def test_weights_go_to_a_gpu_beside_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    with cuda(monkeypatch) as gpu:
        many = torch.arange(5 << 20, dtype=torch.float32)  # 20 MiB: three pieces
        images = torch.rand(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
        turned = torch.rand(3, 5).t()
        found = gpu.device.upload([many, images, turned, torch.tensor(True), torch.empty(0)])
        for copy, value in zip(found, [many, images, turned, torch.tensor(True)], strict=False):
            assert torch.equal(copy, value)
            assert copy.data_ptr() != value.data_ptr()
        assert found[1].stride() == images.stride()
        waits = [call for call in gpu.calls if "waits" in call]
        assert {*waits} <= {"host waits asleep for nothing", "host waits asleep for end of loads"}
        # Each piece waits until the one before the last is gone.
        assert waits.count("host waits asleep for nothing") == 2


def test_staging_memory_is_ours_and_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    with cuda(monkeypatch) as gpu:
        staged = gpu.device.staging(5000)
        assert staged.nbytes == 5000
        staged[:] = 1
        assert gpu.calls == ["lock"]
        part = staged[100:].view(np.uint8)
        del staged
        assert gpu.calls == ["lock"]
        del part
        assert gpu.calls == ["lock", "unlock"]


def test_where_pages_cannot_be_locked_the_driver_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    with cuda(monkeypatch, register=801) as gpu:
        staged = gpu.device.staging(5000)
        assert staged.nbytes == 5000
        del staged
        assert gpu.calls == ["lock"]


def test_recording_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads may call CUDA meanwhile, and the device is neither stopped nor emptied."""
    with cuda(monkeypatch) as gpu:
        record = gpu.device.recorder()
        replay = record(lambda: None)
        assert gpu.calls == ["record, thread_local", "recorded"]
        replay()
        assert gpu.calls[-1] == "replay"


def test_a_recording_that_fails_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of a wrong block: its error is told, and the stream can be used again."""
    with cuda(monkeypatch) as gpu:
        record = gpu.device.recorder()

        def wrong() -> None:
            raise StoreError("block 12 wrote [1] where its models expect [2]")

        with pytest.raises(StoreError):
            record(wrong)
        assert gpu.calls == ["record, thread_local", "recorded"]


def test_what_a_gpu_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    with cuda(monkeypatch) as gpu:
        assert gpu.device.memory() == (200, 444 << 20, 744 << 20)  # 256 MiB stay free
        monkeypatch.setattr(gpu.device, "_is_unified", True)
        assert gpu.device.memory().is_unified

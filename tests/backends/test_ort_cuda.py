"""ONNX Runtime's CUDA provider, called with the arguments that it has, on an emulated device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edged.backends.base import BlockUse, DeviceLost
from edged.backends.memory import Array
from edged.backends.ort_cuda import OnnxRuntimeCuda
from edged.cuda.personality import Faults
from edged.errors import ConfigError, Unsupported
from edged.options import OnnxRuntimeOptions
from edged.paths.layout import Tensor
from tests.backends import ort_cuda
from tests.backends.blocks import Block, dense, sum_and_difference, sum_of_image


def run(backend: OnnxRuntimeCuda, block: Block, *given: Array) -> list[Array]:
    """A batch through a block, whose memory is given back."""
    memory, rows = backend.memory, len(given[0])
    expected = block.twin(*given)
    tensors = [Tensor("FP32", array.shape[1:]) for array in (*given, *expected)]
    pieces = [memory.allocate(max(1, rows * tensor.row_bytes)) for tensor in tensors]
    views = [memory.view(p, 0, rows, t) for p, t in zip(pieces, tensors, strict=True)]
    staged = []
    for array in given:
        staging = memory.staging(array.nbytes)
        staging[:] = array.reshape(-1).view(np.uint8)
        staged.append(staging)
    flight = memory.flight()
    flight.put(zip(staged, views, strict=False))
    backend.run(block.id, views[: len(given)], views[len(given) :])
    found = flight.fetch(views[len(given) :])
    flight.wait()
    copies = [array.copy() for array in found]
    for piece in pieces:
        memory.free(piece)
    return copies


def load(backend: OnnxRuntimeCuda, block: Block, folder: Path) -> None:
    backend.load(block.id, block.write(folder), [block.use])


@pytest.mark.parametrize("personality", ["discrete", "unified"])
def test_blocks_run_in_the_devices_memory(
    personality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = ort_cuda.make(monkeypatch, personality)
    block = sum_and_difference(5)
    load(backend, block, tmp_path)
    for rows in (3, 1, 3):
        given = [np.random.default_rng(n).random((rows, 5), dtype=np.float32) for n in (rows, 9)]
        for found, expected in zip(run(backend, block, *given), block.twin(*given), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)
    backend.close()


def test_a_block_that_is_used_at_two_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same addresses: an old binding is not taken for arrays of another shape."""
    backend, block = ort_cuda.make(monkeypatch), sum_of_image()
    uses = [BlockUse((Tensor("FP32", (n, n)),), (Tensor("FP32", ()),)) for n in (2, 3)]
    backend.load(block.id, block.write(tmp_path), uses)
    for size in (3, 2, 3, 2):
        (found,) = run(backend, block, np.ones((1, size, size), np.float32))
        assert found == size**2
    assert len(backend._bindings) == 2
    backend.unload(block.id)
    assert not backend._bindings


def test_what_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights once: a card has so much less for others, a board counts them with the arena."""
    block = dense(64, 100)
    for personality in ("discrete", "unified"):
        backend = ort_cuda.make(monkeypatch, personality)
        before = backend.device_bytes()
        load(backend, block, tmp_path)
        after = backend.device_bytes()
        assert after.held_bytes - before.held_bytes == len(block.data)
        assert after.is_unified == (personality == "unified")
        backend.unload(block.id)
        assert backend.device_bytes() == before


def test_its_options_are_those_of_the_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sessions refuse what the provider does; what is configured comes last."""
    good = {"gpu_mem_limit": 1 << 30, "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": 1}
    load(ort_cuda.make(monkeypatch, provider_options=good), dense(6, 4), tmp_path)
    for wrong, says in (
        ({"nonsense": 1}, 'Unknown provider option: "nonsense"'),
        ({"arena_extend_strategy": "kWrong"}, 'Failed to parse .* "arena_.*: kWrong'),
        ({"gpu_mem_limit": "much"}, 'Failed to parse provider option "gpu_mem_limit"'),
    ):
        with pytest.raises(ConfigError, match=f"device.options.provider_options: {says}"):
            load(ort_cuda.make(monkeypatch, provider_options=wrong), dense(6, 4), tmp_path)


def test_a_device_that_is_lost_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ort_cuda.make(monkeypatch)
    """Also where ONNX Runtime is told first, which has errors of its own."""
    backend, block = ort_cuda.make(monkeypatch), dense(6, 4)
    cuda = backend._cuda
    load(backend, block, tmp_path)
    given = np.ones((1, 6), np.float32)
    before = cuda.calls  # type: ignore[attr-defined]
    run(backend, block, given)
    calls = cuda.calls - before  # type: ignore[attr-defined]
    cuda.faults = Faults(fail_at=cuda.calls + calls // 2)  # type: ignore[attr-defined]
    with pytest.raises(DeviceLost):
        run(backend, block, given)


def test_a_build_without_the_provider_says_so() -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this is onnxruntime-gpu")
    with pytest.raises(Unsupported, match=r"has no CUDAExecutionProvider, only .*CPUExec"):
        OnnxRuntimeCuda(OnnxRuntimeOptions(provider="cuda"), None)  # type: ignore[arg-type]

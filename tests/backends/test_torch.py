from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edged import backends
from edged.backends.base import BlockUse
from edged.backends.torch_replay import Replays, Work
from edged.errors import StoreError, Unsupported
from edged.paths.layout import Tensor
from tests.backends.blocks import dense


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
    backend = backends.create("torch", {}, threads=1, cache_dir=tmp_path)
    backend.load(block.id, path, [BlockUse(block.use.reads, (Tensor("FP32", (4,)),))])
    memory = backend.memory
    source = memory.view(memory.allocate(24), 0, 1, Tensor("FP32", (6,)))
    memory.flight().put([(np.ones((1, 6), np.float32), source)])
    target = memory.view(memory.allocate(16), 0, 1, Tensor("FP32", (4,)))
    with pytest.raises(StoreError, match=r"wrote \[1, 1\] where its models expect \[1, 4\]"):
        backend.run(block.id, [source], [target])


class Tape:
    """Replays of `y = 2 x`, and how often that was computed, recorded and replayed."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.computed = self.recorded = self.replayed = self.recorders = 0
        self.replays = Replays(torch.device("cpu"), self.recorder)

    def recorder(self):
        self.recorders += 1
        return self.record

    def record(self, work: Work) -> Work:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay

    def compute(self, inputs, outputs) -> None:
        self.computed += 1
        outputs[0].copy_(2 * inputs[0])

    def run(self, rows: int, block: str = "block") -> None:
        x, y = torch.rand(rows, 100), torch.zeros(rows, 100)
        self.replays.run(block, self.compute, [x], [y])
        assert torch.equal(y, 2 * x)


def test_a_run_is_recorded_when_it_comes_again_and_again() -> None:
    tape = Tape()
    for _ in range(5):
        tape.run(2)
    assert (tape.recorded, tape.replayed) == (1, 3)
    tape.run(1)
    assert tape.recorded == 1  # other rows are another run


def test_what_cannot_be_recorded_is_computed() -> None:
    tape = Tape(fails=True)
    for _ in range(5):
        tape.run(2)
    assert (tape.computed, tape.recorded, tape.recorders) == (5, 0, 1)


def test_recordings_move_when_a_run_needs_more_room() -> None:
    tape = Tape()
    for rows in (1, 1, 1, 1, 8, 8, 8, 1, 1):
        tape.run(rows)
    assert tape.recorded == 3
    assert tape.recorders == 2  # nothing was left of the first one's


def test_a_block_that_is_unloaded_is_forgotten() -> None:
    tape = Tape()
    for _ in range(4):
        tape.run(1, "one")
        tape.run(1, "other")
    tape.replays.forget("one")
    tape.run(1, "one")
    tape.run(1, "other")
    assert tape.replayed == 2 + 2 + 1
    assert tape.recorders == 1

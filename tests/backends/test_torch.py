from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edged import backends
from edged.backends.base import Use
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
    backend.load(block.id, path, [Use(block.use.reads, (Tensor("FP32", (4,)),))])
    memory = backend.memory
    source = memory.view(memory.allocate(24), 0, 1, Tensor("FP32", (6,)))
    memory.put(np.ones((1, 6), np.float32), source)
    target = memory.view(memory.allocate(16), 0, 1, Tensor("FP32", (4,)))
    with pytest.raises(StoreError, match=r"wrote \[1, 1\] where its models expect \[1, 4\]"):
        backend.run(block.id, [source], [target])

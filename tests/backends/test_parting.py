"""Weights of a model in files of their own: nothing is lost, and equal weights make equal files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edged.backends.parting import part

SIZES = {"a": 1200, "b": 1300, "c": 1300, "d": 2000, "e": 2000}  # elements


def parted(folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The files, by their names, of a model with these weights in this order."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])
    weights = [
        numpy_helper.from_array(np.full(SIZES[name], ord(name), np.float32), name) for name in names
    ]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    part(path, folder / "weights")
    found = onnx.load(str(path))
    assert [weight.name for weight in found.graph.initializer] == list(names)
    for weight in found.graph.initializer:
        expected = np.full(SIZES[weight.name], ord(weight.name), np.float32)
        np.testing.assert_array_equal(numpy_helper.to_array(weight), expected)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_each_weight_has_a_file(tmp_path: Path) -> None:
    files = parted(tmp_path / "one", "abcd")
    assert files.keys() == {"model.onnx", *(f"weights-{number}" for number in range(4))}


def test_models_with_equal_weights_have_equal_files(tmp_path: Path) -> None:
    one, two = parted(tmp_path / "one", "abcd"), parted(tmp_path / "two", "dbe")
    assert len(set(one.values()) & set(two.values())) == 2


def test_a_model_without_large_weights_stays_as_it_is(tmp_path: Path) -> None:
    part(tmp_path / "model.onnx", tmp_path / "weights")
    assert not list(tmp_path.iterdir())

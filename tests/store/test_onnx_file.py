"""ONNX files as `edged.onnx_file` reads and writes them, beside what onnx makes of them."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.onnx_file import NoOnnxFile, Place, move, places, places_in, put_in, take_out


def model(*weights: TensorProto) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(made, {"after": "the graph"})
    return bytes(made.SerializeToString(deterministic=True))


def weight(name: str, *shape: int, dtype: type = np.float32) -> TensorProto:
    values = np.random.default_rng(len(name)).integers(0, 200, shape)
    return numpy_helper.from_array(values.astype(dtype), name)


def test_what_is_taken_out_and_put_in_is_the_same_file() -> None:
    kept: dict[str, bytes] = {}

    def keep(content: memoryview) -> str:
        name = hashlib.sha256(content).hexdigest()
        kept[name] = bytes(content)
        return name

    data = model(
        weight("large", 40, 30),
        weight("small", 3),
        weight("bytes", 1000, dtype=np.uint8),
        weight("again", 40, 30),
        weight("long" * 100, 300, dtype=np.int64),
        weight("scalar"),
    )
    graph = take_out(data, keep, 1000)
    assert len(graph) < 2000
    found = onnx.load_from_string(graph)
    outside = [t.name[:5] for t in found.graph.initializer if t.data_location]
    assert outside == ["large", "bytes", "again", "longl"]
    assert [place.location for place in places(graph)] == [
        entry.value for t in found.graph.initializer for entry in t.external_data
    ]
    assert put_in(graph, lambda place: kept[place.location]) == data
    assert take_out(data, keep, 10_000) == data


def test_what_onnx_writes_beside_a_file_is_found_and_moved(tmp_path: Path) -> None:
    path, data = tmp_path / "model.onnx", model(weight("one", 40, 30), weight("second", 50, 30))
    whole = onnx.load_from_string(data)
    copy = onnx.load_from_string(data)
    onnx.save(copy, str(path), save_as_external_data=True, location="all", size_threshold=0)
    with path.open("rb") as file:
        first, second = places_in(file.fileno())
    assert (first.location, second.location) == ("all", "all")
    assert (first.size, second.size) == (4 * 40 * 30, 4 * 50 * 30)
    content = (tmp_path / "all").read_bytes()

    def own(place: Place) -> Place:
        assert place.size is not None
        name = f"at-{place.offset}"
        (tmp_path / name).write_bytes(content[place.offset : place.offset + place.size])
        return Place(name)

    path.write_bytes(move(path.read_bytes(), own))
    (tmp_path / "all").unlink()
    moved = onnx.load(str(path))
    for found, expected in zip(moved.graph.initializer, whole.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(found), numpy_helper.to_array(expected))


def test_offset_and_size_are_written() -> None:
    graph = take_out(model(weight("large", 40, 30)), lambda _: "file", 0)
    assert places(move(graph, lambda _: Place("other", 4096, 4800))) == (
        Place("other", 4096, 4800),
    )


@pytest.mark.parametrize("data", [b"", b"backbone", b"\x08", b"\x08\x09\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_onnx_file_is_said(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(NoOnnxFile):
        places(data)
    with pytest.raises(NoOnnxFile):
        take_out(data, lambda _: "", 0)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file, pytest.raises(NoOnnxFile):
        places_in(file.fileno())


def test_each_cut_is_no_file_or_a_shorter_one() -> None:
    """Any damage is a NoOnnxFile, never another error."""
    graph = take_out(model(weight("large", 40, 30)), lambda _: "file", 0)
    for end in range(len(graph)):
        with contextlib.suppress(NoOnnxFile):
            places(graph[:end])
    for bit in range(8 * len(graph)):
        damaged = bytearray(graph)
        damaged[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(NoOnnxFile):
            places(bytes(damaged))

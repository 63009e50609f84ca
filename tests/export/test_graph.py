"""Reading ONNX files: every form that a graph may have, and the forms that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.errors import EdgedError, InvalidArgument, NotFound, Unsupported
from export.graph import load, read, to_model
from export.probe import feed
from tests.export.helpers import onnx_run
from tests.export.nets import Net, classifier


def same(model: onnx.ModelProto) -> bool:
    graph = read(model)
    given = feed(graph, 3)
    pairs = zip(onnx_run(model, given), onnx_run(to_model(graph), given), strict=True)
    return all(np.array_equal(before, after) for before, after in pairs)


def test_operators_that_copy_go_and_outputs_keep_their_names() -> None:
    net = Net()
    conv = net.add("Identity", net.conv(net.add("Identity", net.x), 3, 4, seed=1))
    kept = net.add("Dropout", net.add("Relu", conv))
    also_read = net.add("Sigmoid", kept)
    net.add("Tanh", net.x)  # leads to no output
    model = net.model(kept, also_read, conv)
    graph = read(model)
    assert [node.op_type for node in graph.nodes] == ["Conv", "Relu", "Sigmoid"]
    assert graph.outputs == (kept, also_read, conv)
    assert same(model)


def test_an_output_that_is_an_input_or_another_output_stays_a_copy() -> None:
    net = Net()
    relu = net.add("Relu", net.x)
    model = net.model(relu, net.add("Identity", relu), net.add("Identity", net.x))
    assert [node.op_type for node in read(model).nodes] == ["Relu", "Identity", "Identity"]
    assert same(model)


def test_all_forms_of_constants() -> None:
    net = Net((4,))
    x = net.x
    for attributes in (
        {"value": numpy_helper.from_array(np.arange(4, dtype=np.float32))},
        {"value_float": 0.5},
        {"value_floats": [1.0, 2.0, 3.0, 4.0]},
    ):
        x = net.add("Mul", net.add("Add", x, net.add("Constant", **attributes)), x)
    index = net.add("Constant", value_ints=[2, 1])
    x = net.add(
        "Gather", net.add("Gather", x, index, axis=1), net.add("Constant", value_int=1), axis=1
    )
    model = net.model(x)
    assert all(node.op_type != "Constant" for node in read(model).nodes)
    assert same(model)


def test_functions_are_inlined() -> None:
    twice = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    net = Net((4,))
    net.nodes.append(helper.make_node("Twice", [net.x], ["y"], domain="local"))
    model = net.model("y")
    model.functions.append(twice)
    model.opset_import.append(helper.make_opsetid("local", 1))
    assert [node.op_type for node in read(model).nodes] == ["Add"]
    assert same(model)


def test_external_data_is_read(tmp_path: Path) -> None:
    inside = load(classifier(tmp_path / "m.onnx", "ab"))
    onnx.save(
        onnx.load(str(tmp_path / "m.onnx")),
        str(tmp_path / "out.onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (tmp_path / "out.onnx").stat().st_size < 0.2 * (tmp_path / "m.onnx").stat().st_size
    outside = load(tmp_path / "out.onnx")
    given = feed(inside.graph, 2)
    assert np.array_equal(
        onnx_run(to_model(inside.graph), given), onnx_run(to_model(outside.graph), given)
    )
    (tmp_path / "weights.bin").unlink()
    with pytest.raises((InvalidArgument, NotFound), match=r"weights\.bin"):
        load(tmp_path / "out.onnx")


def _loop(net: Net) -> str:
    flag = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Relu", ["value"], ["next"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            flag,
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    return net.add("Loop", net.constant(np.array(3)), "", net.x, body=body)


def _sparse(net: Net) -> str:
    return net.add("Constant", sparse_value=helper.make_sparse_tensor(
        helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("i", TensorProto.INT64, [1], [0]), [4],
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (_loop, r"control flow \(Loop"),
        (lambda net: net.add("RandomNormalLike", net.x), "draws random numbers .* evaluation mode"),
        (
            lambda net: net.add("Dropout", net.x, "", net.constant(np.array(True))),
            "draws random numbers .* evaluation mode",
        ),
        (_sparse, "constant of kind sparse_value"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    tmp_path: Path, build: Callable[[Net], str], says: str
) -> None:
    net = Net((4,))
    file = net.save(tmp_path / "m.onnx", build(net))
    with pytest.raises(Unsupported, match=says) as caught:
        load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no operators"),
        (b"GIF89a", "not a readable ONNX model"),
        (b"\x08\x08", "no operators"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(content)
    with pytest.raises(InvalidArgument, match=says):
        load(file)
    with pytest.raises(NotFound, match="there is no file"):
        load(tmp_path / "nowhere.onnx")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = classifier(tmp_path / "m.onnx", "ab")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(EdgedError):
        load(file)

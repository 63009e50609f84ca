"""Branches of which it is known before whether they run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import GraphProto, TensorProto, helper, numpy_helper

from edged.errors import Unsupported
from export.check import compare, feeds
from export.source import ModelDraft, Source, draft
from tests.export.helpers import onnx_run
from tests.export.nets import Net


def branch(*nodes: onnx.NodeProto, weights: tuple[onnx.TensorProto, ...] = ()) -> GraphProto:
    """A branch that gives what its last operator makes."""
    last = nodes[-1].output[0]
    value = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "branch", [], [value], weights)


def one(operator: str, x: str, made: str = "made") -> GraphProto:
    return branch(helper.make_node(operator, [x], [made]))


def drafted(tmp_path: Path, net: Net, output: str, **options: object) -> ModelDraft:
    return draft(Source("t", net.save(tmp_path / "m.onnx", output), **options))  # type: ignore[arg-type]


def right(tmp_path: Path, found: ModelDraft, function: Callable[[np.ndarray], np.ndarray]) -> bool:  # type: ignore[type-arg]
    """Whether the uncut model gives the function of its input; drafting compares the layers."""
    pairs = zip(feeds(found.manifest), found.expected, strict=True)
    (name,) = found.manifest.outputs
    return all(compare({name: function(x["x"])}, y).relative < 1e-6 for x, y in pairs)


@pytest.mark.parametrize("taken", [True, False])
def test_the_branch_of_a_constant_is_all_there_is(tmp_path: Path, taken: bool) -> None:
    net = Net((4,))
    known = net.constant(np.array(taken))
    y = net.add("If", known, then_branch=one("Relu", "x"), else_branch=one("Neg", "x"))
    found = drafted(tmp_path, net, net.add("Add", y, net.x))
    operators = [node.op_type for layer in found.path.layers.values() for node in layer.nodes]
    assert sorted(operators) == ["Add", "Relu" if taken else "Neg"]
    assert right(tmp_path, found, lambda x: x + (np.maximum(x, 0) if taken else -x))


def test_torch_s_squeeze_asks_for_an_extent(tmp_path: Path) -> None:
    """The axis has one element, which follows from the kernel and not from the data."""
    net = Net((3, 4, 4))
    pooled = net.add("GlobalAveragePool", net.x)
    extent = net.add("Gather", net.add("Shape", pooled), net.constant(np.array(2)), axis=0)
    is_one = net.add("Equal", extent, net.constant(np.array(1)))
    axes = numpy_helper.from_array(np.array([2]), "axes")
    squeeze = branch(helper.make_node("Squeeze", [pooled, "axes"], ["flat"]), weights=(axes,))
    kept = branch(helper.make_node("Identity", [pooled], ["flat"]))
    y = net.add("If", is_one, then_branch=squeeze, else_branch=kept)
    found = drafted(tmp_path, net, y)
    assert found.manifest.max_rows is None
    assert found.manifest.value(y).shape == (3, 1)


def test_branches_inside_branches_and_names_that_come_twice(tmp_path: Path) -> None:
    net = Net((4,))
    yes, no = net.constant(np.array(True)), net.constant(np.array(False))
    half = numpy_helper.from_array(np.float32(0.5), "w")
    inner = helper.make_node(
        "If", ["no"], ["made"], then_branch=one("Exp", "scaled"), else_branch=one("Abs", "scaled")
    )
    outer = branch(
        helper.make_node("Identity", [no], ["no"]),
        helper.make_node("Mul", ["x", "w"], ["scaled"]),
        inner,
        weights=(half,),
    )
    first = net.add("If", yes, then_branch=outer, else_branch=one("Neg", "x"))
    double = numpy_helper.from_array(np.float32(2), "w")
    again = branch(helper.make_node("Mul", [first, "w"], ["made"]), weights=(double,))
    y = net.add("If", yes, then_branch=again, else_branch=one("Neg", "x"))
    found = drafted(tmp_path, net, y)
    assert right(tmp_path, found, np.abs)


def test_an_input_that_is_fixed_decides(tmp_path: Path) -> None:
    """As the sample rate does in nets that have layers for each."""
    net = Net((4,))
    rate = net.input("rate", (), TensorProto.INT64, whole=True)
    is_high = net.add("Equal", rate, net.constant(np.array(16000)))
    y = net.add("If", is_high, then_branch=one("Relu", "x"), else_branch=one("Neg", "x"))
    for value, function in ((16000, lambda x: np.maximum(x, 0)), (8000, lambda x: -x)):
        found = drafted(tmp_path, net, y, inputs={"rate": [value]})
        assert found.manifest.inputs == ("x",)
        assert found.manifest.max_rows is None
        assert right(tmp_path, found, function)
    with pytest.raises(Unsupported, match=r"depends on the data .*--input NAME=VALUE"):
        drafted(tmp_path, net, y)


def test_a_condition_on_the_number_of_rows_holds_for_one_row(tmp_path: Path) -> None:
    net = Net((4,))
    is_one = net.add("Equal", net.rows(), net.integers(1))
    y = net.add("If", is_one, then_branch=one("Relu", "x"), else_branch=one("Neg", "x"))
    found = drafted(tmp_path, net, y)
    assert found.manifest.max_rows == 1
    assert right(tmp_path, found, lambda x: np.maximum(x, 0))


def test_a_condition_that_only_seems_the_same_for_all_numbers_of_rows(tmp_path: Path) -> None:
    """It is false for the numbers that are tried, and true from four rows on."""
    net = Net((4,))
    many = net.add("Greater", net.rows(), net.integers(3))
    y = net.add("If", many, then_branch=one("Relu", "x"), else_branch=one("Neg", "x"))
    found = drafted(tmp_path, net, y)
    assert found.manifest.max_rows == 1
    assert right(tmp_path, found, lambda x: -x)


def test_what_a_branch_reads_stays_though_nothing_else_does(tmp_path: Path) -> None:
    net = Net((4,))
    copied = net.add("Identity", net.add("Sigmoid", net.x))
    y = net.add(
        "If", net.constant(np.array(True)), then_branch=one("Neg", copied),
        else_branch=one("Exp", copied),
    )  # fmt: skip
    model = net.model(y)
    found = drafted(tmp_path, net, y)
    x = feeds(found.manifest)[-1]
    (expected,) = onnx_run(model, x)
    assert compare({y: expected}, found.expected[-1]).relative < 1e-6

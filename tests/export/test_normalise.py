"""Normalised graphs compute the same, and only data passes between their operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.graph import OnnxGraph, load, tidy, to_model
from export.normalise import Flow, normalise
from export.probe import feed, probe
from tests.export.helpers import flow_of, onnx_run
from tests.export.nets import Net, classifier, segmenter, transformer


def all_nodes(flow: Flow) -> list[onnx.NodeProto]:
    return [node for group in flow.groups for node in group.nodes]


def as_graph(flow: Flow, like: OnnxGraph) -> OnnxGraph:
    return tidy(
        OnnxGraph(tuple(all_nodes(flow)), flow.weights, like.inputs, like.outputs, like.opsets)
    )


def computes_the_same(file: Path) -> bool:
    graph = load(file).graph
    after = to_model(as_graph(normalise(graph, probe(graph)), graph))
    return all(
        np.allclose(a, b, rtol=1e-5, atol=1e-6)
        for rows in (1, 3, 7)
        for a, b in zip(
            onnx_run(onnx.load(str(file)), feed(graph, rows)),
            onnx_run(after, feed(graph, rows)),
            strict=True,
        )
    )


def by_rows(net: Net, value: str) -> str:
    """Scale, shift and index by numbers that grow with the rows, of all kinds."""
    rows = net.rows()
    count = net.add(
        "Cast",
        net.add(
            "Range", net.constant(np.array(0)), net.add("Squeeze", rows), net.constant(np.array(1))
        ),
        to=1,
    )
    even = net.add("Expand", net.weight(8, 1, 4), net.add("Concat", rows, net.integers(4), axis=0))
    numbered = net.add(
        "Mul",
        net.add("Reshape", count, net.integers(-1, 1)),
        net.constant(np.zeros((1, 1), np.float32)),
    )
    tiled = net.add(
        "Tile",
        net.weight(9, 1, 4),
        net.add("Concat", net.add("Mul", rows, net.integers(1)), net.integers(1), axis=0),
    )
    half = net.add("Add", net.add("Mul", rows, net.integers(6)), net.integers(3))
    fill = net.add(
        "ConstantOfShape",
        net.add("Div", net.add("Concat", half, net.integers(24), axis=0), net.integers(6)),
    )
    return net.add("Sum", value, even, numbered, tiled, fill)


def windows(net: Net, value: str) -> str:
    """(rows, 4) to (2 * rows, 2) and back, with targets computed from the rows."""
    twice = net.add("Mul", net.rows(), net.integers(2))
    split = net.add("Reshape", value, net.add("Concat", twice, net.integers(2), axis=0))
    norm = net.add("ReduceL2", split, axes=[1], keepdims=1)
    wide = net.add("Expand", norm, net.add("Concat", twice, net.integers(2), axis=0))
    scaled = net.add("Div", split, wide)
    return net.add("Reshape", scaled, net.add("Concat", net.rows(), net.integers(4), axis=0))


def constants(net: Net, value: str) -> str:
    """A constant made of others, used twice; and one that only moves a weight."""
    bias = net.add("Tanh", net.add("Mul", net.weight(5, 4), net.weight(6, 4)))
    matrix = net.add("Transpose", net.weight(7, 4, 4), perm=[1, 0])
    first = net.add("Add", net.add("MatMul", value, matrix), bias)
    return net.add("Add", net.add("Relu", first), bias)


def like_input(net: Net, value: str) -> str:
    """A shape asked of data, not of the input."""
    return net.add("Reshape", value, net.add("Shape", net.add("Relu", value)))


PIECES = [by_rows, windows, constants, like_input]


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("opset", [13, 17])
def test_pieces_compute_the_same(
    tmp_path: Path, piece: Callable[[Net, str], str], opset: int
) -> None:
    net = Net((3,), opset=opset)
    out = net.add("Relu", piece(net, net.gemm(net.x, 3, 4, seed=1)))
    assert computes_the_same(net.save(tmp_path / "m.onnx", out))


@pytest.mark.parametrize("make", [classifier, transformer, segmenter])
def test_nets_compute_the_same(tmp_path: Path, make: Callable[..., Path]) -> None:
    assert computes_the_same(make(tmp_path / "m.onnx", "ab"))


@pytest.mark.parametrize("piece", PIECES)
def test_only_data_crosses(tmp_path: Path, piece: Callable[[Net, str], str]) -> None:
    net = Net((3,))
    flow = flow_of(net.save(tmp_path / "m.onnx", piece(net, net.gemm(net.x, 3, 4, seed=1))))
    made = {*flow.inputs, *(name for group in flow.groups for name in group.writes)}
    for group in flow.groups:
        inside = {name for node in group.nodes for name in node.output}
        outside = {name for node in group.nodes for name in node.input if name} - inside
        assert outside - flow.weights.keys() == set(group.reads)
        assert set(group.reads) <= made
    # Shapes are read off a group's own inputs: no shape keeps the model's input alive.
    assert [net.x in group.reads for group in flow.groups].count(True) == 1


def test_targets_of_reshapes_do_not_depend_on_how_they_were_written(tmp_path: Path) -> None:
    flows = []
    for target in ([0, 2, 2], [-1, 2, 2], [0, 2, -1]):
        net = Net((4,))
        flows.append(
            flow_of(net.save(tmp_path / "m.onnx", net.add("Reshape", net.x, net.integers(*target))))
        )
    targets = [numpy_helper.to_array(f.weights[f.groups[0].nodes[0].input[1]]) for f in flows]
    assert all(list(target) == [-1, 2, 2] for target in targets)


def test_arithmetic_on_floats_is_left_to_the_device(tmp_path: Path) -> None:
    """The last bits of floats depend on the processor: folded, they would change digests."""
    net = Net((3,))
    out = constants(net, net.gemm(net.x, 3, 4, seed=1))
    flow = flow_of(net.save(tmp_path / "m.onnx", out))
    operators = [node.op_type for node in all_nodes(flow)]
    assert operators.count("Tanh") == 2, "once for each operator that reads it"
    assert "Transpose" not in operators


def test_a_constant_is_not_folded_into_more_bytes(tmp_path: Path) -> None:
    net = Net((2000,))
    wide = net.add("Expand", net.weight(1, 1), net.integers(2000))
    flow = flow_of(net.save(tmp_path / "m.onnx", net.add("Add", net.x, wide)))
    assert [node.op_type for node in all_nodes(flow)] == ["Expand", "Add"]


def test_int8_weights_are_not_unpacked(tmp_path: Path) -> None:
    net = Net((4,))
    packed = net.constant(np.arange(16, dtype=np.int8).reshape(4, 4))
    weight = net.add("DequantizeLinear", packed, net.constant(np.array(0.1, np.float32)))
    flow = flow_of(net.save(tmp_path / "m.onnx", net.add("MatMul", net.x, weight)))
    assert [node.op_type for node in all_nodes(flow)] == ["DequantizeLinear", "MatMul"]
    assert flow.groups[0].weighted

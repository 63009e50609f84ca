"""What a graph gives at most: its operators that choose by content, made to keep everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.extents import Kind
from export.graph import OnnxGraph, integers
from export.probe import Facts

_ANY = 2**62  # more than there are of anything


def keeping_all(graph: OnnxGraph, facts: Facts) -> OnnxGraph:
    """The graph in which NonZero, Compress and NonMaxSuppression leave nothing out.

    Its outputs are as long as they can be, if no other operator makes their lengths from the data.
    """
    weights = dict(graph.weights)
    nodes: list[NodeProto] = []
    for node in graph.nodes:
        replaced = None if node.domain else _REPLACED.get(node.op_type)
        if replaced is None or facts.kinds[node.output[0]] != Kind.DATA:
            nodes.append(node)
        else:
            nodes += replaced(node, weights)
    return replace(graph, nodes=tuple(nodes), weights=weights)


def _nonzero(node: NodeProto, _: dict[str, TensorProto]) -> Iterator[NodeProto]:
    made = node.output[0]
    yield helper.make_node("Shape", [node.input[0]], [f"{made}.shape"])
    yield _ones(f"{made}.shape", f"{made}.ones", np.int64)
    yield helper.make_node("NonZero", [f"{made}.ones"], [made])


def _compress(node: NodeProto, _: dict[str, TensorProto]) -> Iterator[NodeProto]:
    made = node.output[0]
    yield helper.make_node("Shape", [node.input[1]], [f"{made}.shape"])
    yield _ones(f"{made}.shape", f"{made}.ones", np.bool_)
    kept = NodeProto()
    kept.CopyFrom(node)
    kept.input[1] = f"{made}.ones"
    yield kept


def _suppression(node: NodeProto, weights: dict[str, TensorProto]) -> Iterator[NodeProto]:
    """Indices of all boxes in each class, up to the number that is allowed."""
    made = node.output[0]
    weights[f"{made}.any"] = integers([_ANY, _ANY])
    weights[f"{made}.one"] = integers([1])
    allowed = node.input[2] if len(node.input) > 2 else ""
    if not allowed:
        allowed = f"{made}.none"
        weights[allowed] = integers([0])
    yield helper.make_node("Reshape", [allowed, f"{made}.one"], [f"{made}.allowed"])
    yield helper.make_node("Concat", [f"{made}.any", f"{made}.allowed"], [f"{made}.most"], axis=0)
    yield helper.make_node("Shape", [node.input[1]], [f"{made}.shape"])  # batch, classes, boxes
    yield helper.make_node("Min", [f"{made}.shape", f"{made}.most"], [f"{made}.kept"])
    yield _ones(f"{made}.kept", f"{made}.ones", np.int64)
    yield helper.make_node("NonZero", [f"{made}.ones"], [f"{made}.turned"])
    yield helper.make_node("Transpose", [f"{made}.turned"], [made], perm=[1, 0])


def _ones(shape: str, made: str, kind: type[np.generic]) -> NodeProto:
    value = numpy_helper.from_array(np.ones(1, kind))
    return helper.make_node("ConstantOfShape", [shape], [made], value=value)


_REPLACED = {"NonZero": _nonzero, "Compress": _compress, "NonMaxSuppression": _suppression}

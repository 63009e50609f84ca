"""Linear heads: which blocks are one, their weights, and the one graph that runs them all.

A head's engine takes weights and biases as inputs, with any number of classes up to a bound. So a
new task on features that are served already needs no engine to be built. All of it is FP32: a head
is a thousandth of the work. Serving does not need this module, nor onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edged.backends.tensorrt.orders import CLASSES, HeadShape
from edged.manifest import DataType

_OPSET, _IR = 13, 8  # TensorRT 10.3 reads both
_FEATURES: dict[int, DataType] = {TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16"}


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """y0 = x0 w.T + b"""

    shape: HeadShape
    weights: npt.NDArray[np.float32]  # (classes, features)
    biases: npt.NDArray[np.float32]  # (classes,)


def find(model: ModelProto) -> LinearHead | None:
    """The head that a block is; None if it is anything else, or has too many classes."""
    graph = model.graph
    if len(graph.input) != 1 or len(graph.output) != 1:
        return None
    given, made = graph.input[0], graph.output[0]
    kind = given.type.tensor_type.elem_type
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(graph.node)
    at = given.name
    if kind == TensorProto.FLOAT16 and nodes and nodes[0].op_type == "Cast":
        at = nodes.pop(0).output[0]
    found = _product(nodes, at, constants)
    if found is None or kind not in _FEATURES or nodes[-1].output[0] != made.name:
        return None
    weights, biases = found
    if made.type.tensor_type.elem_type != TensorProto.FLOAT or weights.dtype != np.float32:
        return None
    bound = next((most for most in CLASSES if len(weights) <= most), None)
    if bound is None:
        return None
    shape = HeadShape(weights.shape[1], _FEATURES[kind], bound)
    return LinearHead(shape, np.ascontiguousarray(weights), np.ascontiguousarray(biases))


def _product(
    nodes: list[NodeProto], at: str, constants: Mapping[str, TensorProto]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """Weights (classes, features) and biases of one Gemm, or of a MatMul and an Add."""

    def constant(name: str) -> npt.NDArray[np.float32] | None:
        return numpy_helper.to_array(constants[name]) if name in constants else None

    kinds = [node.op_type for node in nodes]
    if kinds not in (["Gemm"], ["MatMul"], ["MatMul", "Add"]) or nodes[0].input[0] != at:
        return None
    weights = constant(nodes[0].input[1])
    if weights is None or weights.ndim != 2:
        return None
    options = {a.name: helper.get_attribute_value(a) for a in nodes[0].attribute}
    if options.get("transA", 0) or options.get("alpha", 1.0) != 1.0 or options.get("beta", 1) != 1:
        return None
    weights = weights if options.get("transB", 0) else weights.T
    added = list(nodes[0].input[2:3])
    if len(nodes) == 2:
        added = [name for name in nodes[1].input if name != nodes[0].output[0]]
    biases = np.zeros(len(weights), np.float32)
    for name in filter(None, added):
        value = constant(name)
        if value is None or value.size not in (1, len(weights)) or value.dtype != np.float32:
            return None
        biases = biases + value.reshape(-1)
    return weights, biases


def engine_model(shape: HeadShape) -> ModelProto:
    """The graph of the engine: inputs x0 (rows, features), w (classes, features), b (classes,)."""
    at, nodes = "x0", []
    kind = TensorProto.FLOAT
    if shape.datatype == "FP16":
        at, kind = "floats", TensorProto.FLOAT16
        nodes = [helper.make_node("Cast", ["x0"], [at], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("Gemm", [at, "w", "b"], ["y0"], transB=1))
    graph = helper.make_graph(
        nodes,
        "linear head",
        [
            helper.make_tensor_value_info("x0", kind, ["rows", shape.features]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, ["classes", shape.features]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, ["classes"]),
        ],
        [helper.make_tensor_value_info("y0", TensorProto.FLOAT, ["rows", "classes"])],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR, producer_name="edged")

"""A block's ONNX file as a strongly typed one: FP16, but FP32 where that overflows or drifts.

In a strongly typed network TensorRT computes in the types that the file says, so the file decides
where halves are enough. What sums squares or exponents, or divides by such a sum, stays FP32:
halves overflow there (TensorRT issues 2564, 2922, 4355). Inputs and outputs keep their types, since
they are the borders between blocks. Serving does not need this module, nor onnx.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edged.errors import Unsupported

VERSION = 1  # raised when the recipe makes other files

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_FLOATS = (_FLOAT, _HALF, TensorProto.BFLOAT16, TensorProto.DOUBLE)

# Normalisations, reductions and powers, and what onnx or TensorRT define for FP32 alone.
_KEPT = frozenset({
    "LayerNormalization", "GroupNormalization", "InstanceNormalization", "LpNormalization",
    "MeanVarianceNormalization", "RMSNormalization", "Softmax", "LogSoftmax", "Pow", "Sqrt",
    "Reciprocal", "Exp", "Log", "CumSum", "Range", "NonMaxSuppression", "RoiAlign",
    "QuantizeLinear", "DequantizeLinear", "TopK", "Constant", "ConstantOfShape", "EyeLike",
})  # fmt: skip
_ROOTS = frozenset({"Log", "Pow", "Reciprocal", "Sqrt"})
_PASSING = frozenset({
    "Add", "Cast", "Clip", "Expand", "Max", "Mul", "Reshape", "Squeeze", "Unsqueeze",
})  # fmt: skip
_ALWAYS_FLOAT = {"Resize": (1, 2)}  # inputs that are FP32 whatever the others are


def typed(model: ModelProto) -> ModelProto:
    """The same graph with operators in FP16 where the recipe allows it.

    Raises Unsupported where the graph holds other graphs, or values whose type cannot be found.
    """
    return _Writer(model).written()


class _Writer:
    """Writes the operators in their order. Each value has a name in FP32, in FP16, or both."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        self._graph = model.graph
        self._types = element_types(model)
        self._norms = _around_norms(model.graph)
        self._counts: set[str] = set()  # FP32 values that integers alone lead to
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._names: dict[str, dict[int, str]] = {}  # FP32 values by the types that they have
        self._nodes: list[NodeProto] = []
        self._weights: dict[str, TensorProto] = {}

    def written(self) -> ModelProto:
        graph = self._graph
        for value in graph.input:
            self._names[value.name] = {_FLOAT: value.name}
        for node in graph.node:
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
                raise Unsupported(f"{node.op_type} holds a graph, which the recipe cannot type")
            self._add(node)
        for value in graph.output:
            if value.type.tensor_type.elem_type == _FLOAT:
                self._end(value.name)
        made = helper.make_graph(
            self._nodes, graph.name, graph.input, graph.output, list(self._weights.values())
        )
        return helper.make_model(
            made,
            opset_imports=self._model.opset_import,
            ir_version=self._model.ir_version,
            producer_name="edged",
        )

    def _add(self, original: NodeProto) -> None:
        node = NodeProto()
        node.CopyFrom(original)
        kind = _FLOAT if self._is_kept(original) else _HALF
        always = _ALWAYS_FLOAT.get(node.op_type, ())
        for index, name in enumerate(original.input):
            node.input[index] = self._as(name, _FLOAT if index in always else kind)
        if kind == _HALF:
            _halve(node)
        for index, name in enumerate(original.output):
            if name and self._types[name] == _FLOAT:
                node.output[index] = given = name if kind == _FLOAT else f"{name}.half"
                self._names[name] = {kind: given}
        self._nodes.append(node)

    def _is_kept(self, node: NodeProto) -> bool:
        """Whether the operator computes in FP32."""
        if node.op_type in _KEPT or node.op_type.startswith("Reduce"):
            return True
        if self._counts_on(node):  # halves are exact up to 2048 only
            self._counts.update(node.output)
            return True
        return bool(node.output) and node.output[0] in self._norms

    def _counts_on(self, node: NodeProto) -> bool:
        """Whether it makes a number of integers alone, as the arithmetic of positions does."""
        if node.op_type == "Cast":
            source = node.input[0]
            return source in self._counts or self._types[source] not in _FLOATS
        given = [name for name in node.input if name and self._types[name] == _FLOAT]
        known = [name for name in given if name in self._counts]
        return bool(known) and all(n in self._counts or n in self._constants for n in given)

    def _as(self, name: str, kind: int) -> str:
        """The name of a value in this type, if it is one of FP32; else its own."""
        if not name or self._types[name] != _FLOAT:
            if name in self._constants:
                self._weights.setdefault(name, self._constants[name])
            return name
        names = self._names.setdefault(name, {})
        if kind not in names:
            names[kind] = f"{name}.half" if kind == _HALF else f"{name}.float"
            if name in self._constants:
                self._weights[names[kind]] = _constant(self._constants[name], names[kind], kind)
            else:
                (other,) = (given for at, given in names.items() if at != kind)
                self._nodes.append(helper.make_node("Cast", [other], [names[kind]], to=kind))
        return names[kind]

    def _end(self, name: str) -> None:
        """An output keeps its name and its type."""
        if (given := self._as(name, _FLOAT)) == name:
            return
        if name in self._constants:
            self._nodes.append(helper.make_node("Identity", [given], [name]))
            return
        for node in reversed(self._nodes):  # the Cast that made it may have been read as well
            for side in (node.input, node.output):
                for index, found in enumerate(side):
                    if found == given:
                        side[index] = name


def element_types(model: ModelProto) -> dict[str, int]:
    """The element type of every value. Shapes are not looked at, so weights are left out."""
    graph = model.graph
    light = GraphProto()
    light.node.extend(graph.node)
    light.output.extend(graph.output)
    light.input.extend(graph.input)
    light.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in graph.initializer
    )
    light.name = graph.name
    bare = helper.make_model(light, opset_imports=model.opset_import, ir_version=model.ir_version)
    found = onnx.shape_inference.infer_shapes(bare).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*found.input, *found.value_info, *found.output, *graph.value_info)
    }
    for node in graph.node:
        for name in node.output:
            if name and not types.get(name):
                raise Unsupported(f"the type of {name!r}, which {node.op_type} makes, is not known")
    return types


def _around_norms(graph: GraphProto) -> set[str]:
    """What operators make between a sum and the root or the division that follows, and that.

    The bounds and terms that keep a divisor from zero, as 1e-12, are zero in FP16.
    """
    norms: dict[str, NodeProto | None] = {}  # values that come from a sum, and what passed them on
    found: set[str] = set()
    for node in graph.node:
        ends = node.input[1:2] if node.op_type == "Div" else ()
        if node.op_type in _ROOTS:
            ends = node.input[:1]
        waiting = [name for name in ends if name in norms]
        if waiting:
            found.update(node.output)
        while waiting:
            passed = norms[waiting.pop()]
            if passed is not None:
                found.update(passed.output)
                waiting += [name for name in passed.input if name in norms]
        sources = node.input[:1] if node.op_type in ("Expand", "Reshape") else node.input
        if node.op_type.startswith("Reduce") or node.op_type in _ROOTS:
            norms.update(dict.fromkeys(node.output))
        elif node.op_type in _PASSING and any(name in norms for name in sources):
            norms.update(dict.fromkeys(node.output, node))
    return found


def _halve(node: NodeProto) -> None:
    """The attributes as they are where the operator computes in FP16."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
            attribute.i = _HALF


def _constant(tensor: TensorProto, name: str, kind: int) -> TensorProto:
    if kind == _FLOAT:
        same = TensorProto()
        same.CopyFrom(tensor)
        same.name = name
        return same
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):  # the parity gate finds infinities
        return numpy_helper.from_array(values.astype(np.float16), name)


def float_operators(model: ModelProto) -> Iterator[str]:
    """The types of the operators that make FP32 values, in order; for tests and reports."""
    types = element_types(model)
    return (n.op_type for n in model.graph.node if any(types.get(o) == _FLOAT for o in n.output))

"""A typed graph as FP32 operators whose results are rounded to FP16: what halves do, on any CPU.

ONNX Runtime has no FP16 operators on most CPUs: it computes in FP32, and leaves out the casts
between two such operators, so that nothing overflows and nothing is rounded. Casts that a file
itself has are kept. Serving does not need this module, nor onnx.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edged.backends.tensorrt.recipe import element_types

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16

# What only moves values, which are rounded already.
_MOVING = frozenset({
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherND", "MaxPool", "Relu",
    "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip


def rounded(model: ModelProto) -> ModelProto:
    """The same inputs and outputs, and no operator that computes in FP16.

    A half `v` lies in the FP32 value `v.wide`.
    """
    graph, types = model.graph, element_types(model)
    nodes = [
        helper.make_node("Cast", [value.name], [_wide(value.name, types)], to=_FLOAT)
        for value in graph.input
        if types[value.name] == _HALF
    ]
    for node in graph.node:
        nodes += _operators(node, types)
    nodes += [
        helper.make_node("Cast", [_wide(value.name, types)], [value.name], to=_HALF)
        for value in graph.output
        if types[value.name] == _HALF
    ]
    constants = [_constant(tensor, types) for tensor in graph.initializer]
    return helper.make_model(
        helper.make_graph(nodes, graph.name, graph.input, graph.output, constants),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        producer_name="edged",
    )


def _wide(name: str, types: Mapping[str, int]) -> str:
    return f"{name}.wide" if name and types[name] == _HALF else name


def _operators(original: NodeProto, types: Mapping[str, int]) -> Iterator[NodeProto]:
    """The operator in FP32, and the casts that round what it makes."""
    node = NodeProto()
    node.CopyFrom(original)
    for side in (node.input, node.output):
        side[:] = [_wide(name, types) for name in side]
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _HALF:
            attribute.i = _FLOAT
    if node.op_type in _MOVING:
        yield node
        return
    halves = [index for index, name in enumerate(original.output) if types.get(name) == _HALF]
    for index in halves:
        node.output[index] = f"{original.output[index]}.exact"
    yield node
    for index in halves:
        name = original.output[index]
        yield helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=_HALF)
        yield helper.make_node("Cast", [f"{name}.half"], [f"{name}.wide"], to=_FLOAT)


def _constant(tensor: TensorProto, types: Mapping[str, int]) -> TensorProto:
    if tensor.data_type != _HALF:
        return tensor
    values = numpy_helper.to_array(tensor).astype(np.float32)
    return numpy_helper.from_array(values, _wide(tensor.name, types))

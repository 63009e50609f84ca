"""An ONNX file as a plain list of operators, inlined and without operators that compute nothing.

Every graph here is sorted and in single assignment form. It has no functions, no loops, no
Constant, Identity or Dropout operators and no dead ones. `export.branches` takes the `If` operators
out, and `export.opset` brings it to an opset that all know. Knows nothing of layers or blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    inliner,
    numpy_helper,
)

from edged.errors import InvalidArgument, NotFound, Unsupported

OLDEST_OPSET = 13  # of a graph that is cut; `export.opset` brings older ones there
_OLDEST_READ = 7  # ONNX Runtime promises to run models from this opset on
LARGEST_BYTES = 2**31 - 1  # limit of a protobuf message, so of an ONNX file with its weights inside

_RANDOM = {
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """Operators in an order in which they can run, and their weights and inputs."""

    nodes: tuple[NodeProto, ...]
    weights: dict[str, TensorProto]
    inputs: tuple[ValueInfoProto, ...]
    outputs: tuple[str, ...]
    opsets: dict[str, int]  # domain: version
    # The least and the largest of the whole numbers that trials give an input; else 0 and 1.
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model as its file has it, and its graph."""

    model: ModelProto
    graph: OnnxGraph


def load(path: Path) -> ModelFile:
    """Read an ONNX file, with its external data if it has any.

    Raises NotFound, InvalidArgument (not an ONNX file, or damaged) and Unsupported.
    """
    try:
        model = onnx.load(str(path))
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {error.filename or path}") from error
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unreadable"
        raise InvalidArgument(f"{path} is not a readable ONNX model: {reason}") from error
    if not model.graph.node or not model.opset_import:
        raise InvalidArgument(f"{path} is not an ONNX model: it has no operators")
    if model.ByteSize() > LARGEST_BYTES:
        raise Unsupported(
            f"{path} has more than 2 GiB with its weights, and a block is one file of at most "
            "that: export it in lower precision or in parts"
        )
    try:
        return ModelFile(model, read(model))
    except Unsupported as error:
        raise Unsupported(f"{path}: {error}") from error


def read(model: ModelProto) -> OnnxGraph:
    """The graph of a model in memory. Raises Unsupported."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
    if opsets.get("", OLDEST_OPSET) < _OLDEST_READ:
        raise Unsupported(
            f"opset {opsets['']} is too old: export it again with opset {_OLDEST_READ} or later"
        )
    graph = model.graph
    weights: dict[str, TensorProto] = {}
    nodes = operators(graph, weights)
    inputs = tuple(_declared(value) for value in graph.input if value.name not in weights)
    outputs = tuple(value.name for value in graph.output)
    return tidy(OnnxGraph(tuple(nodes), weights, inputs, outputs, opsets))


def operators(graph: GraphProto, weights: dict[str, TensorProto]) -> list[NodeProto]:
    """The operators of a graph or of a branch. Its weights and constants are added to `weights`.

    Raises Unsupported.
    """
    if graph.sparse_initializer:
        raise Unsupported("sparse weights are not supported: export it again with dense ones")
    weights |= {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        _refuse(node, weights)
        if node.op_type == "Constant":
            weights[node.output[0]] = _constant(node)
        else:
            nodes.append(node)
    return nodes


def tidy(graph: OnnxGraph) -> OnnxGraph:
    """The graph without Identity, Dropout, dead operators and unused weights.

    Graph outputs keep their names.
    """
    alias: dict[str, str] = {}
    kept: list[NodeProto] = []
    seen = set[str]().union(*map(seen_inside, graph.nodes)) | set(graph.outputs)
    fixed = {value.name for value in graph.inputs} | set(graph.weights) | seen
    for original in graph.nodes:
        node = NodeProto()
        node.CopyFrom(original)
        node.domain = _domain(node.domain)
        for i, name in enumerate(node.input):
            node.input[i] = alias.get(name, name)
        if not _copies(node):
            kept.append(node)
        elif node.output[0] not in seen:
            alias[node.output[0]] = node.input[0]
        elif node.input[0] not in fixed:
            # The value takes the public name everywhere, also where an earlier operator reads it.
            alias[node.input[0]] = node.output[0]
            fixed.add(node.input[0])
        else:
            kept.append(node)
    for node in kept:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = _resolve(alias, name)
    needed = set(graph.outputs)
    live: list[NodeProto] = []
    for node in reversed(kept):
        if needed & set(node.output):
            live.append(node)
            needed |= set(node.input) | seen_inside(node)
    live.reverse()
    weights = {name: tensor for name, tensor in graph.weights.items() if name in needed}
    return replace(graph, nodes=tuple(live), weights=weights)


def bodies(node: NodeProto) -> list[GraphProto]:
    """The graphs inside an operator: branches, or the body of a loop."""
    return [
        graph
        for attribute in node.attribute
        for graph in ([attribute.g] if attribute.HasField("g") else attribute.graphs)
    ]


def seen_inside(node: NodeProto) -> set[str]:
    """The names that the graphs inside an operator use; those of outer values are among them."""
    names: set[str] = set()
    for body in bodies(node):
        names |= {value.name for value in body.output}
        for inner in body.node:
            names |= set(inner.input) | seen_inside(inner)
    return names


def rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Rename values that an operator, and the graphs inside it, read and write."""
    for side in (node.input, node.output):
        for i, name in enumerate(side):
            side[i] = names.get(name, name)
    for body in bodies(node):
        for value in body.output:
            value.name = names.get(value.name, value.name)
        for inner in body.node:
            rename(inner, names)


def to_model(
    graph: OnnxGraph, outputs: Iterable[str] | None = None, extra: Iterable[NodeProto] = ()
) -> ModelProto:
    """A model that runs, by default with the graph's own outputs, whose types are not declared."""
    names = graph.outputs if outputs is None else tuple(outputs)
    body = helper.make_graph(
        [*graph.nodes, *extra],
        "graph",
        list(graph.inputs),
        [helper.make_empty_tensor_value_info(name) for name in names],
        [named(tensor, name) for name, tensor in graph.weights.items()],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in graph.opsets.items()]
    ir_version = ir_version_of(graph.opsets)
    return helper.make_model(body, opset_imports=opsets, ir_version=ir_version)


def ir_version_of(opsets: dict[str, int]) -> int:
    """The oldest file format that allows these opsets, so that old runtimes can read the file."""
    standard = [helper.make_opsetid("", opsets[""])] if "" in opsets else []
    return max(8, helper.find_min_ir_version_for(standard, ignore_unknown=True))


def named(tensor: TensorProto, name: str) -> TensorProto:
    """The tensor with another name and the same content."""
    if tensor.name == name:
        return tensor
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy


def integers(values: Iterable[int]) -> TensorProto:
    """A one-dimensional int64 tensor without a name."""
    return numpy_helper.from_array(np.array(list(values), np.int64))


def _resolve(alias: dict[str, str], name: str) -> str:
    while name in alias:
        name = alias[name]
    return name


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _declared(value: ValueInfoProto) -> ValueInfoProto:
    """An input as it is declared. Extents of -1, which some exporters write, are free ones."""
    copy = ValueInfoProto()
    copy.CopyFrom(value)
    for dim in copy.type.tensor_type.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value < 1:
            dim.Clear()
    return copy


def _copies(node: NodeProto) -> bool:
    one_output = not any(node.output[1:])
    return node.domain == "" and node.op_type in ("Dropout", "Identity") and one_output


def _refuse(node: NodeProto, weights: dict[str, TensorProto]) -> None:
    if bodies(node) and node.op_type != "If":
        raise Unsupported(
            f"control flow ({node.op_type} {node.name!r}) is not supported: export the model "
            "for one fixed size of image, or leave out the outputs that need it (--outputs)"
        )
    if node.op_type == "BatchNormalization" and _learns(node):
        raise Unsupported(
            f"it learns from what it is given ({node.op_type} {node.name!r} in training mode): "
            "export it in evaluation mode"
        )
    if node.op_type in _RANDOM or (node.op_type == "Dropout" and _drops(node, weights)):
        raise Unsupported(
            f"it draws random numbers ({node.op_type} {node.name!r}): export it in evaluation mode"
        )


def _learns(node: NodeProto) -> bool:
    return any(a.name == "training_mode" and a.i for a in node.attribute)


def _drops(node: NodeProto, weights: dict[str, TensorProto]) -> bool:
    """Whether a Dropout is in training mode, or might be."""
    if len(node.input) < 3 or not node.input[2]:
        return False
    mode = weights.get(node.input[2])
    return mode is None or bool(numpy_helper.to_array(mode).any())


def _constant(node: NodeProto) -> TensorProto:
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return named(value, node.output[0])
    types = {
        "value_int": np.int64, "value_ints": np.int64,
        "value_float": np.float32, "value_floats": np.float32,
    }  # fmt: skip
    if attribute.name not in types:
        raise Unsupported(f"a constant of kind {attribute.name} ({node.name!r}) is not supported")
    return numpy_helper.from_array(np.array(value, types[attribute.name]), node.output[0])

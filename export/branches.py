"""Replaces each `If` by the branch that it takes, where no input decides which one that is.

Exporters write such operators for shapes (torch's `squeeze`) and for settings, as a sample rate.
A condition must follow from weights, from fixed inputs and from extents that do not depend on the
data or on the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from edged.errors import Unsupported
from export.graph import OnnxGraph, named, operators, rename, tidy
from export.probe import probe


def without_branches(graph: OnnxGraph, rows: Sequence[int]) -> OnnxGraph:
    """The graph without `If`, for these numbers of rows (those of `probe`).

    Raises Unsupported if a condition depends on the data or differs between numbers of rows, and
    InvalidArgument if ONNX Runtime cannot run what leads to one.
    """
    while branching := [node for node in graph.nodes if _is_if(node)]:
        known = _known(graph, branching, rows)
        if not known:
            first = branching[0]
            raise Unsupported(
                f"control flow ({first.op_type} {first.name!r}) whose condition depends on the "
                "data is not supported: export the model for one case, fix the input that decides "
                "(--input NAME=VALUE), or leave out the outputs that need it (--outputs)"
            )
        graph = tidy(_taken(graph, known))
    return graph


def _is_if(node: NodeProto) -> bool:
    return node.op_type == "If" and not node.domain


def _known(
    graph: OnnxGraph, branching: Sequence[NodeProto], rows: Sequence[int]
) -> dict[str, bool]:
    """The conditions that are the same whatever the data are."""
    inputs = {value.name for value in graph.inputs}
    asked = dict.fromkeys(node.input[0] for node in branching)
    found = {name: graph.weights[name] for name in asked if name in graph.weights}
    made = tuple(name for name in asked if name not in found and name not in inputs)
    if made:
        leading = tidy(replace(graph, outputs=made))
        folded = probe(leading, rows).folded
        found |= {name: folded[name] for name in made if name in folded}
    return {name: bool(numpy_helper.to_array(tensor).all()) for name, tensor in found.items()}


def _taken(graph: OnnxGraph, known: Mapping[str, bool]) -> OnnxGraph:
    """The graph with the branches of the known conditions in place of their `If`."""
    nodes: list[NodeProto] = []
    weights = dict(graph.weights)
    for node in graph.nodes:
        if not _is_if(node) or node.input[0] not in known:
            nodes.append(node)
            continue
        side = "then_branch" if known[node.input[0]] else "else_branch"
        (branch,) = (a.g for a in node.attribute if a.name == side)
        nodes += _spliced(branch, node, f"edged.if.{len(weights)}.{len(nodes)}.", weights)
    return replace(graph, nodes=tuple(nodes), weights=weights)


def _spliced(
    branch: GraphProto, node: NodeProto, prefix: str, weights: dict[str, TensorProto]
) -> Iterator[NodeProto]:
    """The operators of a branch. Other branches may use its names, so its values get new ones."""
    own: dict[str, TensorProto] = {}
    inner = operators(branch, own)
    made = [*own, *(name for one in inner for name in one.output if name)]
    names = {name: prefix + name for name in made}
    weights |= {names[name]: named(tensor, names[name]) for name, tensor in own.items()}
    for one in inner:
        copy = NodeProto()
        copy.CopyFrom(one)
        rename(copy, names)
        yield copy
    for value, output in zip(branch.output, node.output, strict=True):
        if output:
            yield helper.make_node("Identity", [names.get(value.name, value.name)], [output])

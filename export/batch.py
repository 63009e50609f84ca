"""Rewrites models that were exported for a fixed number of rows, so that they run any number.

Exporters write that number into constants: targets of reshapes, tokens and masks to concatenate,
sizes of resized images. These are rewritten on the assumption that the rows are axis 0; the caller
must check that the result computes the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from onnx import NodeProto, ValueInfoProto, helper

from edged.errors import InvalidArgument, Unsupported
from export.extents import Kind
from export.graph import OnnxGraph, integers
from export.probe import Facts, Integers


def fixed_rows(graph: OnnxGraph) -> int | None:
    """The only number of rows that the graph runs; None if it runs any. Raises Unsupported."""
    found = {value.type.tensor_type.shape.dim[0].dim_value for value in _tensors(graph)}
    if len(found) > 1:
        raise Unsupported("its inputs have different batch sizes: export it with one for all")
    return found.pop() or None


def with_shapes(graph: OnnxGraph, shapes: dict[str, tuple[int, ...]]) -> OnnxGraph:
    """The graph with these extents of its inputs. `shapes` are without the row axis.

    Raises InvalidArgument if there is no such input, or if it has other extents.
    """
    inputs = []
    known = {value.name for value in graph.inputs}
    if unknown := sorted(shapes.keys() - known):
        have = ", ".join(sorted(known))
        raise InvalidArgument(f"there is no input {unknown[0]!r}; the model has: {have}")
    for value in graph.inputs:
        copy = ValueInfoProto()
        copy.CopyFrom(value)
        dims = copy.type.tensor_type.shape.dim
        wanted = shapes.get(value.name, tuple(dim.dim_value for dim in dims[1:]))
        own = [dim.dim_value for dim in dims[1:]]
        if len(wanted) != len(own) or any(a and a != b for a, b in zip(own, wanted, strict=True)):
            raise InvalidArgument(
                f"input {value.name!r} has shape {own} (0: any), which {list(wanted)} does not fit"
            )
        for dim, extent in zip(dims[1:], wanted, strict=True):
            if extent:
                dim.dim_value = extent
        inputs.append(copy)
    return replace(graph, inputs=tuple(inputs))


def set_free(graph: OnnxGraph, facts: Facts, fixed: int) -> OnnxGraph:
    """The graph for any number of rows, right if the rows are axis 0 of all constants rewritten.

    `facts` are those of the graph at `fixed` rows.
    """
    writer = _Writer(graph, facts, fixed)
    for node in graph.nodes:
        writer.add(node)
    freed = replace(graph, nodes=tuple(writer.nodes), weights=writer.weights)
    return with_rows(freed, None)


def with_rows(graph: OnnxGraph, rows: int | None) -> OnnxGraph:
    """The graph with inputs of `rows` rows; None stands for any number."""
    inputs = []
    for value in graph.inputs:
        copy = ValueInfoProto()
        copy.CopyFrom(value)
        axis = copy.type.tensor_type.shape.dim[0]
        if rows is None:
            axis.dim_param = "rows"
        else:
            axis.dim_value = rows
        inputs.append(copy)
    return replace(graph, inputs=tuple(inputs))


class _Writer:
    """Copies a graph operator by operator; owns the new list and the weights."""

    def __init__(self, graph: OnnxGraph, facts: Facts, fixed: int) -> None:
        self.nodes: list[NodeProto] = []
        self.weights = dict(graph.weights)
        self._facts = facts
        self._fixed = fixed

    def add(self, original: NodeProto) -> None:
        node = NodeProto()
        node.CopyFrom(original)
        if self._facts.kinds[node.output[0]] == Kind.DATA and not node.domain:
            if node.op_type == "Reshape":
                self._reshape(node)
            elif node.op_type == "Expand":
                self._expand(node)
            elif node.op_type == "Resize" and len(node.input) > 3:
                self._resize(node)
            elif node.op_type == "Concat":
                self._concat(node)
        self.nodes.append(node)

    def _reshape(self, node: NodeProto) -> None:
        extents = self._extents(node.output[0])
        if self._is_constant(node.input[1]) and extents is not None and extents.all():
            node.input[1] = self._constant([-1, *extents[1:]])

    def _expand(self, node: NodeProto) -> None:
        before, after = (self._extents(name) for name in (node.input[0], node.output[0]))
        if self._is_constant(node.input[1]) and before is not None and after is not None:
            before = np.pad(before, (len(after) - len(before), 0))
            node.input[1] = self._constant(np.where(before == after, 1, after))

    def _resize(self, node: NodeProto) -> None:
        extents = self._extents(node.output[0])
        whole = not any(a.name == "axes" for a in node.attribute)
        if self._is_constant(node.input[3]) and extents is not None and whole:
            node.input[3] = self._first_axis(node.input[0], extents[1:])

    def _concat(self, node: NodeProto) -> None:
        """Repeat constant inputs of a Concat for each row, such as a token that each image gets."""
        (axis,) = (helper.get_attribute_value(a) for a in node.attribute if a.name == "axis")
        data = [name for name in node.input if not self._is_constant(name)]
        if axis == 0 or not data:
            return
        for i, name in enumerate(node.input):
            extents = self._extents(name)
            if self._is_constant(name) and extents is not None and extents[0] == self._fixed == 1:
                target = self._first_axis(data[0], extents[1:])
                node.input[i] = self._emit("Expand", name, target)

    def _first_axis(self, like: str, others: Integers) -> str:
        """Write extents whose first is the number of rows of `like`, followed by `others`."""
        shape = self._emit("Shape", like)
        rows = self._emit("Gather", shape, self._constant([0]))
        return self._emit("Concat", rows, self._constant(others), axis=0)

    def _emit(self, operator: str, *reads: str, **attributes: int) -> str:
        made = f"edged.free.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, reads, [made], **attributes))  # type: ignore[arg-type]
        return made

    def _constant(self, values: Iterable[int]) -> str:
        name = f"edged.free.w{len(self.weights)}"
        self.weights[name] = integers(values)
        return name

    def _is_constant(self, name: str) -> bool:
        return name in self.weights or self._facts.kinds.get(name) == Kind.CONSTANT

    def _extents(self, name: str) -> Integers | None:
        if name in self.weights:
            return np.array(self.weights[name].dims, np.int64)
        size = self._facts.sizes.get(name)
        return None if size is None or not len(size.fixed) else size.fixed


def _tensors(graph: OnnxGraph) -> list[ValueInfoProto]:
    for value in graph.inputs:
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.shape.dim:
            raise Unsupported(f"input {value.name!r} is no tensor with the batch as its first axis")
    return list(graph.inputs)

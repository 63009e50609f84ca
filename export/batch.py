"""Rewrites models that were exported for a fixed number of rows, so that they run any number.

Exporters write that number into constants: targets of reshapes, tokens and masks to concatenate,
sizes of resized images, numbers of rows to gather. These are rewritten on the assumption that the
rows are axis 0; the caller must check that the result computes the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from export.borders import with_rows
from export.extents import Kind
from export.graph import OnnxGraph
from export.probe import Array, Facts, Integers

# Operators that broadcast their inputs.
_ELEMENTWISE = {
    "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min",
    "Mod", "Mul", "Or", "Pow", "Sub", "Where", "Xor",
}  # fmt: skip


def set_free(graph: OnnxGraph, facts: Facts, fixed: int) -> OnnxGraph:
    """The graph for any number of rows, right if the rows are axis 0 of all constants rewritten.

    `facts` are those of the graph at `fixed` rows.
    """
    writer = _Writer(graph, facts, fixed)
    for node in graph.nodes:
        writer.add(node)
    freed = replace(graph, nodes=tuple(writer.nodes), weights=writer.weights)
    return with_rows(freed, None)


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
            elif node.op_type in _ELEMENTWISE and self._fixed > 1:
                self._elementwise(node)
            elif node.op_type in ("Gather", "GatherND"):
                self._gather(node)
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
            if self._is_constant(name) and extents is not None and extents[0] == self._fixed:
                target = self._first_axis(data[0], extents[1:])
                node.input[i] = self._emit("Expand", self._first_row(name), target)

    def _elementwise(self, node: NodeProto) -> None:
        """Give constants that have a row for each row of the batch one row for all."""
        after = self._extents(node.output[0])
        for i, name in enumerate(node.input):
            extents = self._extents(name) if self._is_constant(name) else None
            if extents is None or after is None or len(extents) != len(after):
                continue
            if extents[0] == after[0] == self._fixed:
                node.input[i] = self._first_row(name)

    def _gather(self, node: NodeProto) -> None:
        """Count the rows where constant indices do, as in x[[0, 1, 2], [5, 5, 5]]."""
        name = node.input[1]
        indices = self._content(name)
        axes = [a.i for a in node.attribute if a.name in ("axis", "batch_dims")]
        if indices is None or any(axes) or not indices.ndim or len(indices) != self._fixed:
            return
        if self._fixed > 1:
            step = indices[1] - indices[0]
        elif node.op_type == "GatherND" and indices.ndim == 2:
            step = np.eye(1, indices.shape[1], dtype=np.int64)[0]  # what one row does not tell
        else:
            return
        count = np.arange(self._fixed).reshape(-1, *[1] * step.ndim)
        if not step.any() or (indices != indices[0] + count * step).any():
            return
        rows = self._emit("Shape", node.input[0])
        rows = self._emit("Squeeze", self._emit("Gather", rows, self._constant([0])))
        numbers = self._emit("Range", self._scalar(0), rows, self._scalar(1))
        column = self._emit("Reshape", numbers, self._constant([-1, *[1] * step.ndim]))
        steps = self._emit("Mul", column, self._array(step))
        node.input[1] = self._emit("Add", steps, self._array(indices[0]))

    def _first_row(self, name: str) -> str:
        """The first row of a constant that has one for each row of the batch."""
        if self._fixed == 1:
            return name
        return self._emit("Gather", name, self._constant([0]))

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
        return self._array(np.array(list(values), np.int64))

    def _scalar(self, value: int) -> str:
        return self._array(np.array(value, np.int64))

    def _array(self, values: Array) -> str:
        name = f"edged.free.w{len(self.weights)}"
        self.weights[name] = numpy_helper.from_array(values.astype(np.int64))
        return name

    def _content(self, name: str) -> Integers | None:
        """The whole numbers of a constant, if they are known."""
        tensor = self.weights.get(name) or self._facts.folded.get(name)
        if tensor is None:
            return None
        array = numpy_helper.to_array(tensor)
        return array.astype(np.int64) if array.dtype.kind == "i" else None

    def _is_constant(self, name: str) -> bool:
        return name in self.weights or self._facts.kinds.get(name) == Kind.CONSTANT

    def _extents(self, name: str) -> Integers | None:
        if name in self.weights:
            return np.array(self.weights[name].dims, np.int64)
        size = self._facts.sizes.get(name)
        return None if size is None or not len(size.fixed) else size.fixed

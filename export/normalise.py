"""A graph in which only data crosses from operator to operator.

Exporters compute shapes from the number of rows once and use them everywhere, and constants
likewise; cut anywhere, such a graph would pass them on from block to block. Here each operator
on data gets what it needs of these for itself: constants are folded or copied to it, and shapes
follow from its own inputs. The result computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.graph import Graph, integers
from export.probe import Affine, Facts, Integers, Kind

_FLOATS = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE,
    TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Group:
    """One operator on data, last in `nodes`, after the constants and shapes that only it reads."""

    nodes: tuple[NodeProto, ...]
    reads: tuple[str, ...]  # data
    writes: tuple[str, ...]
    weighted: bool  # has a weight of two or more axes: a kernel or a matrix, no bias, scale or norm

    @property
    def operator(self) -> str:
        return self.nodes[-1].op_type


@dataclass(frozen=True, slots=True)
class Flow:
    """A normalised graph."""

    groups: tuple[Group, ...]
    weights: dict[str, TensorProto]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: dict[str, str]  # of data, as in Facts
    sizes: dict[str, Affine]
    opsets: dict[str, int]


def normalise(graph: Graph, facts: Facts) -> Flow:
    """The graph as groups, in the order of its operators."""
    writer = _Writer(graph, facts)
    data = {value.name for value in graph.inputs}
    data |= {name for name, kind in facts.kinds.items() if kind == Kind.DATA}
    groups = tuple(
        writer.group(node, data)
        for node in graph.nodes
        if any(name in data for name in node.output) or set(node.output) & set(graph.outputs)
    )
    return Flow(
        groups,
        writer.weights,
        tuple(value.name for value in graph.inputs),
        graph.outputs,
        facts.types,
        facts.sizes,
        graph.opsets,
    )


class _Writer:
    """Writes one group after the other; owns the weights, to which it adds folded constants."""

    def __init__(self, graph: Graph, facts: Facts) -> None:
        self.weights = dict(graph.weights)
        self._facts = facts
        self._makers = {name: node for node in graph.nodes for name in node.output if name}
        self._count = 0

    def group(self, node: NodeProto, data: set[str]) -> Group:
        operator = NodeProto()
        operator.CopyFrom(node)
        nodes: list[NodeProto] = []
        if (target := self._target(node)) is not None:
            operator.input[1] = self._weight(target)
        sources = [name for name in operator.input if name in data]
        copies: dict[str, str] = {}
        for i, name in enumerate(operator.input):
            if name and name not in data:
                operator.input[i] = self._own(name, sources, data, nodes, copies)
        nodes.append(operator)
        read = dict.fromkeys(name for one in nodes for name in one.input if name in data)
        return Group(
            tuple(nodes),
            tuple(read),
            tuple(name for name in node.output if name),
            any(self._is_matrix(name) for one in nodes for name in one.input),
        )

    def _own(
        self,
        name: str,
        sources: list[str],
        data: set[str],
        nodes: list[NodeProto],
        copies: dict[str, str],
    ) -> str:
        """A name in this group for a value that is not data; appends what computes it."""
        if name in self.weights or name in data:
            return name
        if name not in copies:
            counts = self._facts.integers.get(name)
            if name in self._facts.folded:
                copies[name] = self._weight(self._facts.folded[name])
            elif counts is not None and not counts.per_row.any():
                copies[name] = self._weight(self._cast(name, counts.fixed))
            elif counts is not None and (axis := self._axis(sources)) is not None:
                copies[name] = self._counted(name, counts, *axis, nodes)
            else:
                maker = NodeProto()
                maker.CopyFrom(self._makers[name])
                maker.name = ""  # names of operators are unique, and this may be one of many copies
                for i, read in enumerate(maker.input):
                    if read:
                        maker.input[i] = self._own(read, sources, data, nodes, copies)
                for i, made in enumerate(maker.output):
                    if made:
                        copies[made] = maker.output[i] = self._fresh()
                nodes.append(maker)
        return copies[name]

    def _axis(self, sources: list[str]) -> tuple[str, int] | None:
        """An input of the group, and an axis of it whose extent tells the number of rows."""
        for source in sources:
            size = self._facts.sizes.get(source)
            if size is not None and size.per_row.any():
                return source, int(np.flatnonzero(size.per_row)[0])
        return None

    def _counted(
        self, name: str, counts: Affine, source: str, axis: int, nodes: list[NodeProto]
    ) -> str:
        """`counts`, computed from the extent of an axis of `source`."""
        size = self._facts.sizes[source]
        extent = self._emit(nodes, "Shape", source)
        for operator, operand, neutral in (
            ("Gather", np.array([axis]), None),
            ("Sub", size.fixed[[axis]], 0),  # rows = (extent - fixed) / per_row
            ("Div", size.per_row[[axis]], 1),
            ("Mul", counts.per_row.ravel(), 1),
            ("Add", counts.fixed.ravel(), 0),
            ("Reshape", np.array(counts.fixed.shape), None),
        ):
            if neutral is None or (operand != neutral).any():
                extent = self._emit(nodes, operator, extent, self._weight(integers(operand)))
        return self._emit(nodes, "Cast", extent, to=self._onnx_type(name))

    def _emit(self, nodes: list[NodeProto], operator: str, *reads: str, **attributes: int) -> str:
        made = self._fresh()
        nodes.append(helper.make_node(operator, reads, [made], **attributes))  # type: ignore[arg-type]
        return made

    def _target(self, node: NodeProto) -> TensorProto | None:
        """The second input of a Reshape or Expand where it need not depend on the rows."""
        if node.domain or node.op_type not in _TARGETS:
            return None
        sizes = [self._facts.sizes.get(name) for name in (node.input[0], node.output[0])]
        if sizes[0] is None or sizes[1] is None:
            return None
        extents = _TARGETS[node.op_type](sizes[0], sizes[1])
        return None if extents is None else integers(extents)

    def _is_matrix(self, name: str) -> bool:
        tensor = self.weights.get(name)
        return (
            tensor is not None
            and tensor.data_type in _FLOATS
            and sum(extent > 1 for extent in tensor.dims) > 1
        )

    def _weight(self, tensor: TensorProto) -> str:
        name = self._fresh()
        self.weights[name] = tensor
        return name

    def _cast(self, name: str, values: Integers) -> TensorProto:
        dtype = helper.tensor_dtype_to_np_dtype(self._onnx_type(name))
        return numpy_helper.from_array(values.astype(dtype))

    def _onnx_type(self, name: str) -> int:
        types = {"int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}
        return types[self._facts.types[name][len("tensor(") : -1]]

    def _fresh(self) -> str:
        self._count += 1
        return f"edged.{self._count}"


def _reshape_target(_: Affine, after: Affine) -> Integers | None:
    """-1 for the axis that grows with the rows."""
    growing = after.per_row != 0
    if growing.sum() > 1 or not after.fixed[~growing].all():
        return None
    return np.where(growing, -1, after.fixed)


def _expand_target(before: Affine, after: Affine) -> Integers | None:
    """1 for each axis that stays as it is."""
    pad = len(after.fixed) - len(before.fixed)
    fixed, per_row = (np.pad(extents, (pad, 0)) for extents in (before.fixed, before.per_row))
    same = (fixed == after.fixed) & (per_row == after.per_row)
    if after.per_row[~same].any():
        return None
    return np.where(same, 1, after.fixed)


_TARGETS = {"Reshape": _reshape_target, "Expand": _expand_target}


def all_nodes(flow: Flow) -> Iterator[NodeProto]:
    """Every operator of a flow, in order."""
    for group in flow.groups:
        yield from group.nodes

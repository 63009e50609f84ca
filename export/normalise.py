"""A graph in which only data passes from operator to operator.

Exporters compute shapes and constants once and use them everywhere; blocks of such a graph would
have to pass them on to each other. Here each operator on data gets its own: constants are folded or
copied to it, and shapes follow from its own inputs. The result computes the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper

from export.extents import Kind
from export.graph import OnnxGraph, integers
from export.probe import Affine, Facts, Integers

_FLOATS = {
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE,
    TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4,
}  # fmt: skip

_INTEGERS = {
    "tensor(int64)": TensorProto.INT64,
    "tensor(int32)": TensorProto.INT32,
    "tensor(bool)": TensorProto.BOOL,
}


@dataclass(frozen=True, slots=True)
class Group:
    """One operator on data, the last of `nodes`, and constants and shapes that only it reads."""

    nodes: tuple[NodeProto, ...]
    reads: tuple[str, ...]  # names of data
    writes: tuple[str, ...]
    weighted: bool  # has a weight of two or more axes: a kernel or a matrix, not a bias or a scale

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
    types: dict[str, str]  # types of data, as in Facts
    sizes: dict[str, Affine]
    opsets: dict[str, int]


def normalise(graph: OnnxGraph, facts: Facts) -> Flow:
    """The graph as groups, in the order of its operators."""
    data = {value.name for value in graph.inputs}
    data |= {name for name, kind in facts.kinds.items() if kind == Kind.DATA}
    shared = _Shared(
        facts,
        frozenset(data),
        {name: node for node in graph.nodes for name in node.output if name},
        dict(graph.weights),
    )
    groups = tuple(
        _GroupWriter(shared, node).group()
        for node in graph.nodes
        if data & set(node.output) or set(node.output) & set(graph.outputs)
    )
    return Flow(
        groups,
        shared.weights,
        tuple(value.name for value in graph.inputs),
        graph.outputs,
        facts.types,
        facts.sizes,
        graph.opsets,
    )


class _Shared:
    """The state that all groups of a graph share: the weights and the new names."""

    def __init__(
        self,
        facts: Facts,
        data: frozenset[str],
        makers: dict[str, NodeProto],
        weights: dict[str, TensorProto],
    ) -> None:
        self.facts = facts
        self.data = data
        self.makers = makers  # the operator of the graph that makes each value
        self.weights = weights
        self._count = 0

    def fresh(self) -> str:
        """A name that no value has."""
        name = ""
        while not name or name in self.makers or name in self.data or name in self.weights:
            self._count += 1
            name = f"edged.{self._count}"
        return name

    def add(self, tensor: TensorProto) -> str:
        name = self.fresh()
        self.weights[name] = tensor
        return name

    def is_matrix(self, name: str) -> bool:
        tensor = self.weights.get(name)
        return (
            tensor is not None
            and tensor.data_type in _FLOATS
            and sum(extent > 1 for extent in tensor.dims) > 1
        )


class _GroupWriter:
    """Writes one group."""

    def __init__(self, shared: _Shared, node: NodeProto) -> None:
        self._shared = shared
        self._facts = shared.facts
        self._node = node
        self._sources = [name for name in node.input if name in shared.data]
        self._copies: dict[str, str] = {}  # a value of the graph: its name in this group
        self._nodes: list[NodeProto] = []

    def group(self) -> Group:
        shared, operator = self._shared, NodeProto()
        operator.CopyFrom(self._node)
        if (target := self._target()) is not None:
            operator.input[1] = shared.add(target)
        for i, name in enumerate(operator.input):
            if name:
                operator.input[i] = self._own(name)
        nodes = (*self._nodes, operator)
        inputs = dict.fromkeys(name for node in nodes for name in node.input)
        return Group(
            nodes,
            tuple(name for name in inputs if name in shared.data),
            tuple(name for name in operator.output if name),
            any(shared.is_matrix(name) for name in inputs),
        )

    def _own(self, name: str) -> str:
        """The name of a value in this group. Unless it is data, its operators are written first."""
        if name in self._shared.weights or name in self._shared.data:
            return name
        if name not in self._copies:
            counts = self._facts.integers.get(name)
            if name in self._facts.folded:
                self._copies[name] = self._shared.add(self._facts.folded[name])
            elif counts is not None and (axis := self._axis()) is not None:
                self._copies[name] = self._counted(name, counts, *axis)
            else:
                self._copy(self._shared.makers[name])
        return self._copies[name]

    def _copy(self, original: NodeProto) -> None:
        maker = NodeProto()
        maker.CopyFrom(original)
        maker.name = ""  # names of operators must be unique, and there may be several copies
        for i, name in enumerate(maker.input):
            if name:
                maker.input[i] = self._own(name)
        for i, name in enumerate(maker.output):
            if name:
                self._copies[name] = maker.output[i] = self._shared.fresh()
        self._nodes.append(maker)

    def _axis(self) -> tuple[str, int] | None:
        """An input of the group, and one of its axes whose extent gives the number of rows."""
        for source in self._sources:
            size = self._facts.sizes.get(source)
            if size is not None and size.per_row.any():
                return source, int(np.flatnonzero(size.per_row)[0])
        return None

    def _counted(self, name: str, counts: Affine, source: str, axis: int) -> str:
        """Write operators that compute `counts` from the extent of an axis of `source`."""
        size = self._facts.sizes[source]
        extent = self._emit("Shape", source)
        for operator, operand, neutral in (
            ("Gather", np.array([axis]), None),
            ("Sub", size.fixed[[axis]], 0),  # rows = (extent - fixed) / per_row
            ("Div", size.per_row[[axis]], 1),
            ("Mul", counts.per_row.ravel(), 1),
            ("Add", counts.fixed.ravel(), 0),
            ("Reshape", np.array(counts.fixed.shape), None),
        ):
            if neutral is None or (operand != neutral).any():
                extent = self._emit(operator, extent, self._shared.add(integers(operand)))
        return self._emit("Cast", extent, to=_INTEGERS[self._facts.types[name]])

    def _emit(self, operator: str, *reads: str, **attributes: int) -> str:
        made = self._shared.fresh()
        self._nodes.append(helper.make_node(operator, reads, [made], **attributes))  # type: ignore[arg-type]
        return made

    def _target(self) -> TensorProto | None:
        """The second input of a Reshape or Expand as a constant; None if it depends on the rows."""
        node = self._node
        if node.domain or node.op_type not in _TARGETS:
            return None
        before, after = (self._facts.sizes.get(name) for name in (node.input[0], node.output[0]))
        if before is None or after is None:
            return None
        extents = _TARGETS[node.op_type](before, after)
        return None if extents is None else integers(extents)


def _reshape_target(_: Affine, after: Affine) -> Integers | None:
    """The target of a Reshape, -1 for the axis that grows with the rows; None if that is wrong."""
    growing = after.per_row != 0
    if growing.sum() > 1 or not after.fixed[~growing].all():
        return None
    return np.where(growing, -1, after.fixed)


def _expand_target(before: Affine, after: Affine) -> Integers | None:
    """The target of an Expand, with 1 for each axis that keeps its extent."""
    pad = len(after.fixed) - len(before.fixed)
    fixed, per_row = (np.pad(extents, (pad, 0)) for extents in (before.fixed, before.per_row))
    same = (fixed == after.fixed) & (per_row == after.per_row)
    if after.per_row[~same].any():
        return None
    return np.where(same, 1, after.fixed)


_TARGETS = {"Reshape": _reshape_target, "Expand": _expand_target}

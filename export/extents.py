"""Which extents of a graph's values depend on the content of its inputs, found from its operators.

Running a graph cannot tell: on random input a count of boxes may be the same each time. So this
module lists each operator that turns content into an extent, and how extents pass through other
operators. An operator that is not listed is assumed to make fixed extents of fixed extents, and
extents that all depend on the content as soon as one extent of its inputs does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

from onnx import AttributeProto, NodeProto, helper, numpy_helper

from export.graph import OnnxGraph

Axes: TypeAlias = frozenset[int]
NONE: Axes = frozenset()


class Kind(IntEnum):
    """The dependence of a value's content."""

    CONSTANT = 0  # depends on weights only
    ROWS = 1  # depends also on the number of rows, through Shape and Size operators
    DATA = 2  # depends on the content of an input


@dataclass(frozen=True, slots=True)
class Traits:
    """The dependences of every value that an operator makes."""

    kinds: dict[str, Kind]
    varying: dict[str, Axes]  # axes whose extents depend on DATA; no entry if there is none


def classify(graph: OnnxGraph, ranks: Mapping[str, int], *, assume_fixed: bool = False) -> Traits:
    """The traits of a graph. A value without an entry in `ranks` counts as a list.

    `assume_fixed` assumes that no extent depends on DATA, so that `kinds` has the least that each
    value can depend on.
    """
    kinds = dict.fromkeys(graph.weights, Kind.CONSTANT)
    kinds |= {value.name: Kind.DATA for value in graph.inputs}
    made: dict[str, Kind] = {}
    varying: dict[str, Axes] = {}
    for node in graph.nodes:
        operator = _Operator(node, graph, kinds, varying, ranks)
        kind = operator.kind()
        made |= {name: kind for name in node.output if name}
        kinds |= made
        if assume_fixed:
            continue
        outputs = zip(node.output, operator.varying(), strict=True)
        varying |= {name: axes for name, axes in outputs if name and axes}
    return Traits(made, varying)


@dataclass(frozen=True, slots=True)
class _Operator:
    """One operator, and the traits of its inputs."""

    node: NodeProto
    graph: OnnxGraph
    kinds: Mapping[str, Kind]
    known: Mapping[str, Axes]
    ranks: Mapping[str, int]

    def kind(self) -> Kind:
        """The kind of the content of its outputs."""
        if self._has_graph():
            return Kind.DATA  # its subgraphs may read any value
        kind = max((self.kinds[name] for name in self.node.input if name), default=Kind.CONSTANT)
        if kind == Kind.DATA and self.node.op_type in ("Shape", "Size") and not self._told():
            return Kind.ROWS
        return kind

    def varying(self) -> list[Axes]:
        """The axes of each output whose extents depend on DATA."""
        operator = self.node.op_type
        whole = [self._all(name) for name in self.node.output]
        if self._has_graph():
            return whole
        made = _MAKERS.get(operator)
        if made is not None and any(self.is_data(i) for i in made[0]):
            return [frozenset(made[1](self, i)) for i in range(len(whole))]
        if any(self.is_data(i) for i in _SHAPES.get(operator, ())):
            if operator == "TopK":
                return [self.axes(0) | {self.axis(-1)} for _ in whole]
            if operator == "Slice" and (named := self.listed(3)) is not None:
                return [self.axes(0) | set(named)]
            return whole
        if not any(self.axes(i) for i in range(len(self.node.input))):
            return [NONE for _ in whole]
        rule = _RULES.get(operator) if not self.node.domain else None
        return whole if rule is None else [rule(self, axes) & axes for axes in whole]

    def is_data(self, i: int) -> bool:
        """Whether the content of input i depends on that of the graph's inputs."""
        names = self.node.input
        return i < len(names) and bool(names[i]) and self.kinds[names[i]] == Kind.DATA

    def axes(self, i: int) -> Axes:
        """The varying axes of input i."""
        return self.known.get(self.node.input[i], NONE) if i < len(self.node.input) else NONE

    def rank(self, i: int) -> int:
        """The rank of input i."""
        return self._rank(self.node.input[i])

    def out_rank(self) -> int:
        """The rank of the first output."""
        return self._rank(self.node.output[0])

    def attribute(self, name: str, default: Any) -> Any:
        for attribute in self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute `axis`, counted from the front."""
        axis: int = self.attribute("axis", default)
        return axis % max(1, self.rank(0) if rank is None else rank)

    def constant(self, i: int) -> list[int] | None:
        """The integers of input i; None if they are not constant."""
        names = self.node.input
        if i >= len(names) or names[i] not in self.graph.weights:
            return None
        return [int(n) for n in numpy_helper.to_array(self.graph.weights[names[i]]).ravel()]

    def listed(self, i: int) -> list[int] | None:
        """The axes in the attribute `axes` or in input i; None if they are not constant."""
        found = self.attribute("axes", None)
        found = self.constant(i) if found is None else list(found)
        return None if found is None else [a % max(1, self.rank(0)) for a in found]

    def _told(self) -> bool:
        """Whether a Shape or Size outputs an extent that varies."""
        axes = self.axes(0)
        if self.node.op_type == "Size":
            return bool(axes)
        rank = self.rank(0)
        part = range(rank)[slice(self.attribute("start", 0), self.attribute("end", rank))]
        return bool(axes & set(part))

    def _has_graph(self) -> bool:
        graphs = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
        return any(attribute.type in graphs for attribute in self.node.attribute)

    def _rank(self, name: str) -> int:
        tensor = self.graph.weights.get(name)
        return self.ranks.get(name, 1) if tensor is None else len(tensor.dims)

    def _all(self, name: str) -> Axes:
        return frozenset(range(self._rank(name)))


# --- operators that turn content into an extent -------------------------------------------------


def _unique(operator: _Operator, output: int) -> Axes:
    axis = operator.attribute("axis", None)
    return frozenset({0 if output or axis is None else axis % operator.rank(0)})


def _compressed(operator: _Operator, _: int) -> Axes:
    axis = operator.attribute("axis", None)
    return operator.axes(0) | {0 if axis is None else axis % operator.rank(0)}


def _last(operator: _Operator, output: int) -> Axes:
    return operator.axes(0) | ({operator.out_rank() - 1} if output == 0 else NONE)


def _whole(operator: _Operator, _: int) -> Axes:
    return frozenset(range(operator.out_rank()))


# The inputs of each operator whose content counts, and the axes that then vary.
_MAKERS: dict[str, tuple[tuple[int, ...], Callable[[_Operator, int], Axes]]] = {
    "NonZero": ((0,), lambda *_: frozenset({1})),
    "NonMaxSuppression": ((0, 1, 2, 3, 4), lambda *_: frozenset({0})),
    "Compress": ((1,), _compressed),
    "Unique": ((0,), _unique),
    "StringSplit": ((0,), _last),
    "StringNormalizer": ((0,), _whole),
    "ImageDecoder": ((0,), _whole),
    "SequenceAt": ((1,), _whole),
    "RemovePadding": ((0, 1), _whole),
    "ConcatFromSequence": ((0,), _whole),  # the data may decide the length of the list
}

# The inputs of each operator that say how large its outputs are.
_SHAPES: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,), "BlackmanWindow": (0,), "CenterCropPad": (1,), "Col2Im": (1, 2),
    "ConstantOfShape": (0,), "DFT": (1,), "Expand": (1,), "HammingWindow": (0,),
    "HannWindow": (0,), "MaxUnpool": (2,), "MelWeightMatrix": (0, 1), "OneHot": (1,),
    "Pad": (1, 3), "Range": (0, 1, 2), "Reshape": (1,), "Resize": (1, 2, 3), "STFT": (1, 3),
    "Slice": (1, 2, 3, 4), "Split": (1,), "SplitToSequence": (1,), "Squeeze": (1,), "Tile": (1,),
    "TopK": (1,), "Unsqueeze": (1,), "Upsample": (1,),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
         "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"), (1,)),
}  # fmt: skip


def content_read(node: NodeProto) -> list[str]:
    """The inputs that do more than say how large the outputs are."""
    sized = (0,) if node.op_type in ("Shape", "Size") else _SHAPES.get(node.op_type, ())
    return [name for i, name in enumerate(node.input) if name and i not in sized]


# --- how varying extents pass through other operators; results may name axes that do not exist ---


def _broadcast(operator: _Operator, _: Axes) -> Axes:
    rank = operator.out_rank()
    return frozenset(
        axis + rank - operator.rank(i)
        for i in range(len(operator.node.input))
        for axis in operator.axes(i)
    )


def _same(operator: _Operator, _: Axes) -> Axes:
    return operator.axes(0)


def _fixed(_: _Operator, __: Axes) -> Axes:
    return NONE


def _reduced(operator: _Operator, whole: Axes) -> Axes:
    axes = operator.listed(1)
    if operator.node.op_type in ("ArgMax", "ArgMin"):
        axes = [operator.axis(0)]
    if axes is None and len(operator.node.input) > 1 and operator.node.input[1]:
        return whole
    if not axes:
        return operator.axes(0) if operator.attribute("noop_with_empty_axes", 0) else NONE
    left = operator.axes(0) - set(axes)
    if operator.attribute("keepdims", 1):
        return left
    return frozenset(axis - sum(gone < axis for gone in axes) for axis in left)


def _transposed(operator: _Operator, _: Axes) -> Axes:
    rank = operator.rank(0)
    perm = operator.attribute("perm", None) or list(reversed(range(rank)))
    return frozenset(i for i, axis in enumerate(perm) if axis in operator.axes(0))


def _squeezed(operator: _Operator, whole: Axes) -> Axes:
    gone = operator.listed(1)
    if gone is None:
        return whole
    return frozenset(a - sum(g < a for g in gone) for a in operator.axes(0) - set(gone))


def _unsqueezed(operator: _Operator, whole: Axes) -> Axes:
    found = operator.attribute("axes", None)
    found = operator.constant(1) if found is None else found
    if found is None:
        return whole
    rank = operator.rank(0) + len(found)
    new = {axis % rank for axis in found}
    kept = [axis for axis in range(rank) if axis not in new]
    return frozenset(kept[axis] for axis in operator.axes(0))


def _reshaped(operator: _Operator, whole: Axes) -> Axes:
    """The varying axes of a Reshape: with a constant target, those with extent 0 or -1 there."""
    target = operator.constant(1)
    if target is None:
        return whole
    copies = not operator.attribute("allowzero", 0)
    copied = {i for i, extent in enumerate(target) if extent == 0 and copies}
    rest = operator.axes(0) - copied
    return frozenset(
        i
        for i, extent in enumerate(target)
        if (i in copied and i in operator.axes(0)) or (extent == -1 and rest)
    )


def _flattened(operator: _Operator, _: Axes) -> Axes:
    axis = operator.attribute("axis", 1)
    axis = axis + operator.rank(0) if axis < 0 else axis
    return frozenset(int(at >= axis) for at in operator.axes(0))


def _gathered(operator: _Operator, _: Axes) -> Axes:
    axis, more = operator.axis(0), operator.rank(1)
    before = {at for at in operator.axes(0) if at < axis}
    inside = {at + axis for at in operator.axes(1)}
    after = {at + more - 1 for at in operator.axes(0) if at > axis}
    return frozenset(before | inside | after)


def _gathered_elements(operator: _Operator, _: Axes) -> Axes:
    return operator.axes(1)


def _multiplied(operator: _Operator, whole: Axes) -> Axes:
    left, right = operator.rank(0), operator.rank(1)
    rank = operator.out_rank()
    if left < 2 or right < 2:
        return whole
    a = {axis + rank - left for axis in operator.axes(0) if axis != left - 1}
    b = {axis + rank - right for axis in operator.axes(1) if axis != right - 2}
    return frozenset(a | b)


def _gemm(operator: _Operator, _: Axes) -> Axes:
    row = 1 if operator.attribute("transA", 0) else 0
    column = 0 if operator.attribute("transB", 0) else 1
    return frozenset(
        ({0} if row in operator.axes(0) else set()) | ({1} if column in operator.axes(1) else set())
    )


def _convolved(operator: _Operator, _: Axes) -> Axes:
    return operator.axes(0) - {1}


def _pooled_globally(operator: _Operator, _: Axes) -> Axes:
    return operator.axes(0) & {0, 1}


def _concatenated(operator: _Operator, _: Axes) -> Axes:
    """The varying axes of a Concat: but for its own axis all extents agree, so one fixes all."""
    axis = operator.axis(0)
    sets = [operator.axes(i) for i in range(len(operator.node.input))]
    along = {axis} if any(axis in axes for axes in sets) else set()
    return frozenset(sets[0].intersection(*sets[1:]) - {axis} | along)


def _topk(operator: _Operator, _: Axes) -> Axes:
    return operator.axes(0) - {operator.axis(-1)}


def _resized(operator: _Operator, whole: Axes) -> Axes:
    sizes = operator.constant(3)
    if sizes is None or operator.attribute("axes", None) is not None:
        return operator.axes(0)
    return NONE & whole


_RULES: dict[str, Callable[[_Operator, Axes], Axes]] = {
    **dict.fromkeys(
        ("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal",
         "Expand", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
         "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor"), _broadcast),
    **dict.fromkeys(
        ("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization",
         "BitwiseNot", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "CumSum",
         "DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
         "HardSwish", "Hardmax", "Identity", "InstanceNormalization", "IsInf", "IsNaN", "LRN",
         "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "LpNormalization",
         "MeanVarianceNormalization", "Mish", "Neg", "Not", "PRelu", "Pad", "QuantizeLinear",
         "Reciprocal", "Relu", "Round", "ScatterElements", "ScatterND", "Selu", "Shrink",
         "Sigmoid", "Sign", "Sin", "Sinh", "Slice", "Softmax", "Softplus", "Softsign", "Sqrt",
         "Tan", "Tanh", "ThresholdedRelu", "Tile", "Trilu"), _same),
    **dict.fromkeys(
        ("ArgMax", "ArgMin", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
         "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"), _reduced),
    **dict.fromkeys(("Conv", "ConvInteger", "ConvTranspose"), _convolved),
    **dict.fromkeys(
        ("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool"), _pooled_globally),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _same),
    **dict.fromkeys(("MatMul", "MatMulInteger"), _multiplied),
    "Concat": _concatenated,
    "Flatten": _flattened,
    "Gather": _gathered,
    "GatherElements": _gathered_elements,
    "Gemm": _gemm,
    "Reshape": _reshaped,
    "Resize": _resized,
    "Shape": _fixed,
    "Size": _fixed,
    "Squeeze": _squeezed,
    "TopK": _topk,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
}  # fmt: skip

"""Which operator of a graph makes a row depend on the rows beside it, found from its operators.

An axis that grows with the number of rows is the row axis. Rows stay independent as long as every
value that depends on the input has exactly one such axis, and no operator works along it: a sum,
rank or scale over the rows loses the axis, whichever operator makes it. Operators that keep the
axis and are not listed here are checked by `export.company`, which compares results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from onnx import NodeProto, helper, numpy_helper

from export.extents import Kind, content_read
from export.graph import OnnxGraph
from export.probe import Facts

_ONE_AXIS_OPSET = 13  # Softmax and its like work along one axis since then, before along several

_COMPUTED_WITH = {"tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bool)"}

# Operators that use one scale for a whole tensor.
_WHOLE_BATCH = {"DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul"}


def coupling(graph: OnnxGraph, facts: Facts) -> str | None:
    """The first operator that mixes rows, for people; None if there is none.

    `facts` are those of the graph at several numbers of rows.
    """
    read = {name for node in graph.nodes for name in node.input} | set(graph.outputs)
    makers = {name: node for node in graph.nodes for name in node.output if name}
    kinds = dict.fromkeys((value.name for value in graph.inputs), Kind.DATA) | facts.kinds
    counts = _counts(graph, facts)
    for node in graph.nodes:
        if facts.kinds[node.output[0]] != Kind.DATA:
            continue
        if _works_along_rows(node, graph, facts) or _looks_up_rows(node, facts, kinds, makers):
            return _named(node)
        if any(name in counts for name in content_read(node)):
            return _named(node)
        for name in node.output:
            if name in read and len(_row_axes(name, facts)) != 1:
                return _named(node)
    return None


def _counts(graph: OnnxGraph, facts: Facts) -> set[str]:
    """The values that depend on the number of rows, or on a row's number, and are not extents.

    Integers with one entry for each row are not included: with those a row finds its own data.
    """
    counted = set(facts.integers)
    for node in graph.nodes:
        read = node.input if node.op_type == "Range" else content_read(node)
        if facts.kinds[node.output[0]] == Kind.ROWS and counted & set(read):
            counted |= {name for name in node.output if name and name not in facts.folded}
    return {n for n in counted if facts.types[n] in _COMPUTED_WITH or not _row_axes(n, facts)}


def _row_axes(name: str, facts: Facts) -> list[int]:
    """The axes that grow with the number of rows; none if the extents have no formula."""
    size = facts.sizes.get(name)
    return [] if size is None else [axis for axis, n in enumerate(size.per_row) if n]


def _works_along_rows(node: NodeProto, graph: OnnxGraph, facts: Facts) -> bool:
    if node.op_type in _WHOLE_BATCH:
        return True
    along = None if node.domain else _ALONG.get(node.op_type)
    if along is None:
        return False
    rows = _row_axes(node.input[0], facts)
    size = facts.sizes.get(node.input[0])
    return size is not None and bool(set(rows) & set(along(node, len(size.fixed), graph)))


def _looks_up_rows(
    node: NodeProto, facts: Facts, kinds: Mapping[str, Kind], makers: Mapping[str, NodeProto]
) -> bool:
    """Whether the content of one input decides which rows of another are read."""
    at = None if node.domain else _INDICES.get(node.op_type)
    if at is None or kinds.get(node.input[0]) != Kind.DATA:
        return False
    for row in _row_axes(node.input[0], facts):
        index = node.input[at]
        if node.op_type.endswith("ND"):
            component = row - _attribute(node, "batch_dims", 0)
            maker = makers.get(index)
            if component < 0:
                continue
            if maker is not None and maker.op_type == "Concat" and component < len(maker.input):
                index = maker.input[component]  # exporters write one index for each axis
        elif node.op_type not in ("MaxRoiPool", "RoiAlign"):
            axis = _attribute(node, "axis", 0)
            if axis % len(facts.sizes[node.input[0]].fixed) != row:
                continue
        if kinds.get(index, Kind.CONSTANT) == Kind.DATA:
            return True
    return False


# The input of each operator whose content says where the first input is read or written.
_INDICES = {
    "Gather": 1, "GatherElements": 1, "GatherND": 1, "MaxRoiPool": 1, "RoiAlign": 2,
    "Scatter": 1, "ScatterElements": 1, "ScatterND": 1,
}  # fmt: skip


def _attribute(node: NodeProto, name: str, default: int) -> int:
    for attribute in node.attribute:
        if attribute.name == name:
            return int(attribute.i)
    return default


def _at_axis(default: int) -> Callable[[NodeProto, int, OnnxGraph], Iterable[int]]:
    return lambda node, rank, _: [_attribute(node, "axis", default) % rank]


def _from_axis(node: NodeProto, rank: int, _: OnnxGraph) -> Iterable[int]:
    return range(_attribute(node, "axis", -1) % rank, rank)


def _softmax(node: NodeProto, rank: int, graph: OnnxGraph) -> Iterable[int]:
    if graph.opsets.get("", _ONE_AXIS_OPSET) < _ONE_AXIS_OPSET:
        return range(_attribute(node, "axis", 1) % rank, rank)
    return [_attribute(node, "axis", -1) % rank]


def _cumulated(node: NodeProto, rank: int, graph: OnnxGraph) -> Iterable[int]:
    if node.input[1] not in graph.weights:
        return range(rank)
    return [int(numpy_helper.to_array(graph.weights[node.input[1]]).ravel()[0]) % rank]


def _normalised(node: NodeProto, rank: int, _: OnnxGraph) -> Iterable[int]:
    for attribute in node.attribute:
        if attribute.name == "axes":
            return [axis % rank for axis in helper.get_attribute_value(attribute)]
    return (0, 2, 3)


def _sequence(node: NodeProto, _: int, __: OnnxGraph) -> Iterable[int]:
    return (1, 2) if _attribute(node, "layout", 0) else (0, 2)


def _after(first: int) -> Callable[[NodeProto, int, OnnxGraph], Iterable[int]]:
    return lambda _, rank, __: range(first, rank)


# The axes of the first input along which each operator combines elements.
_ALONG: dict[str, Callable[[NodeProto, int, OnnxGraph], Iterable[int]]] = {
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), _softmax),
    **dict.fromkeys(
        ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"), _from_axis),
    **dict.fromkeys(("LpNormalization", "TopK"), _at_axis(-1)),
    **dict.fromkeys(
        ("Attention", "Conv", "ConvInteger", "ConvTranspose", "DeformConv", "GridSample",
         "GroupNormalization", "QLinearConv"), _after(1)),
    **dict.fromkeys(
        ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
         "InstanceNormalization", "LpPool", "MaxPool"), _after(2)),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _sequence),
    "CumSum": _cumulated,
    "LRN": lambda *_: (1,),
    "ReverseSequence": lambda node, *_: (_attribute(node, "time_axis", 0),),
    "MeanVarianceNormalization": _normalised,
}  # fmt: skip


def _named(node: NodeProto) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else node.op_type

"""Where a normalised graph may be cut, and the layers that the cuts make.

A cut is between two operators where only the trunk, the value made last, matters for the operators
that follow. Other values that are still needed there (a skip connection of a segmentation net, a
feature map for a pyramid) must not meet the trunk again soon, as the two sides of a residual block
do. So a residual stream is cut after its addition, and an encoder has the same cuts whether or not
a decoder reads its inner values: so models that share an encoder are found to share it. A value
beside the trunk that no weight has touched, as an attention mask, is carried along and forbids no
cut, though each layer reads it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from onnx import NodeProto, TensorProto, helper

from edged.errors import Unsupported
from edged.manifest import DataType, Layer, Value
from export.canonical import CanonicalLayer, Type, make_layer
from export.graph import integers, rename
from export.normalise import Flow

MAX_CROSSING = 8  # most values that may be made before a cut and read after it
NEAR = 6  # weighted operators; a residual block, an attention or an inverted bottleneck has fewer

_UPSAMPLING = {"ConvTranspose", "DepthToSpace", "MaxUnpool", "Resize", "Upsample"}

_ELEMENTS: dict[str, tuple[int, DataType]] = {
    "bool": (TensorProto.BOOL, "BOOL"),
    "uint8": (TensorProto.UINT8, "UINT8"),
    "uint16": (TensorProto.UINT16, "UINT16"),
    "uint32": (TensorProto.UINT32, "UINT32"),
    "uint64": (TensorProto.UINT64, "UINT64"),
    "int8": (TensorProto.INT8, "INT8"),
    "int16": (TensorProto.INT16, "INT16"),
    "int32": (TensorProto.INT32, "INT32"),
    "int64": (TensorProto.INT64, "INT64"),
    "float16": (TensorProto.FLOAT16, "FP16"),
    "float": (TensorProto.FLOAT, "FP32"),
    "double": (TensorProto.DOUBLE, "FP64"),
}
_AXIS = "edged.front"  # name of a weight: the axis of rows
_FRONT = {_AXIS: integers([0])}
_DATATYPES = {element: datatype for element, datatype in _ELEMENTS.values()}
_NUMPY = {d: helper.tensor_dtype_to_np_dtype(element) for element, d in _ELEMENTS.values()}


@dataclass(frozen=True, slots=True)
class Path:
    """A model as layers: how they are wired, and the content of each by digest."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    uses: tuple[Layer, ...]
    values: tuple[Value, ...]
    layers: dict[str, CanonicalLayer]


def cut(flow: Flow, rows: int | None = None) -> Path:
    """The layers of a model; `rows` if it can only run that many at once.

    For one row, a value without an axis for it gets one where it crosses from layer to layer.
    Raises Unsupported if an input or output is not a tensor with the rows as its first axis.
    """
    types = _border_types(flow, rows)
    bare = _bare_types(flow) if rows == 1 else {}
    types |= bare
    for name in (*flow.inputs, *flow.outputs):
        if name not in types:
            raise Unsupported(
                f"{name!r} is no tensor whose first axis is the batch and whose other axes are "
                "fixed: export the model so that it is, or without this output"
            )
    layers: dict[str, CanonicalLayer] = {}
    uses: list[Layer] = []
    last_reads = {name: i for i, group in enumerate(flow.groups) for name in group.reads}
    last_reads |= dict.fromkeys(flow.outputs, len(flow.groups))
    for start, end in _spans(flow, types):
        groups = flow.groups[start:end]
        made = {name for group in groups for name in group.writes}
        reads = list(dict.fromkeys(n for group in groups for n in group.reads if n not in made))
        writes = [name for name in made if last_reads.get(name, -1) >= end]
        layer, ordered = make_layer(
            _with_rows([node for group in groups for node in group.nodes], reads, writes, bare),
            flow.weights | _FRONT,
            [(name, types[name]) for name in reads],
            [(name, types[name]) for name in sorted(writes)],
            flow.opsets,
        )
        layers[layer.digest] = layer
        uses.append(Layer(layer.digest, tuple(reads), ordered, layer.weight_bytes))
    named = dict.fromkeys(
        [*flow.inputs, *(name for use in uses for name in (*use.reads, *use.writes))]
    )
    values = tuple(Value(n, _DATATYPES[types[n].element], types[n].shape) for n in named)
    return Path(flow.inputs, flow.outputs, tuple(uses), values, layers)


def _bare_types(flow: Flow) -> dict[str, Type]:
    """The types of the values that have no row axis, without one, where all is one row."""
    types = {}
    for name, size in flow.sizes.items():
        kind = flow.types.get(name, "")[len("tensor(") : -1]
        has_axis = len(size.fixed) > 0 and size.fixed[0] == 1
        if kind in _ELEMENTS and not has_axis and size.fixed.all():
            types[name] = Type(_ELEMENTS[kind][0], tuple(int(n) for n in size.fixed), 1)
    return types


def _with_rows(
    nodes: Sequence[NodeProto], reads: Sequence[str], writes: Sequence[str], bare: Container[str]
) -> list[NodeProto]:
    """The operators of a layer, which take the row axis off what they read and put it on again."""
    names = {name: f"edged.bare.{name}" for name in (*reads, *writes) if name in bare}
    found = [
        helper.make_node("Squeeze", [name, _AXIS], [names[name]]) for name in reads if name in names
    ]
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        rename(copy, names)
        found.append(copy)
    for name in writes:
        if name in names:
            found.append(helper.make_node("Unsqueeze", [names[name], _AXIS], [name]))
    return found


def element_type(datatype: DataType) -> int:
    """The number of a type in TensorProto."""
    return next(element for element, known in _ELEMENTS.values() if known == datatype)


def numpy_type(datatype: DataType) -> np.dtype[np.generic]:
    """The numpy type of an element."""
    return _NUMPY[datatype]


def _border_types(flow: Flow, rows: int | None) -> dict[str, Type]:
    """The types of the values that may cross a cut: tensors of (rows, fixed extents)."""
    types = {}
    for name, size in flow.sizes.items():
        kind = flow.types.get(name, "")[len("tensor(") : -1]
        first = (0, 1) if rows is None else (rows, 0)
        if (
            kind in _ELEMENTS
            and len(size.fixed)
            and (size.fixed[0], size.per_row[0]) == first
            and not size.per_row[1:].any()
        ):
            shape = tuple(int(extent) for extent in size.fixed[1:])
            types[name] = Type(_ELEMENTS[kind][0], shape, rows)
    return types


def _spans(flow: Flow, types: dict[str, Type]) -> list[tuple[int, int]]:
    """The first and last group (exclusive) of each layer.

    A span without a weight is an activation, which belongs to the layer before it, or a pooling or
    another change of shape. The latter is a layer of its own, so that models that share weights and
    continue differently after them still share these weights.
    """
    cutter = _Cutter(flow, types)
    trunks = {0: flow.inputs[0], **cutter.cuts(), len(flow.groups): flow.outputs[0]}
    spans: list[tuple[int, int]] = []
    bare = False  # whether the last span has no weight
    for (start, before), (end, after) in pairwise(trunks.items()):
        weighted = any(group.weighted for group in flow.groups[start:end])
        same_shape = types[before].shape == types[after].shape
        read = {name for group in flow.groups[start:end] for name in group.reads}
        alone = cutter.carried.isdisjoint(read)  # a mask is of its reader, not of the layer before
        if spans and not weighted and (bare or (same_shape and alone)):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
            bare = not weighted
    return spans


class _Cutter:
    """Finds the cuts of one graph."""

    def __init__(self, flow: Flow, types: dict[str, Type]) -> None:
        self._flow = flow
        self._types = types
        self._readers: dict[str, list[int]] = {name: [] for name in flow.inputs}
        for i, group in enumerate(flow.groups):
            self._readers |= {name: [] for name in group.writes}
            for name in group.reads:
                self._readers[name].append(i)
        self.carried = self._beside_the_trunk()  # values that forbid no cut

    def cuts(self) -> dict[int, str]:
        """The groups before which the graph may be cut, each with the trunk there."""
        makers = {name: -1 for name in self._flow.inputs}  # who makes each value still to be read
        found = {}
        for position in range(1, len(self._flow.groups)):
            last = position - 1
            makers |= dict.fromkeys(self._flow.groups[last].writes, last)
            makers = {name: at for name, at in makers.items() if self._later(name, position)}
            trunk = self._trunk(makers, position)
            if trunk is not None:
                found[position] = trunk
        return found

    def _trunk(self, makers: dict[str, int], position: int) -> str | None:
        """The trunk, if the graph may be cut here."""
        if len(makers) > MAX_CROSSING or not makers.keys() <= self._types.keys():
            return None
        # An input that no operator has read so far is not a branch of the graph here.
        begun = [n for n, at in makers.items() if at >= 0 or self._readers[n][0] < position]
        trunk = max(begun, key=makers.__getitem__, default=None)
        if trunk is None or self._is_dequantized(makers[trunk]):
            return None
        ahead = self._ahead(trunk, position)
        others = (name for name in begun if name != trunk and name not in self.carried)
        return None if any(self._meets(name, position, ahead) for name in others) else trunk

    def _beside_the_trunk(self) -> set[str]:
        """The values that no weight leads to, and that lead to a weight through the trunk alone."""
        bare = set(self._flow.inputs)
        for group in self._flow.groups:
            if not group.weighted and bare.issuperset(group.reads):
                bare.update(group.writes)
        led: set[str] = set()
        for group in reversed(self._flow.groups):
            if group.weighted or led.intersection(group.writes):
                led |= bare.intersection(group.reads)
        return bare - led

    def _is_dequantized(self, maker: int) -> bool:
        """Whether a value must stay with its reader, so that the reader can run on integers."""
        return maker >= 0 and self._flow.groups[maker].operator == "DequantizeLinear"

    def _later(self, name: str, position: int) -> list[int]:
        readers = self._readers[name]
        return readers[bisect_left(readers, position) :]

    def _ahead(self, trunk: str, position: int) -> set[int]:
        """The groups within NEAR weighted operators of the trunk, up to an upsampling."""
        found = set()
        costs = dict.fromkeys(self._later(trunk, position), 0)
        while costs:
            group = min(costs)  # all groups that lead to it have smaller numbers
            cost = costs.pop(group) + self._flow.groups[group].weighted
            if cost > NEAR or self._flow.groups[group].operator in _UPSAMPLING:
                continue
            found.add(group)
            for reader in self._next(group):
                costs[reader] = min(cost, costs.get(reader, cost))
        return found

    def _meets(self, name: str, position: int, ahead: set[int]) -> bool:
        """Whether another value leads to one of the groups `ahead` too."""
        last = max(ahead, default=-1)
        pending = self._later(name, position)
        seen = set(pending)
        while pending:
            group = pending.pop()
            if group in ahead:
                return True
            fresh = {reader for reader in self._next(group) if reader <= last} - seen
            seen |= fresh
            pending += fresh
        return False

    def _next(self, group: int) -> set[int]:
        return {
            reader for name in self._flow.groups[group].writes for reader in self._readers[name]
        }

"""A model for one row at a time in the form of all others: a row is axis 0 of everything.

What has no batch axis in the file, or has it elsewhere, gets an axis of one row in front. An output
whose length depends on the data gets room for the most that it can be, and a second output tells
its length. So blocks, memory and messages are those of any other model.

The most is what the model gives if it keeps everything: each box, each element, each row. Where
other operators decide, it is a multiple of the longest output that was seen. An output that is
longer when it serves is an error.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edged.errors import InvalidArgument, Unsupported
from edged.manifest import FreeLength
from export.borders import dims_of
from export.check import Uncut
from export.extents import Axes
from export.graph import OnnxGraph, integers, rename, to_model
from export.lengths import keeping_all
from export.probe import Array, Arrays, Facts, feed, probe, run, session

_SEEN = 4  # room for so many times the longest length that was seen ..
_SEEN_LEAST = 64  # .. and at least for so many
_ROOM_MAX = 1 << 23  # elements of the room of an output whose most is known


@dataclass(frozen=True, slots=True)
class OutputRoom:
    """The room of an output whose length depends on the data."""

    length: FreeLength
    shape: tuple[int, ...]  # of a row


@dataclass(frozen=True, slots=True)
class OneRow:
    """A graph whose inputs and outputs have one row on axis 0."""

    graph: OnnxGraph
    whole: frozenset[str]  # inputs and outputs that have no such axis in the file
    rooms: tuple[OutputRoom, ...]
    reason: str | None  # why it could not run several rows, where an output shows it

    def given(self, found: Arrays) -> Arrays:
        """The outputs of the file as those of this graph. Raises Unsupported if one has no room."""
        made: Arrays = {}
        rooms = {room.length.output: room for room in self.rooms}
        for name, array in found.items():
            row = array if name in self.whole else array[0, ...]
            if name not in rooms:
                made[name] = row[np.newaxis]
                continue
            room = rooms[name]
            if any(n > most for n, most in zip(row.shape, room.shape, strict=True)):
                raise Unsupported(
                    f"output {name!r} has shape {list(row.shape)} on a sample, and there is room "
                    f"for {list(room.shape)} only"
                )
            made[name] = np.zeros((1, *room.shape), row.dtype)
            made[name][0][tuple(slice(extent) for extent in row.shape)] = row
            extents = [row.shape[axis] for axis in room.length.axes]
            made[room.length.told_by] = np.array([extents], np.int64)
        return {name: made[name] for name in self.graph.outputs}


def taken(row: Arrays, whole: Container[str]) -> Arrays:
    """The inputs of a row as the file has them, which are `whole` if it has no axis of rows."""
    return {name: array[0, ...] if name in whole else array for name, array in row.items()}


class UncutRow:
    """A whole model, asked as its form for one row is."""

    def __init__(self, uncut: Uncut, form: OneRow) -> None:
        self._uncut = uncut
        self._form = form

    def __call__(self, feed: Arrays) -> Arrays:
        return self._form.given(self._uncut(taken(feed, self._form.whole)))


def rows_in_front(graph: OnnxGraph) -> tuple[OnnxGraph, frozenset[str]]:
    """The graph with one row on axis 0 of each input, and the inputs that got this axis here.

    The extents of all inputs are known. An axis 0 of extent 1 is taken for the batch.
    """
    whole = frozenset(
        value.name
        for value in graph.inputs
        if not (dims := dims_of(value)) or dims[0].dim_value != 1
    )
    names = {name: f"edged.row.{name}" for name in sorted(whole)}
    weights, nodes, inputs = dict(graph.weights), list[NodeProto](), list[ValueInfoProto]()
    for value in graph.inputs:
        if value.name not in whole:
            inputs.append(value)
            continue
        shape = [dim.dim_value for dim in dims_of(value)]
        kind = value.type.tensor_type.elem_type
        inputs.append(helper.make_tensor_value_info(value.name, kind, [1, *shape]))
        weights[target := f"edged.shape.{value.name}"] = integers(shape)
        nodes.append(helper.make_node("Reshape", [value.name, target], [names[value.name]]))
    for node in graph.nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        rename(copy, names)
        nodes.append(copy)
    changed = replace(graph, nodes=tuple(nodes), weights=weights, inputs=tuple(inputs))
    return changed, whole


def one_row(graph: OnnxGraph, whole: frozenset[str], samples: Sequence[Arrays]) -> OneRow:
    """The form of a graph without branches, whose inputs have one row on axis 0 already.

    Raises InvalidArgument if it cannot run, and Unsupported for outputs that are no tensors.
    """
    given = {*graph.weights, *(value.name for value in graph.inputs)}
    for name in graph.outputs:
        if name in given:
            raise Unsupported(
                f"output {name!r} is a constant or an input: leave it out (--outputs)"
            )
    facts = probe(graph, (1,))
    seen = _seen(graph, samples)
    bare = frozenset(
        name
        for name, shape in seen.items()
        if not shape or shape[0] != 1 or 0 in facts.varying.get(name, ())
    )
    free = {name: axes for name in graph.outputs if (axes := facts.varying.get(name))}
    rooms = tuple(
        _room(name, seen[name], axes, name in bare, most)
        for (name, axes), most in zip(free.items(), _most(graph, facts, free), strict=True)
    )
    reason = None
    if rooms:
        reason = f"the length of output {rooms[0].length.output!r} depends on the data"
    elif bare:
        reason = f"output {min(bare)!r} has no batch axis"
    return OneRow(_ended(graph, facts, bare, rooms), whole | bare, rooms, reason)


def _seen(graph: OnnxGraph, samples: Sequence[Arrays]) -> dict[str, tuple[int, ...]]:
    """The largest extents of each output on random input and on samples."""
    runner = session(to_model(graph).SerializeToString())
    seen: dict[str, tuple[int, ...]] = {}
    for row in (feed(graph, 1), *samples):
        for name, array in zip(graph.outputs, run(runner, graph.outputs, row), strict=True):
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
                raise Unsupported(
                    f"output {name!r} is no tensor of numbers: leave it out (--outputs)"
                )
            before = seen.setdefault(name, array.shape)
            seen[name] = tuple(max(a, b) for a, b in zip(before, array.shape, strict=True))
    return seen


def _most(graph: OnnxGraph, facts: Facts, names: dict[str, Axes]) -> list[tuple[int, ...] | None]:
    """The largest extents that these outputs can have; None for those where that is not known."""
    if not names:
        return []
    try:
        fullest = probe(keeping_all(graph, facts), (1,))
    except InvalidArgument:  # as when it takes too much memory
        return [None for _ in names]
    found: list[tuple[int, ...] | None] = []
    for name in names:
        size = fullest.sizes.get(name)
        shape = None if size is None else tuple(int(extent) for extent in size.fixed)
        found.append(shape if shape is not None and np.prod(shape) <= _ROOM_MAX else None)
    return found


def _room(
    name: str, seen: tuple[int, ...], axes: Axes, bare: bool, most: tuple[int, ...] | None
) -> OutputRoom:
    shape = list(seen)
    for axis in axes:
        shape[axis] = max(1, most[axis]) if most else max(_SEEN_LEAST, _SEEN * seen[axis])
    first = 0 if bare else 1
    of_row = tuple(sorted(axis - first for axis in axes))
    return OutputRoom(FreeLength(name, of_row, f"edged.length.{name}"), tuple(shape[first:]))


def _ended(
    graph: OnnxGraph, facts: Facts, bare: frozenset[str], rooms: Sequence[OutputRoom]
) -> OnnxGraph:
    """The graph with one row on axis 0 of each output, and with the lengths as further outputs."""
    changed = {*bare, *(room.length.output for room in rooms)}
    if not changed:
        return graph
    names = {name: f"edged.row.{name}" for name in sorted(changed)}
    writer = _Writer(dict(graph.weights))
    for node in graph.nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        rename(copy, names)
        writer.nodes.append(copy)
    for room in rooms:
        writer.make_room(names[room.length.output], room, facts, room.length.output in bare)
    for name in sorted(changed - {room.length.output for room in rooms}):
        shape = [1, *(int(extent) for extent in facts.sizes[name].fixed)]
        writer.add("Reshape", names[name], writer.integers(*shape), made=name)
    outputs = (*graph.outputs, *(room.length.told_by for room in rooms))
    return replace(graph, nodes=tuple(writer.nodes), weights=writer.weights, outputs=outputs)


class _Writer:
    """Appends operators to those of a graph."""

    def __init__(self, weights: dict[str, TensorProto]) -> None:
        self.nodes: list[NodeProto] = []
        self.weights = weights

    def make_room(self, value: str, room: OutputRoom, facts: Facts, bare: bool) -> None:
        """Write an output with zeros up to its room, and its length."""
        length = room.length
        rank = len(room.shape) + (0 if bare else 1)
        axes = [axis + (0 if bare else 1) for axis in length.axes]
        told = self.add("Gather", self.add("Shape", value), self.integers(*axes))
        self.add("Reshape", told, self.integers(1, len(axes)), made=length.told_by)
        kind = facts.types[length.output][len("tensor(") : -1]
        zero = self._constant(np.zeros((), _NUMPY.get(kind, kind)))
        for axis, of_row in zip(axes, length.axes, strict=True):
            most = self.integers(room.shape[of_row])
            shape = self.add("Shape", value)
            parts = [self._extents(shape, 0, axis), most, self._extents(shape, axis + 1, rank)]
            extents = self.add("Concat", *filter(None, parts), axis=0)
            longer = self.add("Concat", value, self.add("Expand", zero, extents), axis=axis)
            value = self.add("Slice", longer, self.integers(0), most, self.integers(axis))
        self.add("Reshape", value, self.integers(1, *room.shape), made=length.output)

    def add(self, operator: str, *reads: str, made: str = "", **attributes: int) -> str:
        made = made or f"edged.end.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, reads, [made], **attributes))  # type: ignore[arg-type]
        return made

    def integers(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _extents(self, shape: str, first: int, end: int) -> str:
        """The extents of some axes; empty if there are none."""
        if first >= end:
            return ""
        return self.add("Slice", shape, self.integers(first), self.integers(end))

    def _constant(self, array: Array) -> str:
        name = f"edged.end.w{len(self.weights)}"
        self.weights[name] = numpy_helper.from_array(array, name)
        return name


_NUMPY = {"float": "float32", "double": "float64"}  # names of types that differ in numpy

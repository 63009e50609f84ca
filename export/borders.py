"""The inputs and outputs of a graph: which there are, their extents, and where their batch axis is.

An axis 0 that is free, or that has one extent in all inputs, is the batch. Other models have no
batch axis, or have it elsewhere: `no_batch_axis` says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import TensorShapeProto, ValueInfoProto, helper, numpy_helper

from edged.errors import InvalidArgument, Unsupported
from export.graph import OnnxGraph, seen_inside, tidy

Array: TypeAlias = npt.NDArray[np.generic]

_BATCHES = {"b", "bs", "n", "rows"}  # names of axes that mean the batch, in lower case


def with_outputs(graph: OnnxGraph, names: Sequence[str]) -> OnnxGraph:
    """The graph with these outputs only, in this order, and with the inputs that they need.

    Raises InvalidArgument for names that are no outputs.
    """
    if unknown := [name for name in names if name not in graph.outputs]:
        raise InvalidArgument(
            f"there is no output {unknown[0]!r}; the model has: {', '.join(graph.outputs)}"
        )
    chosen = tidy(replace(graph, outputs=tuple(dict.fromkeys(names))))
    read = set(chosen.outputs)
    for node in chosen.nodes:
        read |= set(node.input) | seen_inside(node)
    return replace(chosen, inputs=tuple(v for v in chosen.inputs if v.name in read))


def with_values(graph: OnnxGraph, values: Mapping[str, Sequence[float]]) -> OnnxGraph:
    """The graph with constants in place of inputs; a single number fills a whole input.

    A free axis of such an input has extent 1. Raises InvalidArgument if there is no such input, if
    the numbers are not of its type, or if they do not fill it.
    """
    _check_known(graph, values)
    weights = dict(graph.weights)
    kept = []
    for value in graph.inputs:
        if value.name not in values:
            kept.append(value)
            continue
        filled = _filled(value, values[value.name])
        weights[value.name] = numpy_helper.from_array(filled, value.name)
    if not kept:
        raise InvalidArgument(
            "every input is fixed, so there is nothing to ask the model: fix less"
        )
    return replace(graph, inputs=tuple(kept), weights=weights)


def with_shapes(graph: OnnxGraph, shapes: Mapping[str, tuple[int, ...]]) -> OnnxGraph:
    """The graph with these extents of its inputs, given without axis 0 or with it.

    Raises InvalidArgument if there is no such input, or if it has other extents.
    """
    _check_known(graph, shapes)
    inputs = []
    for value in graph.inputs:
        copy = ValueInfoProto()
        copy.CopyFrom(value)
        dims = copy.type.tensor_type.shape.dim
        wanted = shapes.get(value.name, ())
        axes = dims if len(wanted) == len(dims) else dims[1:]
        own = [dim.dim_value for dim in axes]
        if value.name in shapes and (
            len(wanted) != len(own) or any(a and a != b for a, b in zip(own, wanted, strict=True))
        ):
            raise InvalidArgument(
                f"input {value.name!r} has shape {own} (0: any), which {list(wanted)} does not fit"
            )
        for dim, extent in zip(axes, wanted, strict=False):
            if extent:
                dim.dim_value = extent
        inputs.append(copy)
    return replace(graph, inputs=tuple(inputs))


def left_out(before: OnnxGraph, after: OnnxGraph) -> dict[str, Array]:
    """Values for the inputs that `after` has no more: its constant, or zeros where none is read."""
    kept = {value.name for value in after.inputs}
    return {
        value.name: numpy_helper.to_array(after.weights[value.name])
        if value.name in after.weights
        else _filled(value, [0])
        for value in before.inputs
        if value.name not in kept
    }


def no_batch_axis(graph: OnnxGraph) -> str | None:
    """Why axis 0 of the inputs is not the batch of them all, for people; None if it is.

    Raises Unsupported for an input that is no tensor.
    """
    firsts: dict[int, str] = {}  # extents of the first axes, 0 for a free one, each with an input
    for value in graph.inputs:
        dims = dims_of(value)
        if not dims:
            return f"input {value.name!r} has no axes, so no batch"
        elsewhere = [i for i in range(1, len(dims)) if _is_batch(dims, i)]
        if dims[0].dim_value and elsewhere:
            return f"axis {elsewhere[0]} of input {value.name!r} is the batch, not axis 0"
        firsts.setdefault(dims[0].dim_value, value.name)
    if len(firsts) < 2:
        return None
    names = [firsts[extent] for extent in sorted(firsts)]
    return f"inputs {names[0]!r} and {names[1]!r} have different batch sizes"


def fixed_rows(graph: OnnxGraph) -> int | None:
    """The only number of rows that the graph runs; None if it runs any. It has a batch axis."""
    return dims_of(graph.inputs[0])[0].dim_value or None


def with_rows(graph: OnnxGraph, rows: int | None) -> OnnxGraph:
    """The graph with inputs of `rows` rows on axis 0; None stands for any number."""
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


def for_one(graph: OnnxGraph) -> OnnxGraph:
    """The graph for a batch of one, wherever the batch axis is.

    That is a free axis 0, and a free axis elsewhere whose name is that of a batch.
    """
    firsts = {dims[0].dim_param for value in graph.inputs if (dims := dims_of(value))} - {""}
    inputs = []
    for value in graph.inputs:
        copy = ValueInfoProto()
        copy.CopyFrom(value)
        dims = dims_of(copy)
        batches = [
            dim
            for i, dim in enumerate(dims)
            if _is_free(dim) and (i == 0 or dim.dim_param in firsts or _is_batch(dims, i))
        ]
        for dim in batches:
            dim.dim_value = 1
        inputs.append(copy)
    return replace(graph, inputs=tuple(inputs))


def dims_of(value: ValueInfoProto) -> list[TensorShapeProto.Dimension]:
    """The axes of an input. Raises Unsupported if it is no tensor, or of unknown rank."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise Unsupported(f"input {value.name!r} is no tensor with a known number of axes")
    return list(kind.shape.dim)


def _is_free(dim: TensorShapeProto.Dimension) -> bool:
    return not dim.dim_value


def _is_batch(dims: Sequence[TensorShapeProto.Dimension], axis: int) -> bool:
    """Whether the name of a free axis says that it is the batch. After a 1, "n" may count boxes."""
    name = dims[axis].dim_param.lower()
    short = name in _BATCHES and dims[0].dim_value != 1
    return _is_free(dims[axis]) and (short or "batch" in name)


def _check_known(graph: OnnxGraph, named: Mapping[str, object]) -> None:
    known = {value.name for value in graph.inputs}
    if unknown := sorted(named.keys() - known):
        have = ", ".join(sorted(known))
        raise InvalidArgument(f"there is no input {unknown[0]!r}; the model has: {have}")


def _filled(value: ValueInfoProto, numbers: Sequence[float]) -> Array:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    shape = tuple(dim.dim_value or 1 for dim in dims_of(value))
    exact = np.array(numbers, np.float64)
    with np.errstate(all="ignore"):
        given = exact.astype(dtype)
        if dtype.kind in "iub" and (given.astype(np.float64) != exact).any():
            raise InvalidArgument(
                f"input {value.name!r} is of type {dtype}, which {list(numbers)} does not fit"
            )
    if given.size not in (1, np.prod(shape)):
        raise InvalidArgument(
            f"input {value.name!r} has shape {list(shape)}: give one number for all of it, or "
            f"{int(np.prod(shape))}, not {given.size}"
        )
    return np.broadcast_to(given.reshape(shape if given.size > 1 else ()), shape)

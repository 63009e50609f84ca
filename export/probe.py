"""Facts about the values of a graph, found by running it: types, sizes, constants.

The graph runs at several numbers of rows. Running is better than shape inference, which does not
know every operator that ONNX Runtime can run. Running cannot show what depends on the content of an
input, since the next input could give another result: `export.extents` finds that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edged.errors import InvalidArgument, Unsupported
from export.extents import NONE, Axes, Kind, classify, content_read
from export.graph import OnnxGraph, to_model

Array: TypeAlias = npt.NDArray[np.generic]
Arrays: TypeAlias = dict[str, Array]
Span: TypeAlias = tuple[int, int]  # the least and the largest of some whole numbers
Integers: TypeAlias = npt.NDArray[np.int64]

ROWS_TRIED = (1, 2, 3)
SPAN: Span = (0, 1)  # whole numbers that an input usually gets, as they may be indices

# Moving bytes gives the same result on every machine; arithmetic on floats may not, and its result
# would make the digest of a layer depend on where it was exported.
_MOVES = {
    "Concat", "Flatten", "Gather", "GatherND", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze", "Where", "Pad", "Expand", "Tile", "ConstantOfShape",
}  # fmt: skip
# Operators that keep growth linear in the number of rows: if their inputs grow linearly, so do
# their outputs, or else the first few numbers of rows show it.
_LINEAR = _MOVES | {
    "Add", "Cast", "Identity", "Mul", "Neg", "Range", "ReduceProd", "ReduceSum", "Shape", "Size",
    "Sub", "Sum",
}  # fmt: skip
_FOLDED_BYTES_MAX = 1024  # a folded constant may be this large, even if it was made from less
_SHAPE_ELEMENTS_MAX = 1 << 16  # a value with more elements is not taken for a shape


@dataclass(frozen=True, slots=True)
class Affine:
    """Integers that are `fixed + per_row * rows` at any number of rows."""

    fixed: Integers
    per_row: Integers


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about a graph's values. A value without a property has no entry."""

    kinds: dict[str, Kind]
    types: dict[str, str]  # ONNX Runtime's names for types: "tensor(float)"
    sizes: dict[str, Affine]  # extents of each axis, if none depends on DATA
    integers: dict[str, Affine]  # content of values that depend only on the number of rows
    folded: dict[str, TensorProto]  # content of constants worth computing now
    varying: dict[str, Axes]  # axes whose extents depend on DATA


def session(model: bytes, *, optimise: bool = True) -> ort.InferenceSession:
    """A session on the CPU. Raises InvalidArgument if ONNX Runtime refuses the model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Many sessions are made here, and threads that spin between runs take time from each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Shape operators run first, so that no activation is kept only because its size is needed.
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    try:
        return _open(model, options)
    except Exception as error:  # onnxruntime's errors have no narrower common base
        raise InvalidArgument(f"ONNX Runtime cannot load the model: {_line(error)}") from error


def _open(model: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    """Open a session, on the process's thread pool if it has one, which only an error reveals."""
    providers = ["CPUExecutionProvider"]
    try:
        return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except RuntimeError as error:
        if "global thread pool" not in str(error):
            raise
    options.use_per_session_threads = False
    return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)


def run(
    runner: ort.InferenceSession, outputs: Sequence[str], given: Mapping[str, Array]
) -> list[Array]:
    """The values of `outputs`. Raises InvalidArgument if the model cannot run."""
    if not outputs:
        return []  # an empty list would mean all outputs to onnxruntime
    try:
        return list(runner.run(outputs, dict(given)))
    except Exception as error:  # onnxruntime's errors have no narrower common base
        raise InvalidArgument(f"ONNX Runtime cannot run the model: {_line(error)}") from error


def feed(graph: OnnxGraph, rows: int | None, seed: int = 0) -> Arrays:
    """Random input: standard normal floats, bytes of any value, other integers of the input's span.

    `rows` is the extent of axis 0 of each input; None takes what the input says. Raises Unsupported
    if an axis has an unknown extent.
    """
    random = np.random.default_rng([seed, rows or 0])
    arrays: Arrays = {}
    for value in graph.inputs:
        tensor = value.type.tensor_type
        extents = [dim.dim_value for dim in tensor.shape.dim]
        if rows is not None:
            extents[:1] = [rows]
        if min([1, *extents]) < 1:
            raise Unsupported(
                f"input {value.name!r} has axes of unknown size: say it as --shape "
                f"{value.name}=3,224,224 (without the batch axis)"
            )
        arrays[value.name] = random_array(
            random,
            helper.tensor_dtype_to_np_dtype(tensor.elem_type),
            tuple(extents),
            graph.spans.get(value.name),
        )
    return arrays


def random_array(
    random: np.random.Generator,
    dtype: npt.DTypeLike,
    shape: tuple[int, ...],
    span: Span | None = None,
) -> Array:
    """Random values as `feed` makes them."""
    kind = np.dtype(dtype)
    if span is None and kind in (np.uint8, np.int8):
        bounds = np.iinfo(kind)
        return np.asarray(random.integers(bounds.min, bounds.max, shape, kind, endpoint=True))
    if kind.kind in "iub":
        least, largest = span or SPAN
        return np.asarray(random.integers(least, largest, shape, endpoint=True), kind)
    return np.asarray(random.standard_normal(shape)).astype(kind)


def probe(graph: OnnxGraph, rows: Sequence[int] = ROWS_TRIED) -> Facts:
    """Run the graph at each of `rows` and compare. Raises InvalidArgument and Unsupported."""
    names = [name for node in graph.nodes for name in node.output if name]
    typed = session(to_model(graph, names).SerializeToString(), optimise=False)
    types = {value.name: value.type for value in (*typed.get_inputs(), *typed.get_outputs())}
    del typed
    sized = [name for name in names if types[name].startswith("tensor(")]
    shape_of = {name: f"edged.shape.{i}" for i, name in enumerate(sized)}
    small = _perhaps_small(graph)
    model = to_model(
        graph,
        [*shape_of.values(), *small],
        [helper.make_node("Shape", [name], [out]) for name, out in shape_of.items()],
    )
    runner = session(model.SerializeToString(), optimise=False)

    def fetch(wanted: Sequence[str], count: int) -> Arrays:
        return dict(zip(wanted, run(runner, wanted, feed(graph, count)), strict=True))

    shapes = [fetch(list(shape_of.values()), count) for count in rows]
    traits = classify(graph, _ranks(graph, {n: shapes[0][out] for n, out in shape_of.items()}))
    kinds = traits.kinds
    sizes = {
        name: fitted
        for name, out in shape_of.items()
        if not traits.varying.get(name, NONE)
        and (fitted := _fit(rows, [found[out] for found in shapes])) is not None
    }
    sizes |= _input_sizes(graph, rows)
    counts = [n for n in small if kinds[n] < Kind.DATA and _is_count(types[n], sizes.get(n))]
    folds = _foldable(graph, kinds, types, sizes, counts)
    contents = [fetch([*counts, *folds], count) for count in rows]
    fitted_counts = {name: _fit(rows, [found[name] for found in contents]) for name in counts}
    integers = {n: fit for n, fit in fitted_counts.items() if fit is not None and fit.per_row.any()}
    for name in _bent(graph, kinds, integers, contents[0]):
        integers.pop(name, None)
        fitted_counts.pop(name, None)
    fixed = [n for n, fit in fitted_counts.items() if fit is not None and n not in integers]
    folded = {name: numpy_helper.from_array(contents[0][name]) for name in (*folds, *fixed)}
    return Facts(kinds, types, sizes, integers, folded, traits.varying)


def _ranks(graph: OnnxGraph, shapes: Mapping[str, Array]) -> dict[str, int]:
    """The ranks of the inputs and of all values whose shapes are given."""
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.inputs}
    return ranks | {name: len(shape) for name, shape in shapes.items()}


def _bent(
    graph: OnnxGraph, kinds: Mapping[str, Kind], integers: Mapping[str, Affine], known: Arrays
) -> list[str]:
    """The values that may be linear only for the numbers of rows that were tried.

    The rows divided by four, for example, are 0, 0, 0 for the first three. `known` has contents at
    some number of rows.
    """
    found: dict[str, None] = {}
    constants = {name: known[name] for name in known if kinds[name] == Kind.CONSTANT}
    constants |= {
        name: numpy_helper.to_array(tensor)
        for name, tensor in graph.weights.items()
        if list(tensor.dims) in ([], [1])
    }
    for node in graph.nodes:
        if kinds[node.output[0]] != Kind.ROWS:
            continue
        read = content_read(node)
        bends = node.op_type not in _LINEAR and any(name in integers for name in read)
        if node.op_type == "Div" and node.input[0] in integers and node.input[1] in constants:
            by, of = constants[node.input[1]].astype(np.int64), integers[node.input[0]]
            bends = bool((by == 0).any() or (of.fixed % by).any() or (of.per_row % by).any())
        if bends or any(name in found for name in read):
            found |= dict.fromkeys(name for name in node.output if name)
    return list(found)


def _perhaps_small(graph: OnnxGraph) -> list[str]:
    """The values that do not depend on DATA, provided that no extent does."""
    kinds = classify(graph, {}, assume_fixed=True).kinds
    return [name for name, kind in kinds.items() if kind < Kind.DATA]


def _fit(rows: Sequence[int], found: Sequence[Array]) -> Affine | None:
    """The affine function through all `found`, if there is one."""
    if len({array.shape for array in found}) != 1:
        return None
    values = [array.astype(np.int64) for array in found]
    slope = np.zeros_like(values[0])
    if len(rows) > 1:
        slope = (values[-1] - values[0]) // (rows[-1] - rows[0])
    base = values[0] - slope * rows[0]
    if all((base + slope * n == value).all() for n, value in zip(rows, values, strict=True)):
        return Affine(base, slope)
    return None


def _input_sizes(graph: OnnxGraph, rows: Sequence[int]) -> dict[str, Affine]:
    feeds = [feed(graph, count) for count in rows]
    found = {
        value.name: _fit(rows, [np.array(arrays[value.name].shape) for arrays in feeds])
        for value in graph.inputs
    }
    return {name: fitted for name, fitted in found.items() if fitted is not None}


def _is_count(kind: str, size: Affine | None) -> bool:
    return (
        kind in ("tensor(int64)", "tensor(int32)", "tensor(bool)")
        and size is not None
        and not size.per_row.any()
        and int(np.prod(size.fixed)) <= _SHAPE_ELEMENTS_MAX
    )


def _foldable(
    graph: OnnxGraph,
    kinds: Mapping[str, Kind],
    types: Mapping[str, str],
    sizes: Mapping[str, Affine],
    counts: Sequence[str],
) -> list[str]:
    """The constants that only rearrange weights and do not take more bytes than these."""
    bytes_of = {name: tensor.ByteSize() for name, tensor in graph.weights.items()}
    made_from = {name: {name} for name in graph.weights}
    made_from |= {name: set() for name in counts if kinds[name] == Kind.CONSTANT}
    found = []
    for node in graph.nodes:
        if not _moves(node, kinds) or not all(name in made_from for name in node.input if name):
            continue
        roots = set[str]().union(*(made_from[name] for name in node.input if name))
        allowed = max(_FOLDED_BYTES_MAX, sum(bytes_of[root] for root in roots))
        for name in node.output:
            if (
                name in sizes
                and name not in made_from
                and _bytes(types[name], sizes[name]) <= allowed
            ):
                made_from[name] = roots
                found.append(name)
    return found


def _moves(node: NodeProto, kinds: Mapping[str, Kind]) -> bool:
    return (
        node.domain == ""
        and node.op_type in _MOVES
        and all(kinds[name] == Kind.CONSTANT for name in node.output if name)
    )


def _bytes(kind: str, size: Affine) -> int:
    width = {"double": 8, "int64": 8, "uint64": 8, "float16": 2, "bfloat16": 2, "int8": 1}
    return int(np.prod(size.fixed)) * width.get(kind[len("tensor(") : -1], 4)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

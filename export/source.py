"""Prepares a model file for cutting: its manifest, its layers, and its uncut results.

Knows nothing of stores and blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Literal

from onnx import ModelProto, TensorProto

from edged import manifest as manifests
from edged.errors import InvalidArgument, NotFound, Unsupported
from edged.manifest import CHECKS, SCHEMA, Accuracy, Manifest, Preprocess
from export import samples
from export.batch import fixed_rows, set_free, with_rows, with_shapes
from export.check import FLOOR, TOLERANCE, Uncut, batches, compare, feeds
from export.company import dependence
from export.graph import OnnxGraph, load, tidy, to_model
from export.layers import DataSized, Path, cut, refuse_data_sized
from export.normalise import normalise
from export.pictures import image_shape
from export.probe import Arrays, feed, probe, session
from export.rows import coupling

Precision = Literal["fp32", "fp16", "bf16", "int8"]

_QUANTISED = {
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv",
    "QLinearMatMul",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """An ONNX file, and the facts that its manifest will have."""

    task: str
    path: File
    name: str = ""  # name of the model; empty takes the task's name
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()
    precision: Precision | None = None  # None takes the precision of most weights
    # Extents of inputs, without the row axis.
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    samples: File | None = None  # real input, see `export.samples`


@dataclass(frozen=True, slots=True)
class ModelDraft:
    """A model in layers that has no blocks yet."""

    manifest: Manifest  # has no steps yet
    path: Path
    expected: tuple[Arrays, ...]  # the uncut model's results for feeds(manifest)
    coupled: str | None = None  # why it runs one row at a time; None if it runs several
    # Pairs of samples and the uncut model's results for them.
    sampled: tuple[tuple[Arrays, Arrays], ...] = ()


def draft(source: Source) -> ModelDraft:
    """Read and cut a model.

    Raises NotFound, InvalidArgument and Unsupported, with the name of the file.
    """
    try:
        return _draft(source)
    except (NotFound, InvalidArgument, Unsupported) as error:
        if str(source.path) in str(error):
            raise
        raise type(error)(f"{source.path}: {error}") from error


def check_manifest(manifest: Manifest) -> None:
    """Raise InvalidArgument if the preprocessing, the labels or a name do not fit."""
    for what, names in (("input", manifest.inputs), ("output", manifest.outputs)):
        for name in names:
            manifests.check_tensor_name(name, what)
    fed, named = manifest.preprocess, manifest.labels
    if fed is not None:
        values = [manifest.value(name) for name in manifest.inputs]
        shape = image_shape(fed)
        if [(value.datatype, value.shape) for value in values] != [("FP32", shape)]:
            inputs = ", ".join(f"{v.name} {v.datatype} {list(v.shape)}" for v in values)
            raise InvalidArgument(
                f"the preprocessing makes one FP32 image of shape {list(shape)}, and the model "
                f"takes {inputs}: mend height, width and layout, or leave the preprocessing out"
            )
    classes = manifest.value(manifest.outputs[0]).shape[-1:]
    if named and classes != (len(named),):
        raise InvalidArgument(
            f"there are {len(named)} labels, and the first output has shape "
            f"{list(manifest.value(manifest.outputs[0]).shape)}: give one label for each class"
        )


def _draft(source: Source) -> ModelDraft:
    loaded = load(source.path)
    graph = with_shapes(loaded.graph, _shapes(source, loaded.graph))
    precision = source.precision or _precision(graph)
    fixed = fixed_rows(graph)
    uncut = _uncut(loaded.model, graph, fixed)
    rows = _samples(source, graph, uncut)
    path, coupled = _cut(graph, fixed, uncut, precision, rows)
    manifest = Manifest(
        schema=SCHEMA,
        name=manifests.check_name(source.name or source.task, "model"),
        task=manifests.check_name(source.task, "task"),
        precision=precision,
        inputs=path.inputs,
        outputs=path.outputs,
        values=path.values,
        steps=(),
        whole_bytes=0,
        checks=CHECKS,
        preprocess=source.preprocess,
        max_rows=None if coupled is None else 1,
        labels=source.labels,
        accuracy=source.accuracy,
    )
    check_manifest(manifest)
    expected = tuple(map(uncut, feeds(manifest)))
    sampled = tuple((given, uncut(given)) for given in batches(rows, manifest.max_rows))
    return ModelDraft(manifest, path, expected, coupled, sampled)


def _samples(source: Source, graph: OnnxGraph, uncut: Uncut) -> Arrays:
    """The rows of the samples, which the model must be able to run; none without samples."""
    if source.samples is None:
        return {}
    rows = samples.read(source.samples, feed(graph, 1), source.preprocess)
    try:
        for row in batches(rows, 1):
            uncut(row)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"the samples {source.samples} are no input of the model: {error}"
        ) from error
    return rows


def _cut(
    graph: OnnxGraph, fixed: int | None, uncut: Uncut, precision: Precision, rows: Arrays
) -> tuple[Path, str | None]:
    """The layers, and why they run one row at a time, or None. `rows` are samples."""
    facts = probe(graph, (fixed,)) if fixed else None
    error: Exception | None = None
    try:
        if facts is None or fixed is None:
            path, coupled = _free(graph, None, precision, rows)
        else:
            refuse_data_sized(graph, facts)
            freed = tidy(set_free(graph, facts, fixed))
            path, coupled = _free(freed, (fixed, uncut), precision, rows)
    except (InvalidArgument, Unsupported) as failed:
        if isinstance(failed, DataSized):
            raise
        # The rows are not axis 0 of everything, or the model cannot run what it declares.
        path, coupled, error = None, f"it does not run with more ({failed})", failed
    if path is not None:
        return path, None
    if fixed not in (None, 1):
        raise Unsupported(
            f"it runs batches of exactly {fixed}, and could not be set free ({coupled}): export it "
            "with a dynamic batch axis, or for one row"
        )
    try:
        one = with_rows(graph, 1)
        facts = probe(one, (1,))
        refuse_data_sized(one, facts)
        return cut(normalise(one, facts), rows=1), coupled
    except (InvalidArgument, Unsupported):
        if error is None or fixed is not None:
            raise
        raise error from None  # the error of the model as it was exported


def _free(
    graph: OnnxGraph, before: tuple[int, Uncut] | None, precision: Precision, rows: Arrays
) -> tuple[Path | None, str | None]:
    """The layers for any number of rows, or why there are none.

    `before` is the number of rows that the graph was exported for, and the model for these rows.
    """
    facts = probe(graph)
    refuse_data_sized(graph, facts)
    if (mixing := coupling(graph, facts)) is not None:
        return None, f"{mixing} mixes the rows of a batch"
    path = cut(normalise(graph, facts))
    tolerance, floor = TOLERANCE[precision], FLOOR[precision]
    if before is not None:
        fixed, uncut = before
        given = feed(graph, fixed + 2)  # errors cannot show at the same number of rows as before
        freed = _uncut(to_model(graph), graph, None)
        for tried in (given, *batches(rows, None)):
            if not compare(uncut(tried), freed(tried), floor).relative <= tolerance:
                return None, "set free for more, it computes something else"
    crossing = [value.name for value in path.values if value.name not in path.inputs]
    watched = dict.fromkeys([*graph.outputs, *crossing])
    dependent = dependence(graph, list(watched), tolerance, floor, rows)
    return (path, None) if dependent is None else (None, dependent)


def _uncut(model: ModelProto, graph: OnnxGraph, fixed: int | None) -> Uncut:
    names = {value.name: value.name for value in graph.inputs}
    outputs = {name: name for name in graph.outputs}
    return Uncut(session(model.SerializeToString()), names, outputs, fixed)


def _shapes(source: Source, graph: OnnxGraph) -> dict[str, tuple[int, ...]]:
    """The extents of inputs: those of the source, or of the preprocessing if there is one input."""
    if source.shapes or source.preprocess is None or len(graph.inputs) != 1:
        return dict(source.shapes)
    (value,) = graph.inputs
    own = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
    made = image_shape(source.preprocess)
    return (
        {value.name: tuple(a or b for a, b in zip(own, made, strict=True))} if len(own) == 3 else {}
    )


def _precision(graph: OnnxGraph) -> Precision:
    if any(node.op_type in _QUANTISED for node in graph.nodes):
        return "int8"
    kinds: Counter[int] = Counter()
    for tensor in graph.weights.values():
        kinds[tensor.data_type] += tensor.ByteSize()
    names: dict[int, Precision] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
    return names.get(kinds.most_common(1)[0][0], "fp32") if kinds else "fp32"

"""Prepares a model file for cutting: its manifest, its layers, and its uncut results.

Knows nothing of stores and blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Literal

from edged import manifest as manifests
from edged.errors import InvalidArgument, NotFound, Unsupported
from edged.manifest import CHECKS, SCHEMA, Accuracy, Manifest, NumberSpan, Preprocess
from export import samples
from export.borders import dims_of, left_out, with_outputs, with_shapes, with_values
from export.check import batches, feeds
from export.forms import Form, Given, Precision, form_of
from export.graph import OnnxGraph, load
from export.layers import Path
from export.pictures import check_preprocess, fitted
from export.probe import Arrays, session
from export.spans import with_spans


@dataclass(frozen=True, slots=True)
class Source:
    """An ONNX file, and the facts that its manifest will have."""

    task: str
    path: File
    name: str = ""  # name of the model; empty takes the task's name
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()
    precision: Precision | None = None  # None takes the precision of most weights
    # Extents of inputs, without axis 0 or with it.
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: Mapping[str, Sequence[float]] = field(default_factory=dict)  # values that stay
    outputs: tuple[str, ...] = ()  # empty: all
    rows: Literal[1] | None = None  # 1 asks for the form for one row
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
    if manifest.preprocess is not None:
        check_preprocess(manifest)
    named = manifest.labels
    classes = manifest.value(manifest.outputs[0]).shape[-1:]
    if named and classes != (len(named),):
        raise InvalidArgument(
            f"there are {len(named)} labels, and the first output has shape "
            f"{list(manifest.value(manifest.outputs[0]).shape)}: give one label for each class"
        )


def _draft(source: Source) -> ModelDraft:
    loaded = load(source.path)
    runner = session(loaded.model.SerializeToString())
    graph = with_values(loaded.graph, source.inputs)
    if source.outputs:
        graph = with_outputs(graph, source.outputs)
    constants = left_out(loaded.graph, graph)
    preprocess = fitted(source.preprocess, graph)
    graph = with_shapes(graph, _shapes(source, preprocess, graph))

    def read(like: Arrays) -> Arrays:
        path = source.samples
        return {} if path is None else samples.read(path, like, preprocess)

    graph = with_spans(graph, runner, constants, read)
    given = Given(
        runner, graph, constants, source.samples, read, source.precision, source.rows == 1
    )
    form = form_of(given)
    manifest = _manifest(source, form, preprocess, graph)
    check_manifest(manifest)
    expected = tuple(map(form.uncut, feeds(manifest)))
    sampled = tuple((one, form.uncut(one)) for one in batches(form.rows, manifest.max_rows))
    return ModelDraft(manifest, form.path, expected, form.coupled, sampled)


def _manifest(
    source: Source, form: Form, preprocess: Preprocess | None, graph: OnnxGraph
) -> Manifest:
    """The manifest of a model that has no blocks yet."""
    path = form.path
    return Manifest(
        schema=SCHEMA,
        name=manifests.check_name(source.name or source.task, "model"),
        task=manifests.check_name(source.task, "task"),
        precision=form.precision,
        inputs=path.inputs,
        outputs=path.outputs,
        values=path.values,
        steps=(),
        whole_bytes=0,
        checks=CHECKS,
        preprocess=preprocess,
        max_rows=None if form.coupled is None else 1,
        labels=source.labels,
        accuracy=source.accuracy,
        lengths=form.lengths,
        spans=tuple(NumberSpan(name, *span) for name, span in sorted(graph.spans.items())),
    )


def _shapes(
    source: Source, preprocess: Preprocess | None, graph: OnnxGraph
) -> dict[str, tuple[int, ...]]:
    """The extents of inputs: those of the source, or of the preprocessing if there is one input."""
    if source.shapes or preprocess is None or len(graph.inputs) != 1:
        return dict(source.shapes)
    (value,) = graph.inputs
    own = [dim.dim_value for dim in dims_of(value)][1:]
    made = preprocess.shape
    return (
        {value.name: tuple(a or b for a, b in zip(own, made, strict=True))} if len(own) == 3 else {}
    )

"""The whole numbers that trial runs may give a model: 0 and 1, unless it cannot run with them.

A divisor, a length or a number that counts from 1 must not be 0. What an input takes instead is
found by running the model. If there are samples, their range is used: 0 and 1 may be no sensible
text, on which rounding decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from onnx import helper

from edged.errors import InvalidArgument
from export.borders import for_one, no_batch_axis
from export.graph import OnnxGraph
from export.one_row import rows_in_front
from export.probe import SPAN, Array, Arrays, Span, feed, run


def with_spans(
    graph: OnnxGraph,
    runner: ort.InferenceSession,
    constants: Mapping[str, Array],
    read: Callable[[Arrays], Arrays],
) -> OnnxGraph:
    """The graph with the spans of inputs of whole numbers, where they are not 0 and 1.

    `runner` runs the model, with `constants` for the inputs that the graph lacks; `read` returns
    the samples. A model that runs with none of them is left to other checks, which say why.
    """
    sizes = {value.name: _bytes(value.type.tensor_type.elem_type) for value in graph.inputs}
    numbers = [name for name, size in sizes.items() if size]
    wide = [name for name in numbers if sizes[name] > 1]
    if not numbers:
        return graph
    sampled = _of_samples(graph, wide, read)
    spans = ((1, 2), (1, 1), SPAN) if _divides(graph) else (SPAN, (1, 2), (1, 1))
    tried = [
        *([sampled] if sampled else ()),
        *(dict.fromkeys(wide, span) for span in spans),
        *(dict.fromkeys(numbers, span) for span in spans),
    ]
    for spans in tried:
        if _runs(replace(for_one(graph), spans=spans), runner, constants):
            usual = {name: span for name, span in spans.items() if span != SPAN or name not in wide}
            return replace(graph, spans=usual)
    return graph


def _divides(graph: OnnxGraph) -> bool:
    """Whether whole numbers are divided, by 0 perhaps. An older onnxruntime (1.23, the last one for
    Python 3.10) ends the process then, so that 0 is tried last."""
    whole = {value.name for value in graph.inputs if _bytes(value.type.tensor_type.elem_type)}
    whole |= {name for name, weight in graph.weights.items() if _bytes(weight.data_type)}
    for node in graph.nodes:
        read = [name for name in node.input if name]
        if node.op_type in ("Div", "Mod") and whole.issuperset(read):
            return True
        casts = [one.i for one in node.attribute if node.op_type == "Cast" and one.name == "to"]
        if (whole.issuperset(read) and not casts) or any(map(_bytes, casts)):
            whole.update(node.output)
    return False


def _of_samples(
    graph: OnnxGraph, names: Sequence[str], read: Callable[[Arrays], Arrays]
) -> dict[str, Span]:
    """The spans of these inputs in the samples; none without samples, or if they do not fit."""
    if not names:
        return {}
    likes = [feed(rows_in_front(for_one(graph))[0], 1)]
    if no_batch_axis(graph) is None:
        likes.append(feed(graph, 1))
    for like in likes:
        try:
            rows = read(like)
        except InvalidArgument:
            continue
        return {name: (int(rows[name].min()), int(rows[name].max())) for name in names if rows}
    return {}


def _bytes(element: int) -> int:
    """The size of a type of whole numbers; 0 for other types."""
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element))
    return dtype.itemsize if dtype.kind in "iu" else 0


def _runs(graph: OnnxGraph, runner: ort.InferenceSession, constants: Mapping[str, Array]) -> bool:
    """Whether the model runs at both ends of all spans, and in between."""
    least, largest = (
        {name: (span[end], span[end]) for name, span in graph.spans.items()} for end in (0, 1)
    )
    for spans in (least, graph.spans, largest):
        try:
            run(runner, graph.outputs, dict(constants) | feed(replace(graph, spans=spans), None))
        except InvalidArgument:
            return False
    return True

"""The whole numbers that trial runs may give a model: 0 and 1, unless it cannot run with them.

A divisor, a length or a number that counts from 1 must not be 0. What an input takes instead is
found by running the model, or comes from the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from onnx import helper

from edged.errors import InvalidArgument
from export.borders import for_one
from export.graph import OnnxGraph
from export.probe import SPAN, Array, Arrays, Span, feed, run

_TRIED: tuple[Span, ...] = ((1, 2), (1, 1), SPAN)  # the last one is for bytes


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
    whole = {value.name: _bytes(value.type.tensor_type.elem_type) for value in graph.inputs}
    numbers = [name for name, size in whole.items() if size]
    wide = [name for name in numbers if whole[name] > 1]
    if not numbers or _runs(for_one(graph), wide, SPAN, runner, constants):
        return graph
    for names in dict.fromkeys((tuple(wide), tuple(numbers))):
        for span in _TRIED:
            if _runs(for_one(graph), names, span, runner, constants):
                return replace(graph, spans=dict.fromkeys(names, span))
    rows = read(feed(for_one(graph), None))
    found = {name: (int(rows[name].min()), int(rows[name].max())) for name in numbers if rows}
    return replace(graph, spans=found)


def _bytes(element: int) -> int:
    """The size of a type of whole numbers; 0 for other types."""
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element))
    return dtype.itemsize if dtype.kind in "iu" else 0


def _runs(
    graph: OnnxGraph,
    names: Sequence[str],
    span: Span,
    runner: ort.InferenceSession,
    constants: Mapping[str, Array],
) -> bool:
    """Whether the model runs with these inputs at both ends of the span and in between.

    Inputs of bytes that are not named have any values.
    """
    least, largest = span
    for one in dict.fromkeys([(least, least), span, (largest, largest)]):
        tried = replace(graph, spans=dict.fromkeys(names, one))
        try:
            run(runner, graph.outputs, dict(constants) | feed(tried, None))
        except InvalidArgument:
            return False
    return True

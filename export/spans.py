"""The whole numbers that trial runs may give a model: 0 and 1, unless it cannot run with them.

A divisor, a length or a number that counts from 1 must not be 0. What an input takes instead is
found by running the model, or comes from the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnxruntime as ort
from onnx import helper

from edged.errors import InvalidArgument
from export.borders import for_one
from export.graph import OnnxGraph
from export.probe import SPAN, Array, Arrays, Span, feed, run

_TRIED: tuple[Span, ...] = (SPAN, (1, 2), (1, 1))


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
    numbers = [value.name for value in graph.inputs if _counts(value.type.tensor_type.elem_type)]
    if not numbers:
        return graph
    single = for_one(graph)
    for span in _TRIED:
        least, largest = span
        trials = (
            replace(single, spans=dict.fromkeys(numbers, one))
            for one in dict.fromkeys([(least, least), span, (largest, largest)])
        )
        if all(_runs(tried, runner, constants) for tried in trials):
            return graph if span == SPAN else replace(graph, spans=dict.fromkeys(numbers, span))
    rows = read(feed(single, None))
    found = {name: (int(rows[name].min()), int(rows[name].max())) for name in numbers if rows}
    return replace(graph, spans=found)


def _counts(element: int) -> bool:
    """Whether values of a type are whole numbers that may mean anything, unlike bytes."""
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element))
    return dtype.kind in "iu" and dtype.itemsize > 1


def _runs(graph: OnnxGraph, runner: ort.InferenceSession, constants: Mapping[str, Array]) -> bool:
    try:
        run(runner, graph.outputs, dict(constants) | feed(graph, None))
    except InvalidArgument:
        return False
    return True

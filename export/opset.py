"""Brings models of older opsets to one that the other modules and the backends know.

The conversion is the one of the onnx package. Whoever drafts a model compares the result with the
model as its file has it, which ONNX Runtime runs unconverted.
"""

from __future__ import annotations

from dataclasses import replace

from onnx import shape_inference, version_converter

from edged.errors import Unsupported
from export.graph import OLDEST_OPSET, OnnxGraph, read, to_model

TARGET = 17  # a common opset of newer models, which can then share layers with old ones


def upgraded(graph: OnnxGraph) -> OnnxGraph:
    """The graph in opset TARGET, or as it is from OLDEST_OPSET on. Raises Unsupported."""
    opset = graph.opsets.get("", OLDEST_OPSET)
    if opset >= OLDEST_OPSET:
        return graph
    try:
        typed = shape_inference.infer_shapes(to_model(graph))
        converted = read(version_converter.convert_version(typed, TARGET))
    except Exception as error:  # the converter's errors have no narrower common base
        reason = " ".join(str(error).split())[:200]
        raise Unsupported(
            f"it has opset {opset}, and the onnx package cannot convert it ({reason}): export it "
            f"again with opset {OLDEST_OPSET} or later"
        ) from error
    return replace(converted, inputs=graph.inputs, outputs=graph.outputs, spans=graph.spans)

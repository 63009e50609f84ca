"""Which models of an older edged-export may be served, and why others must not.

That exporter treated every length as a function of the number of rows. A length that depends on the
data (the number of boxes that remain) became a constant, or a multiple of the number of rows, and
the operators that computed it disappeared. The constant looks like any other whole number in a
block, so nothing in a block proves that a number was not such a length. A model is served only if
its blocks compute with no whole number at all, as most convolutional networks do.
"""

from __future__ import annotations

from collections.abc import Callable

from edged.errors import StoreError
from edged.manifest import CHECKS, Manifest
from edged.onnx_file import GRAPH_INITIALIZER, MODEL_GRAPH, fields

# Operators whose outputs have lengths that depend on the data.
_DATA_SIZED = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}
_WHOLE = {6, 7, 9}  # the types int32, int64 and bool, which the older exporter folded

# Inputs that hold whole numbers which cannot have been lengths: axes; biases of quantised layers;
# and the target of a Reshape, which has to divide the same number of elements for every picture.
_NO_LENGTHS = {
    "Reshape": 1, "Squeeze": 1, "Unsqueeze": 1, "CumSum": 1,
    "ReduceL1": 1, "ReduceL2": 1, "ReduceLogSum": 1, "ReduceLogSumExp": 1, "ReduceMax": 1,
    "ReduceMean": 1, "ReduceMin": 1, "ReduceProd": 1, "ReduceSum": 1, "ReduceSumSquare": 1,
    "DequantizeLinear": 0, "QLinearConv": 8,
}  # fmt: skip

# Field numbers of onnx.proto.
_GRAPH_NODE = 1
_NODE_INPUT, _NODE_TYPE = 1, 4
_TENSOR_TYPE, _TENSOR_NAME = 2, 8


def check_fit(model: Manifest, graph_bytes: Callable[[str], bytes]) -> None:
    """Raise StoreError if the model must not be served, or if a block is damaged.

    `graph_bytes`: the file of a block, with or without its large weights.
    """
    if reason := model.unfit or doubt(model, graph_bytes):
        raise StoreError(f"model {model.name!r} is not served: {reason}")


def doubt(model: Manifest, graph_bytes: Callable[[str], bytes]) -> str:
    """Why a length that depends on the data may be frozen in the model; empty if none can be.

    Raises StoreError if a block is damaged.
    """
    if model.checks >= CHECKS:
        return ""
    blocks = dict.fromkeys(step.block for step in model.steps)
    found = (_suspicion(block, graph_bytes(block)) for block in blocks)
    return next(filter(None, found), "")


def _suspicion(block: str, data: bytes) -> str:
    try:
        operators, whole = _read(data)
    except ValueError as error:
        raise StoreError(f"block {block[:12]} is no ONNX file: export its models again") from error
    for operator, inputs in operators:
        if operator in _DATA_SIZED:
            found = f"it has {operator}"
        elif operator in ("Shape", "Size"):
            found = f"it computes with the number of rows ({operator})"
        elif any(name in whole and _NO_LENGTHS.get(operator) != i for i, name in enumerate(inputs)):
            found = f"its {operator} reads a constant whole number"
        else:
            continue
        return (
            f"{found}, and the older edged-export that made it may have put that in place of a "
            "length that depends on the data; export the model again from its file (--replace)"
        )
    return ""


def _read(data: bytes) -> tuple[list[tuple[str, list[str]]], set[str]]:
    """Each operator with its inputs, and the names of the weights that are whole numbers."""
    operators, whole = list[tuple[str, list[str]]](), set[str]()
    for number, graph in fields(memoryview(data)):
        if number == MODEL_GRAPH and isinstance(graph, memoryview):
            for part, content in fields(graph):
                if part == _GRAPH_NODE and isinstance(content, memoryview):
                    operators.append(_operator(content))
                elif part == GRAPH_INITIALIZER and isinstance(content, memoryview):
                    whole.add(_whole_number(content) or "")
    return operators, whole - {""}


def _operator(data: memoryview) -> tuple[str, list[str]]:
    kind, inputs = "", []
    for number, value in fields(data):
        if number == _NODE_INPUT and isinstance(value, memoryview):
            inputs.append(str(value, "utf-8"))
        elif number == _NODE_TYPE and isinstance(value, memoryview):
            kind = str(value, "utf-8")
    return kind, inputs


def _whole_number(data: memoryview) -> str | None:
    """The name of a weight if its type is one that a length can have."""
    name, kind = "", 0
    for number, value in fields(data):
        if number == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == _TENSOR_NAME and isinstance(value, memoryview):
            name = str(value, "utf-8")
    return name if kind in _WHOLE else None

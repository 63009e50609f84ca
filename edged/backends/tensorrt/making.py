"""Makes one entry: reads a block, types it, judges it, and builds the engine or keeps the weights.

Runs in a process of its own (build.py); tests call it as well. Serving does not need it, nor onnx.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from edged.backends.tensorrt import linear, parity, recipe
from edged.backends.tensorrt.builder import Range, Report, build
from edged.backends.tensorrt.orders import (
    ABOUT,
    PLAN,
    ROWS,
    WEIGHTS,
    About,
    BuildOrder,
    EnginePort,
    HeadShape,
    Parity,
    Precision,
)
from edged.errors import EdgedError, StoreError, Unsupported
from edged.manifest import DataType

_USUAL_ROWS, _USUAL_CLASSES = 8, 100  # that kernels are chosen for

# The types that engines can have at their borders.
_TYPES: dict[int, DataType] = {
    TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.INT64: "INT64",
    TensorProto.INT32: "INT32", TensorProto.INT8: "INT8", TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
}  # fmt: skip


def make_entry(order: BuildOrder, report: Report) -> About:
    """Fill the order's directory. Raises StoreError for a file that is no block, and what
    `builder.build` raises."""
    began_s = time.monotonic()
    if isinstance(order.what, HeadShape):
        model = linear.engine_model(order.what)
        about = About(*_ports(model), "fp32")
        _write_engine(order, model, _head_ranges(order.what, order.max_rows), report)
    else:
        about = _make_block(order, _read(Path(order.what)), report)
    about = msgspec.structs.replace(
        about,
        seconds=round(time.monotonic() - began_s, 3),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
    (Path(order.target) / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(about)))
    return about


def _make_block(order: BuildOrder, model: ModelProto, report: Report) -> About:
    inputs, outputs = _ports(model)
    head = linear.find(model)
    if head is not None:
        data = head.weights.tobytes() + head.biases.tobytes()
        (Path(order.target) / WEIGHTS).write_bytes(data)
        return About(inputs, outputs, "fp32", head.shape)
    ranges = _ranges(inputs, order.max_rows)
    precision, found, fallback = order.precision, None, order.fallback
    if order.precision == "fp16":
        report("comparing FP16 with FP32", 0.0)
        model, precision, found, fallback = _typed(model, inputs, Path(order.target))
    _write_engine(order, model, ranges, report)
    return About(inputs, outputs, precision, None, fallback, found)


def _typed(
    model: ModelProto, inputs: Sequence[EnginePort], folder: Path
) -> tuple[ModelProto, Precision, Parity | None, str]:
    """The graph to build, its precision, the gate's figures, and why it is not FP16.

    Leaves rows in the folder that the engine can be tried with.
    """
    try:
        typed = recipe.typed(model)
    except Unsupported as error:
        return model, "fp32", None, f"recipe: {error}"
    try:
        found, wrong, rows = parity.judge(model, typed, inputs)
    except EdgedError as error:
        return model, "fp32", None, f"parity: {error}"
    if wrong:
        return model, "fp32", found, f"parity: {wrong}"
    np.savez(folder / ROWS, **rows)  # type: ignore[arg-type]
    return typed, "fp16", found, ""


def _write_engine(
    order: BuildOrder, model: ModelProto, ranges: dict[str, Range], report: Report
) -> None:
    trt: Any = importlib.import_module(order.module)
    cache = Path(order.timing_cache)
    known = cache.read_bytes() if cache.is_file() else b""
    data = model.SerializeToString()
    plan, timings = build(trt, data, ranges, order.pools, known, report)
    (Path(order.target) / PLAN).write_bytes(plan)
    if timings and timings != known:
        _keep(cache, timings)


def _keep(cache: Path, timings: bytes) -> None:
    """For the next build, which is slower without: a full disk fails no build."""
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        try:
            temporary.write_bytes(timings)
            temporary.replace(cache)
        finally:
            temporary.unlink(missing_ok=True)


def _read(path: Path) -> ModelProto:
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and onnx's checker have no common one
        text = " ".join(str(error).split())[:300]
        raise StoreError(f"{path.name} is no block ({text}): export its models again") from error
    return model


def _ports(model: ModelProto) -> tuple[tuple[EnginePort, ...], tuple[EnginePort, ...]]:
    """Inputs and outputs. Raises Unsupported for a type that engines cannot have."""
    sides = []
    for side in (model.graph.input, model.graph.output):
        ports = []
        for value in side:
            of = value.type.tensor_type
            if of.elem_type not in _TYPES:
                kind = TensorProto.DataType.Name(of.elem_type)
                raise Unsupported(f"{value.name} is {kind}, which engines cannot have at a border")
            shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in of.shape.dim)
            ports.append(EnginePort(value.name, _TYPES[of.elem_type], shape))
        sides.append(tuple(ports))
    return sides[0], sides[1]


def _ranges(inputs: Sequence[EnginePort], max_rows: int) -> dict[str, Range]:
    """Shapes with 1 to `max_rows` rows. Raises Unsupported where another extent varies."""
    found = {}
    for port in inputs:
        rows, *rest = port.shape
        fixed = tuple(extent for extent in rest if extent is not None)
        if len(fixed) < len(rest):
            raise Unsupported(
                f"{port.name} has extents that vary besides its rows: export the model for one "
                "size of input"
            )
        if rows is None:
            usual = min(_USUAL_ROWS, max_rows)
            found[port.name] = ((1, *fixed), (usual, *fixed), (max_rows, *fixed))
    return found


def _head_ranges(shape: HeadShape, max_rows: int) -> dict[str, Range]:
    features, most = shape.features, shape.most_classes
    rows, classes = min(_USUAL_ROWS, max_rows), _USUAL_CLASSES
    return {
        "x0": ((1, features), (rows, features), (max_rows, features)),
        "w": ((1, features), (classes, features), (most, features)),
        "b": ((1,), (classes,), (most,)),
    }

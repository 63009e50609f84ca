"""Picture files as rows of a model's input, made by the preprocessing that serving uses."""

from __future__ import annotations

from pathlib import Path as File
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from edged.errors import InvalidArgument, NotFound, ResourceExhausted, Unsupported
from edged.manifest import Manifest, Preprocess
from edged.preprocess import DTYPES, check_values, prepare
from export.borders import dims_of
from export.graph import OnnxGraph

ENDINGS = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}

_DATATYPES: dict[int, str] = {TensorProto.FLOAT16: "FP16", TensorProto.UINT8: "UINT8"}


def fitted(spec: Preprocess | None, graph: OnnxGraph) -> Preprocess | None:
    """The preprocessing for the type of a model's only input, and grey if that has one channel."""
    if spec is None or len(graph.inputs) != 1:
        return spec
    (value,) = graph.inputs
    datatype = _DATATYPES.get(value.type.tensor_type.elem_type, "FP32")
    channels = [dim.dim_value for dim in dims_of(value)][-3 if spec.layout == "NCHW" else -1 :][:1]
    color = "GRAY" if channels == [1] and spec.color == "RGB" else spec.color
    return msgspec.structs.replace(spec, datatype=datatype, color=color)


def check_preprocess(manifest: Manifest) -> None:
    """Raise InvalidArgument if the preprocessing makes no sense, or another input."""
    spec = manifest.preprocess
    assert spec is not None
    values = [manifest.value(name) for name in manifest.inputs]
    if [(value.datatype, value.shape) for value in values] != [(spec.datatype, spec.shape)]:
        inputs = ", ".join(f"{v.name} {v.datatype} {list(v.shape)}" for v in values)
        raise InvalidArgument(
            f"the preprocessing makes one {spec.datatype} image of shape {list(spec.shape)}, and "
            f"the model takes {inputs}: mend height, width, color and layout, or leave the "
            "preprocessing out"
        )
    if spec.resize == "letterbox" and (spec.crop != "none" or spec.resize_to is not None):
        raise InvalidArgument(
            "the preprocessing says letterbox, which shows the whole image, and crops it: leave "
            "crop and resize_to out, or choose another resize"
        )
    check_values(spec)


def prepared(file: File, spec: Preprocess) -> npt.NDArray[Any]:
    """The row of an image file. Raises the errors of `prepare`, or NotFound, naming the file."""
    row = np.empty(spec.shape, DTYPES[spec.datatype])
    try:
        prepare(file.read_bytes(), spec, row)
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from error
    except (InvalidArgument, ResourceExhausted, Unsupported) as error:
        raise type(error)(f"{file}: {error}") from error
    return row

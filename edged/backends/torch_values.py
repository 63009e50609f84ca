"""What the torch functions of ONNX operators share: types, constants, and how they refuse.

Knows no operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from torch import Tensor

from edged.errors import StoreError, Unsupported

Attributes: TypeAlias = Mapping[str, Any]
Operator: TypeAlias = Callable[..., Any]

DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
}


def dtype(number: int) -> torch.dtype:
    """The torch type of an ONNX type. Raises Unsupported if torch does not have it."""
    if number not in DTYPES:
        name = onnx.TensorProto.DataType.Name(number)
        raise Unsupported(f"torch has no {name}: use backend onnxruntime")
    return DTYPES[number]


def constant(proto: onnx.TensorProto, folder: Path | None = None) -> Tensor:
    """The tensor of an ONNX constant, in host memory; mapped, if it lies in a file in `folder`.

    Raises StoreError for a file that does not hold it.
    """
    if uses_external_data(proto):
        return _mapped(proto, folder)
    if proto.data_type == onnx.TensorProto.BFLOAT16:
        words = onnx.numpy_helper.to_array(proto).view("int16").copy()
        return torch.from_numpy(words).view(torch.bfloat16)
    dtype(proto.data_type)
    return torch.from_numpy(onnx.numpy_helper.to_array(proto).copy())


def place_of(proto: onnx.TensorProto) -> str:
    """The file in which a constant lies that is not in the model, where in it, and as what."""
    place = ExternalDataInfo(proto)
    return f"{place.location} {place.offset or 0} {proto.data_type}"


def _mapped(proto: onnx.TensorProto, folder: Path | None) -> Tensor:
    """A constant whose bytes are pages of a file. Written to, they would become copies."""
    place, kind = ExternalDataInfo(proto), dtype(proto.data_type)
    shape = tuple(proto.dims)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    path = (folder or Path()) / place.location
    if Path(place.location).is_absolute() or ".." in Path(place.location).parts:
        raise StoreError(f"weight {proto.name} lies outside of the store, in {place.location}")
    if not size:
        return torch.empty(shape, dtype=kind)
    try:
        pages = np.memmap(path, np.uint8, "c", offset=place.offset or 0, shape=(size,))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} does not hold weight {proto.name} ({error}): restore the file, or export its "
            "models again"
        ) from error
    return torch.from_numpy(pages).view(kind).reshape(shape)


def numbers(value: Tensor | Sequence[int] | None) -> list[int]:
    if value is None:
        return []
    return value.reshape(-1).tolist() if isinstance(value, Tensor) else list(value)


def refuse(what: str) -> Unsupported:
    return Unsupported(f"the torch backend has no {what}: use backend onnxruntime")

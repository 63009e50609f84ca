"""What the torch functions of ONNX operators share: types, constants, and how they refuse.

Knows no operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import onnx
import torch
from torch import Tensor

from edged.errors import Unsupported

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


def constant(proto: onnx.TensorProto) -> Tensor:
    """The tensor of an ONNX constant, in host memory."""
    if proto.data_type == onnx.TensorProto.BFLOAT16:
        words = onnx.numpy_helper.to_array(proto).view("int16").copy()
        return torch.from_numpy(words).view(torch.bfloat16)
    dtype(proto.data_type)
    return torch.from_numpy(onnx.numpy_helper.to_array(proto).copy())


def numbers(value: Tensor | Sequence[int] | None) -> list[int]:
    if value is None:
        return []
    return value.reshape(-1).tolist() if isinstance(value, Tensor) else list(value)


def refuse(what: str) -> Unsupported:
    return Unsupported(f"the torch backend has no {what}: use backend onnxruntime")

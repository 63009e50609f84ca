"""Arrays to payload frames and back: the wire's datatypes as little-endian numpy types."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged import wire
from edged.errors import InvalidArgument

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"), "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"), "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
}  # fmt: skip

_DATATYPES: dict[np.dtype[Any], Any] = {dtype: datatype for datatype, dtype in _DTYPES.items()}
_DATATYPES |= {dtype.newbyteorder(">"): datatype for dtype, datatype in _DATATYPES.items()}


def to_wire(name: str, array: NDArray[Any]) -> tuple[wire.InputTensor, memoryview]:
    """Input `name` and its frame, for an array of shape (rows, ...). Raises InvalidArgument.

    The frame is the array's own memory, if that is contiguous and little-endian.
    """
    if not isinstance(array, np.ndarray) or not array.ndim or not array.size:
        raise InvalidArgument(f"input {name!r} is not an array of shape (rows, ...), or is empty")
    datatype = _DATATYPES.get(array.dtype)
    if datatype is None:
        raise InvalidArgument(
            f"input {name!r} is of type {array.dtype}: convert it to one of "
            f"{', '.join(str(dtype) for dtype in _DTYPES.values())}"
        )
    little = np.ascontiguousarray(array, _DTYPES[datatype])
    return wire.InputTensor(name, datatype, array.shape), np.frombuffer(little, np.uint8).data


def from_wire(output: wire.OutputTensor, frame: wire.Buffer) -> NDArray[Any]:
    """The array in a payload frame, read-only and without a copy."""
    array: NDArray[Any] = np.ndarray(output.shape, _DTYPES[output.datatype], frame)
    return array

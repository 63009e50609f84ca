"""Arrays to payload frames and back: datatypes of the wire as numpy types, little-endian."""

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

_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}


def to_wire(name: str, array: NDArray[Any]) -> tuple[wire.InputTensor, memoryview]:
    """Input `name` and its frame, for an array of shape (rows, ...). Raises InvalidArgument.

    The frame is the array's own memory, if that lies in one piece as the wire has it.
    """
    datatype: Any = _DATATYPES.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise InvalidArgument(
            f"input {name!r} is of type {array.dtype}: convert it to one of "
            f"{', '.join(str(dtype) for dtype in _DATATYPES)}"
        )
    little = np.ascontiguousarray(array, _DTYPES[datatype])
    frame = little.reshape(-1).view(np.uint8).data
    return wire.InputTensor(name, datatype, array.shape), frame


def from_wire(output: wire.OutputTensor, frame: wire.Buffer) -> NDArray[Any]:
    """The array in a payload frame, read-only and without a copy."""
    return np.frombuffer(frame, _DTYPES[output.datatype]).reshape(output.shape)

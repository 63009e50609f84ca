"""What the CPU and the CUDA backend of ONNX Runtime share: providers, types, and errors told apart.

The exceptions of onnxruntime have no common base, and only their text says what has happened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import onnxruntime as ort

from edged.backends.base import DeviceLost
from edged.backends.signature import Arg
from edged.cuda.api import OUT_OF_MEMORY, STICKY
from edged.errors import EdgedError, ResourceExhausted, StoreError, Unsupported
from edged.manifest import DataType

_CUDA_FAILURE = re.compile(r"CUDA failure (\d+)")  # core/providers/cuda/cuda_call.cc
_TYPES: dict[str, DataType] = {
    "tensor(bool)": "BOOL", "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32", "tensor(uint64)": "UINT64", "tensor(int8)": "INT8",
    "tensor(int16)": "INT16", "tensor(int32)": "INT32", "tensor(int64)": "INT64",
    "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
}  # fmt: skip


def check_provider(provider: str, session: Any = None) -> None:
    """Raises Unsupported if this build does not have the provider, or the session not use it."""
    available = ort.get_available_providers()
    if provider not in available:
        raise Unsupported(
            f"this build of onnxruntime has no {provider}, only {', '.join(available)}: install a "
            "build for this device, or set provider = cpu"
        )
    used = session.get_providers() if session is not None else [provider]
    if used[0] != provider:
        raise Unsupported(
            f"onnxruntime uses {used[0]} where {provider} was asked for: its libraries do not fit "
            "this device; look at its log, or set provider = cpu"
        )


def args_of(args: Sequence[Any]) -> list[Arg]:
    """The inputs or outputs of a session."""
    return [
        Arg(
            arg.name,
            _TYPES.get(arg.type),
            tuple(extent if isinstance(extent, int) else None for extent in arg.shape),
        )
        for arg in args
    ]


def of_load(block: str, error: Exception) -> EdgedError:
    """The error of a load that failed."""
    if is_of_memory(error):
        return ResourceExhausted(f"no memory to load block {block[:12]}")
    if is_lost(error):
        return DeviceLost(f"loading block {block[:12]} failed: {line(error)}")
    return StoreError(
        f"block {block[:12]} does not load in onnxruntime ({line(error)}): export its models again"
    )


def of_run(block: str, error: Exception) -> EdgedError:
    """The error of a run that failed."""
    if isinstance(error, EdgedError):
        return error
    if is_of_memory(error):
        return ResourceExhausted(f"no memory to run block {block[:12]}: {line(error)}")
    text = f"block {block[:12]} failed: {line(error)}"
    return DeviceLost(text) if is_lost(error) else EdgedError(text)


def is_of_memory(error: Exception) -> bool:
    """Whether onnxruntime ran out of memory."""
    text = str(error)
    told = "allocate memory" in text or "bad_alloc" in text or _cuda_error(text) == OUT_OF_MEMORY
    return told or isinstance(error, MemoryError)


def is_lost(error: Exception) -> bool:
    """Whether CUDA refuses all later calls of this process."""
    return _cuda_error(str(error)) in STICKY


def line(error: Exception) -> str:
    """The message of an error, on one line and cut to 300 characters."""
    return " ".join(str(error).split())[:300]


def _cuda_error(text: str) -> int | None:
    """The cudaError in a message, "CUDA failure 700: an illegal .."."""
    found = _CUDA_FAILURE.search(text)
    return int(found[1]) if found else None

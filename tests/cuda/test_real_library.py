"""CUDA's own library and headers, as they come from NVIDIA's wheel, on a machine without a GPU."""

from __future__ import annotations

import ctypes
import re
from ctypes import POINTER, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from edged.cuda.runtime import PROTOTYPES, CudaRuntime
from edged.errors import Unsupported

_found = find_spec("nvidia.cuda_runtime") if find_spec("nvidia") else None
WHEEL = Path(next(iter(_found.submodule_search_locations))) if _found is not None else None  # type: ignore[arg-type]
pytestmark = pytest.mark.skipif(
    WHEEL is None, reason="nvidia-cuda-runtime-cu12 is not installed: pip install '.[dev]'"
)
HANDLES = {"cudaStream_t", "cudaEvent_t", "cudaGraph_t", "cudaGraphExec_t"}
TYPES: dict[str, Any] = {
    "int": c_int, "int*": POINTER(c_int), "unsigned int": c_uint, "size_t": c_size_t,
    "size_t*": POINTER(c_size_t), "unsigned long long": c_ulonglong, "float*": POINTER(c_float),
    "handle": c_void_p, "handle*": POINTER(c_void_p), "void*": c_void_p,
    "void**": POINTER(c_void_p), "cudaDeviceProp*": c_void_p,
}  # fmt: skip


def c_type(parameter: str) -> Any:
    """Of a parameter as the header has it: `const void *src`, `unsigned int flags __dv(0)`."""
    text = re.sub(r"__dv\(.*?\)|\bconst\b|\bstruct\b", "", parameter).strip()
    found = re.fullmatch(r"(.*?)\s*(\**)\s*\w+", text)
    assert found is not None, parameter
    name, stars = found.group(1).strip(), found.group(2)
    if name.startswith("enum "):
        name = "int"
    return TYPES[("handle" if name in HANDLES else name) + stars]


def test_each_call_has_the_types_of_the_header() -> None:
    assert WHEEL is not None
    header = (WHEEL / "include" / "cuda_runtime_api.h").read_text()
    for name, takes in PROTOTYPES.items():
        found = re.search(rf"cudaError_t CUDARTAPI {name}\(([^;]*)\);", header)
        assert found is not None, name
        parameters = re.split(r",(?![^(]*\))", found.group(1))
        assert tuple(map(c_type, parameters)) == takes, name


def library() -> ctypes.CDLL:
    assert WHEEL is not None
    return ctypes.CDLL(str(WHEEL / "lib" / "libcudart.so.12"))


def test_the_library_has_each_call() -> None:
    found = library()
    assert [name for name in PROTOTYPES if not hasattr(found, name)] == []


@pytest.mark.skipif(find_library("cuda") is not None, reason="this machine has NVIDIA's driver")
def test_without_a_driver_it_says_so() -> None:
    with pytest.raises(Unsupported, match=r"cannot be used: .* error 35\); install NVIDIA"):
        CudaRuntime(library=library())

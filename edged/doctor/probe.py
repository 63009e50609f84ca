"""A process that tries driver, CUDA runtime and TensorRT, says what came of it, and ends.

It runs apart, since a driver that does not fit may end the process that opens it. What it prints is
one JSON object, a `Probe`.
"""

from __future__ import annotations

import ctypes
import sys

import msgspec

from edged.typeinfo import describe

_RUNTIMES = ("libcudart.so.13", "libcudart.so.12")


class Probe(msgspec.Struct, frozen=True, omit_defaults=True):
    """None: not tried, since what it needs is not there."""

    driver: bool = False  # libcuda.so.1 can be opened
    cu_init: int | None = None  # what cuInit answers; 0: good
    driver_cuda: str | None = None  # the newest CUDA that the driver serves, as 12.6
    gpus: int | None = None
    gpu: str | None = None  # the name of the first
    compute_capability: str | None = None
    runtime: str | None = None  # the library
    runtime_cuda: str | None = None
    runtime_error: int | None = None  # what cudaGetDeviceCount answers; 0: good
    tensorrt: str | None = None
    tensorrt_error: str | None = None  # why it cannot be imported; None with tensorrt None: absent


def probe() -> Probe:
    """Try everything. Only the libraries themselves can end the process."""
    found: dict[str, object] = {}
    _driver(found)
    _runtime(found)
    _tensorrt(found)
    return msgspec.convert(found, Probe)


def _driver(found: dict[str, object]) -> None:
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    found |= {"driver": True, "cu_init": cuda.cuInit(0)}
    number = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(number)) == 0:
        found["driver_cuda"] = _version(number.value)
    if found["cu_init"] != 0 or cuda.cuDeviceGetCount(ctypes.byref(number)) != 0:
        return
    found["gpus"] = number.value
    if not number.value:
        return
    device = ctypes.c_int()
    if cuda.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return
    name, major, minor = ctypes.create_string_buffer(128), ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGetName(name, len(name), device) == 0:
        found["gpu"] = name.value.decode(errors="replace")
    errors = [
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        for value, attribute in ((major, _MAJOR), (minor, _MINOR))
    ]
    if not any(errors):
        found["compute_capability"] = f"{major.value}.{minor.value}"


_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h


def _runtime(found: dict[str, object]) -> None:
    for library in _RUNTIMES:
        try:
            runtime = ctypes.CDLL(library)
        except OSError:
            continue
        number = ctypes.c_int()
        if runtime.cudaRuntimeGetVersion(ctypes.byref(number)) == 0:
            found["runtime_cuda"] = _version(number.value)
        found |= {
            "runtime": library,
            "runtime_error": runtime.cudaGetDeviceCount(ctypes.byref(number)),
        }
        return


def _tensorrt(found: dict[str, object]) -> None:
    try:
        import tensorrt  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            found["tensorrt_error"] = str(error)
    except Exception as error:  # a library of another version fails in any way
        found["tensorrt_error"] = str(error) or type(error).__name__
    else:
        found["tensorrt"] = str(tensorrt.__version__)


def _version(number: int) -> str:
    """The version in CUDA's number of it: 12060 is 12.6."""
    return f"{number // 1000}.{number % 1000 // 10}"


describe(Probe)


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(probe()).decode())

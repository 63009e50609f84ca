"""The options that `device.options` may set for each backend.

A backend's own module takes its options from here. Knows no runtimes, so every process may import
it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edged import profiles
from edged.bounds import BytesOrNone, Rows, Seconds, Threads, explained
from edged.errors import ConfigError, Unsupported
from edged.profiles.form import BlockProfile, check_block
from edged.typeinfo import describe

Name: TypeAlias = Literal[
    "auto", "onnxruntime", "torch", "tensorrt", "emulated", "emulated-cuda", "fake"
]
_DeviceId: TypeAlias = Annotated[int, Meta(ge=0, le=255)]
_Microseconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e9)]
_Count: TypeAlias = Annotated[int, Meta(ge=1, le=2**31)]
_Speed: TypeAlias = Annotated[float, Meta(ge=1e-6, le=1e12)]


class AutoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None: the machine decides. Name a backend to give it options."""


class OnnxRuntimeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    provider: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    lanes: Threads = 0  # batches side by side; 0: one for each thread on the CPU, one on a GPU
    pack: bool = False  # store weights in the CPU's own order: faster runs, slower loads
    device_id: _DeviceId = 0  # number of the GPU
    provider_options: dict[str, Any] = {}  # passed to ONNX Runtime unchanged


class TorchOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    device: Literal["cpu", "cuda"] = "cpu"
    device_id: _DeviceId = 0  # number of the GPU
    # Products and convolutions. tf32 rounds factors to 10 bits, on GPUs that can; fp16 takes half
    # the memory and, on a GPU, far less time. Sums and norms are float32 whatever this says.
    precision: Literal["fp32", "tf32", "fp16"] = "fp32"
    graphs: bool = True  # replay repeated runs as CUDA graphs on a GPU


class TensorRtOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    precision: Literal["fp16", "fp32"] = "fp16"  # fp16 where it is as good: docs/tensorrt.md
    max_rows: Annotated[int, Meta(ge=1, le=1024)] = (
        16  # rows of one run; larger batches run in parts
    )
    device_id: _DeviceId = 0  # number of the GPU
    build_timeout_s: Seconds = 1800.0  # time to build the engine of one block
    arena_bytes: BytesOrNone = 0  # device memory besides engines; 0: an eighth of what is free


class EmulatedOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The times and sizes of blocks on an emulated device.

    A key of `blocks` is a block id, the beginning of one, or `*` for all others. A value is a
    block's figures, or the name that they have in `profile`. Blocks that are in the profile need no
    entry.
    """

    profile: str | None = None  # a file.json, or the name of one that ships with edged
    blocks: dict[str, BlockProfile | str] = {}
    device: str | None = None  # None takes the name in the profile
    load_bytes_per_ms: _Speed | None = None  # speed if a block has no load time; None: no time
    speed: _Speed = 1.0  # 2.0 halves all times


class EmulatedCudaOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An emulated CUDA device, and its faults. Its calls and kernels are counted from 1."""

    personality: Literal["discrete", "unified"] = "discrete"
    memory_bytes: _Count = 256 << 20  # the device's
    fail_at: _Count | None = None  # number of the call that fails
    fail_number: _Count = 700  # with this cudaError, after which the device is lost, or not
    hang_at: _Count | None = None  # number of the kernel that never ends


class FakeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Durations and faults. An `.._on` fault is of runs with a row that begins with its value."""

    run_us: _Microseconds = 0.0  # time of each run of a block
    row_us: _Microseconds = 0.0  # further time of each row
    fail_on: float | None = None  # the run fails
    hang_on: float | None = None  # the run never ends
    die_on: float | None = None  # the process ends
    lose_on: float | None = None  # the run fails and says that the device is lost
    fail_on_load: _Count | None = None  # number of the one load that fails
    fail_every_load: _Count | None = None  # every n-th load fails
    load_bytes_per_ms: _Speed | None = None  # None: loading takes no time
    max_rows: Rows | None = None  # most rows of one run of each block


Options: TypeAlias = (
    AutoOptions
    | OnnxRuntimeOptions
    | TorchOptions
    | TensorRtOptions
    | EmulatedOptions
    | EmulatedCudaOptions
    | FakeOptions
)

_TYPES: dict[str, type[Options]] = {
    "auto": AutoOptions,
    "onnxruntime": OnnxRuntimeOptions,
    "torch": TorchOptions,
    "tensorrt": TensorRtOptions,
    "emulated": EmulatedOptions,
    "emulated-cuda": EmulatedCudaOptions,
    "fake": FakeOptions,
}
_NEEDS = {
    "onnxruntime": ("onnxruntime",),
    "torch": ("torch", "onnx"),
    "tensorrt": ("tensorrt",),
    "emulated-cuda": ("onnxruntime",),
}
_HOW = {
    "tensorrt": "on a Jetson apt install tensorrt python3-libnvinfer, and make edged's environment "
    "with --system-site-packages"
}


def parse(backend: str, options: Mapping[str, Any]) -> Options:
    """The options of a backend. Raises ConfigError that names the option."""
    try:
        checked = msgspec.convert(options, _TYPES[backend])
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"device.options of backend {backend}: {explained(error, _TYPES[backend])}"
        ) from error
    if isinstance(checked, OnnxRuntimeOptions) and checked.lanes > 1 and checked.provider != "cpu":
        raise ConfigError(
            f"device.options of backend {backend}: lanes = {checked.lanes} with provider "
            f"{checked.provider}: it must be 0 (automatic) or 1 on a GPU"
        )
    return checked


def check_installed(backend: str) -> None:
    """Raises Unsupported if a package that the backend needs is not there; imports none."""
    for package in _NEEDS.get(backend, ()):
        if importlib.util.find_spec(package) is None:
            how = _HOW.get(package, "install it")
            raise Unsupported(
                f"backend {backend} needs {package}, which is not installed: {how}, or choose "
                "another backend"
            )


def figures(options: EmulatedOptions) -> dict[str, BlockProfile]:
    """The figures of each block by its id, the beginning of one, or `*`. Raises ConfigError."""
    profile = profiles.read(options.profile) if options.profile is not None else None
    found = dict(profile.blocks) if profile is not None else {}
    for key, value in options.blocks.items():
        if isinstance(value, str):
            if profile is None or value not in profile.blocks:
                raise ConfigError(f"blocks.{key}: the profile has no block called {value!r}")
            value = profile.blocks[value]
        check_block(value, f"blocks.{key}")
        found[key] = value
    return found


describe(
    AutoOptions,
    FakeOptions,
    EmulatedOptions,
    EmulatedCudaOptions,
    OnnxRuntimeOptions,
    TensorRtOptions,
    TorchOptions,
)

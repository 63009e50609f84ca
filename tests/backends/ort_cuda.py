"""onnxruntime-gpu without a GPU: its sessions compute on the CPU, in an emulated device's memory.

Calls are held to the signatures of the onnxruntime that is installed, whose Python code is that of
onnxruntime-gpu, and options to the names and values that its CUDA provider has.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from edged.backends.ort_cuda import OnnxRuntimeCuda
from edged.cuda.api import Stream
from edged.cuda.emulated import EmulatedCuda
from edged.cuda.order import Span
from edged.cuda.personality import PERSONALITIES, Faults
from edged.options import OnnxRuntimeOptions

# All options of the CUDA provider of onnxruntime-gpu 1.31.1 but for allocators, with the values
# that it takes: a number, or one of these. The provider itself has parsed them, on libraries of
# functions that do nothing; so it was with the errors below, and with bindings to addresses.
OPTIONS: Mapping[str, type | tuple[str, ...]] = {
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
    "cudnn_conv1d_pad_to_nc1d": ("0", "1"),
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "cudnn_conv_use_max_workspace": ("0", "1"),
    "device_id": int,
    "do_copy_in_default_stream": ("0", "1"),
    "enable_cudnn": ("0", "1"),
    "external_data_loader_reading_threads": int,
    "enable_cuda_graph": ("0", "1"),
    "enable_skip_layer_norm_strict_mode": ("0", "1"),
    "fuse_conv_bias": ("0", "1"),
    "gpu_mem_limit": int,
    "has_user_compute_stream": ("0", "1"),
    "prefer_nhwc": ("0", "1"),
    "sdpa_kernel": int,
    "tunable_op_enable": ("0", "1"),
    "tunable_op_max_tuning_duration_ms": int,
    "tunable_op_tuning_enable": ("0", "1"),
    "use_ep_level_unified_stream": ("0", "1"),
    "use_tf32": ("0", "1"),
    "user_compute_stream": int,
}
_Session, _Binding = ort.InferenceSession, ort.IOBinding  # before they are replaced


def check_options(given: Mapping[str, str]) -> None:
    """As the CUDA provider does when a session is made."""
    for name, value in given.items():
        if name not in OPTIONS:
            raise RuntimeError(f'Unknown provider option: "{name}"')
        allowed = OPTIONS[name]
        if value not in allowed if isinstance(allowed, tuple) else not value.isdigit():
            raise RuntimeError(
                f'Failed to parse provider option "{name}": Failed to map enum name to value: '
                f"{value}"
            )


class _Bound:
    def __init__(self) -> None:
        self.inputs: list[tuple[Any, ...]] = []
        self.outputs: list[tuple[Any, ...]] = []

    def bind_input(self, *args: Any) -> None:
        inspect.signature(_Binding.bind_input).bind(self, *args)
        self.inputs.append(args)

    def bind_output(self, *args: Any) -> None:
        inspect.signature(_Binding.bind_output).bind(self, *args)
        self.outputs.append(args)


class _CudaSession:
    """A session whose blocks run on the emulated device's stream."""

    def __init__(self, cuda: EmulatedCuda, path: str, options: Any, **kwargs: Any) -> None:
        inspect.signature(_Session.__init__).bind(self, path, options, **kwargs)
        ((provider, settings),) = kwargs["providers"]
        assert provider == "CUDAExecutionProvider"
        check_options(settings)
        self._stream = Stream(int(settings["user_compute_stream"]))
        self._cuda = cuda
        self._session = _Session(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_inputs(self) -> Sequence[Any]:
        return self._session.get_inputs()

    def get_outputs(self) -> Sequence[Any]:
        return self._session.get_outputs()

    def io_binding(self) -> _Bound:
        return _Bound()

    def run_with_iobinding(self, bound: _Bound, run_options: ort.RunOptions) -> None:
        entry = run_options.get_run_config_entry("disable_synchronize_execution_providers")
        assert entry == "1", "each block would be waited for"
        spans = [[_span(args) for args in some] for some in (bound.inputs, bound.outputs)]
        work = functools.partial(self._compute, bound)
        self._cuda.run(self._stream, "a block", work, *spans)

    def _compute(self, bound: _Bound) -> None:
        feeds = {args[0]: self._array(args) for args in bound.inputs}
        names = [args[0] for args in bound.outputs]
        for args, found in zip(bound.outputs, self._session.run(names, feeds), strict=True):
            self._array(args)[:] = found

    def _array(self, args: tuple[Any, ...]) -> np.ndarray[Any, Any]:
        _, device, number, kind, shape, address = args
        assert (device, number) == ("cuda", 0)
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        return self._cuda.bytes_at(address, size).view(kind).reshape(shape)


def _span(args: tuple[Any, ...]) -> Span:
    return Span(args[5], int(np.prod(args[4])) * np.dtype(args[3]).itemsize)


def make(
    monkeypatch: pytest.MonkeyPatch,
    personality: str = "discrete",
    faults: Faults | None = None,
    **options: Any,
) -> OnnxRuntimeCuda:
    """The backend on an emulated device, with a build of onnxruntime that has the provider."""
    cuda = EmulatedCuda(
        PERSONALITIES[personality], faults=faults or Faults(), memory_bytes=64 << 20
    )
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
    monkeypatch.setattr(ort, "InferenceSession", functools.partial(_CudaSession, cuda))
    return OnnxRuntimeCuda(OnnxRuntimeOptions(provider="cuda", **options), cuda)

"""The fake runs: ONNX Runtime computes, on the memory of an emulated CUDA device.

A run reads its inputs and writes its outputs when its turn in the stream comes, and the device
checks that nothing else may be at these bytes then, scratch included. With `drift` in FAKE_TENSORRT
engines in FP16 compute wrong.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from edged.backends.base import DeviceLost
from edged.cuda.api import CudaError
from edged.cuda.order import Span
from edged.errors import EdgedError
from tests.backends.fake_tensorrt.building import MAGIC, TYPES
from tests.backends.fake_tensorrt.recorded import make

NUMPY = {
    "FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32,
    "INT8": np.int8, "UINT8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
SCRATCH_BYTES = 4096


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        data, trt = bytes(serialized_engine), self._trt
        head, _, model = data.removeprefix(MAGIC).partition(b"\n")
        about = json.loads(head) if data.startswith(MAGIC) else {}
        if about.get("version") != trt.__version__:
            text = "The engine plan file is not compatible with this version of TensorRT"
            self._logger.log(trt.ILogger.Severity.ERROR, text)
            return None
        address = trt._cuda.allocate(len(data))
        engine = make(trt, "ICudaEngine", _logger=self._logger, **_read(model, about["shapes"]))
        weakref.finalize(engine, _free, trt._cuda, address)
        return engine


def _free(cuda: Any, address: int) -> None:
    with contextlib.suppress(EdgedError):  # the device may be lost
        cuda.free(address)


def _read(model: bytes, shapes: Mapping[str, Any]) -> dict[str, Any]:
    graph = onnx.load_from_string(model).graph
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    tensors = [
        (value.name, mode, TYPES[value.type.tensor_type.elem_type], tuple(
            -1 if dim.dim_param else dim.dim_value for dim in value.type.tensor_type.shape.dim
        ))
        for mode, side in (("INPUT", graph.input), ("OUTPUT", graph.output))
        for value in side
    ]  # fmt: skip
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    is_half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
    return {"_tensors": tensors, "_session": session, "_shapes": shapes, "_is_half": is_half}


class ICudaEngine:
    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def device_memory_size_v2(self) -> int:
        return SCRATCH_BYTES

    def get_tensor_name(self, index: Any) -> str:
        return str(self._tensors[index][0])

    def get_tensor_mode(self, name: str) -> Any:
        return getattr(self._trt.TensorIOMode, self._of(name)[1])

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._trt.DataType, self._of(name)[2])

    def get_tensor_shape(self, name: str) -> Any:
        return self._of(name)[3]

    def get_tensor_location(self, name: str) -> Any:
        return self._trt.TensorLocation.DEVICE

    def _of(self, name: str) -> tuple[Any, ...]:
        return next(tensor for tensor in self._tensors if tensor[0] == name)

    def create_execution_context(self, strategy: Any = None) -> Any:
        return make(
            self._trt, "IExecutionContext", _engine=self, _strategy=strategy, _extents={},
            _addresses={}, _scratch=None,
        )  # fmt: skip


class IExecutionContext:
    def set_input_shape(self, name: str, shape: Any) -> bool:
        *_, built = self._engine._of(name)
        fits = len(shape) == len(built) and all(
            extent == wanted for extent, wanted in zip(shape, built, strict=True) if wanted >= 0
        )
        if name in self._engine._shapes:
            least, _, most = self._engine._shapes[name]
            fits &= all(low <= n <= high for low, n, high in zip(least, shape, most, strict=True))
        if not fits:
            return self._fail(f"IExecutionContext::setInputShape: {name} {shape} is out of range")
        self._extents[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: Any) -> bool:
        self._addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        inputs = [tensor for tensor in self._engine._tensors if tensor[1] == "INPUT"]
        return [name for name, *_ in inputs if name not in self._extents]

    def set_device_memory(self, memory: Any, size: Any) -> None:
        self._scratch = Span(memory, size)

    def execute_async_v3(self, stream_handle: Any) -> bool:
        trt, engine = self._trt, self._engine
        if self._strategy.name != "USER_MANAGED" or self._scratch is None:
            return self._fail("the context has no device memory")
        if self._scratch.size < SCRATCH_BYTES:
            return self._fail(f"{self._scratch.size} bytes of device memory are too few")
        if missing := [t[0] for t in engine._tensors if not self._addresses.get(t[0])]:
            return self._fail(f"address of {missing[0]} is not set")
        places = [
            (name, mode, Span(self._addresses[name], 0), NUMPY[kind], self._shape(name, shape))
            for name, mode, kind, shape in engine._tensors
        ]
        spans = {
            name: Span(at.start, math.prod(shape) * np.dtype(kind).itemsize)
            for name, _, at, kind, shape in places
        }
        reads = [spans[name] for name, mode, *_ in places if mode == "INPUT"]
        writes = [spans[name] for name, mode, *_ in places if mode == "OUTPUT"]
        work = partial(_compute, trt._cuda, engine, places, spans)
        try:
            trt._cuda.run(stream_handle, "an engine", work, reads, [*writes, self._scratch])
        except (CudaError, DeviceLost) as error:
            return self._fail(f"Cuda failure: {error}")
        return True

    def _shape(self, name: str, built: Sequence[int]) -> tuple[int, ...]:
        """Of a tensor in this run. Extents with the same place in x0 and y0 are the rows, and the
        classes of a head are those of its weights."""
        if name in self._extents:
            return tuple(self._extents[name])
        rows = next(iter(self._extents.values()))[0]
        others = [self._extents["w"][0] if "w" in self._extents else -1]
        free = iter([rows, *others])
        return tuple(next(free) if extent < 0 else extent for extent in built)

    def _fail(self, text: str) -> bool:
        self._engine._logger.log(self._trt.ILogger.Severity.ERROR, text)
        return False


def _compute(
    cuda: Any, engine: Any, places: Sequence[tuple[Any, ...]], spans: Mapping[str, Span]
) -> None:
    arrays = {
        name: cuda.bytes_at(*spans[name]).view(kind).reshape(shape)
        for name, _, _, kind, shape in places
    }
    outputs = [name for name, mode, *_ in places if mode == "OUTPUT"]
    feeds = {name: arrays[name].copy() for name, mode, *_ in places if mode == "INPUT"}
    drifts = "drift" in os.environ.get("FAKE_TENSORRT", "") and engine._is_half
    for name, found in zip(outputs, engine._session.run(outputs, feeds), strict=True):
        arrays[name][...] = found + np.abs(found).max() if drifts else found


BEHAVIOURS = {kind.__name__: kind for kind in (ICudaEngine, IExecutionContext, Runtime)}

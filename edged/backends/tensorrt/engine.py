"""One engine: a plan that was read, its context, and how it is run. For TensorRT 10.3 to 11.4.

The context has no memory of its own: whoever runs it lends scratch, which all engines share. All
tensors are bound anew for each run, so nothing of the one before is left. Knows no blocks.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edged.backends.base import DeviceLost
from edged.backends.signature import Arg
from edged.backends.tensorrt.log import Lines, logger
from edged.cuda.api import Address, Cuda, Stream
from edged.errors import EdgedError, Unsupported
from edged.manifest import DataType

# Names of TensorRT's DataType, and ours; all versions have these.
_TYPES: dict[str, DataType] = {
    "FLOAT": "FP32", "HALF": "FP16", "INT64": "INT64", "INT32": "INT32", "INT8": "INT8",
    "UINT8": "UINT8", "BOOL": "BOOL",
}  # fmt: skip


class Binding(NamedTuple):
    """Where a tensor is, and its extents; the first one is the number of rows, if it has rows."""

    address: Address
    shape: tuple[int, ...]


class PlanRefused(EdgedError):
    """TensorRT does not take the plan: it is damaged, or of another version or device."""


class Runtime:
    """What reads plans. One for each process and device."""

    def __init__(self, trt: Any, cuda: Cuda) -> None:
        self.trt = trt
        self.cuda = cuda
        self.lines = Lines()
        self.types = {getattr(trt.DataType, name): ours for name, ours in _TYPES.items()}
        self._logger = logger(trt, self.lines)
        self._runtime = trt.Runtime(self._logger)

    def read(self, path: Path) -> LoadedEngine:
        """The engine of a plan. Raises PlanRefused, and OSError where there is no file."""
        self.cuda.use()
        self.lines.clear()
        if not path.stat().st_size:
            raise PlanRefused("it is empty")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise PlanRefused(self.lines.last("TensorRT gives no reason"))
        return LoadedEngine(self, engine)


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    is_input: bool


class LoadedEngine:
    """One thread at a time runs it."""

    def __init__(self, runtime: Runtime, engine: Any) -> None:
        trt = runtime.trt
        self._runtime = runtime
        self._engine = engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._tensors = [
            _Tensor(name, engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT) for name in names
        ]
        for name in names:
            if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
                raise Unsupported(
                    f"{name} decides shapes, so TensorRT wants it in host memory: export the model "
                    "with fixed shapes"
                )
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._context = engine.create_execution_context(strategy)
        if self._context is None:
            raise EdgedError(f"no context for an engine: {runtime.lines.last('no reason given')}")
        self.scratch_bytes = int(engine.device_memory_size_v2)  # the most of all its shapes

    def args(self, *, inputs: bool) -> Sequence[Arg]:
        """What the plan says of its inputs or outputs, by their names."""
        engine, types = self._engine, self._runtime.types
        found = []
        for tensor in self._tensors:
            if tensor.is_input == inputs:
                shape = tuple(engine.get_tensor_shape(tensor.name))
                extents = tuple(None if extent < 0 else int(extent) for extent in shape)
                found.append(
                    Arg(tensor.name, types.get(engine.get_tensor_dtype(tensor.name)), extents)
                )
        return sorted(found, key=lambda arg: (len(arg.name), arg.name))

    def enqueue(
        self, places: Mapping[str, Binding], scratch: Address, scratch_bytes: int, stream: Stream
    ) -> None:
        """Begin to compute. Raises EdgedError with TensorRT's reason, and DeviceLost."""
        context = self._context
        self._runtime.lines.clear()
        for tensor in self._tensors:
            place = places[tensor.name]
            if tensor.is_input and not context.set_input_shape(tensor.name, place.shape):
                raise self._failure(f"{tensor.name} cannot be {list(place.shape)}")
            if not context.set_tensor_address(tensor.name, place.address):
                raise self._failure(f"{tensor.name} cannot be at {place.address:#x}")
        if missing := context.infer_shapes():
            raise self._failure(f"shapes of {', '.join(missing)} are missing")
        context.set_device_memory(scratch, scratch_bytes)
        if not context.execute_async_v3(stream):
            raise self._failure("it was not begun")

    def close(self) -> None:
        """Free context and engine. Nothing may be running."""
        self._context = self._engine = None

    def _failure(self, what: str) -> EdgedError:
        """The error to raise; DeviceLost if the device refuses everything by now."""
        text = f"{what}: {self._runtime.lines.last('TensorRT gives no reason')}"
        try:
            self._runtime.cuda.free_bytes()
        except DeviceLost as error:
            return DeviceLost(f"{text}; {error}")
        return EdgedError(text)

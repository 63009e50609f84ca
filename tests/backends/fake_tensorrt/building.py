"""The fake builds: plans are the ONNX model itself, with the shapes that it was built for.

FAKE_TENSORRT, a JSON object in the environment, asks for faults, so that processes can be told:
`fault` none (the build fails), die, hang, wait (until it is cancelled), unless it `below` so many
bytes of workspace succeeds; `count` names a file that gets a line for each build.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from typing import Any

import onnx
import onnxruntime as ort

from tests.backends.fake_tensorrt.recorded import make

MAGIC = b"FAKE PLAN\n"
STEPS = 5

TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.INT64: "INT64", onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT8: "INT8", onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.BOOL: "BOOL",
}  # fmt: skip


class ILogger:
    pass


class IProgressMonitor:
    pass


class IHostMemory(bytes):
    nbytes = property(len)


class Builder:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: Any = 0) -> Any:
        strong = 1 << int(self._trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return make(self._trt, "INetworkDefinition", _strong=bool(int(flags) & strong))

    def create_builder_config(self) -> Any:
        return make(self._trt, "IBuilderConfig", _pools={}, _profiles=[], _cache=b"", _off=set())

    def create_optimization_profile(self) -> Any:
        return make(self._trt, "IOptimizationProfile", _shapes={})

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        fault = json.loads(os.environ.get("FAKE_TENSORRT", "{}"))
        if "count" in fault:
            with open(fault["count"], "a") as file:
                file.write("build\n")
        wrong = _wrong(network, config)
        workspace = next((n for pool, n in config._pools.items() if pool.name == "WORKSPACE"), 0)
        if workspace > fault.get("below", 0):
            wrong = _happen(fault, config.progress_monitor) or wrong
        if wrong:
            self._say("ERROR", wrong)
            return None
        if not _follow(config.progress_monitor):
            self._say("ERROR", "Build canceled by user")
            return None
        config._cache += b"."
        shapes = config._profiles[0]._shapes if config._profiles else {}
        head = {"version": self._trt.__version__, "shapes": shapes}
        data = MAGIC + json.dumps(head).encode() + b"\n" + network._model
        return make(self._trt, "IHostMemory", data)

    def _say(self, severity: str, text: str) -> None:
        self._logger.log(getattr(self._trt.ILogger.Severity, severity), text)


def _wrong(network: Any, config: Any) -> str:
    if not network._strong:
        return "the network is not strongly typed"
    if not config._profiles and any(-1 in tensor.shape for tensor in network._inputs):
        return "Network has dynamic or shape inputs, but no optimization profile has been defined."
    for tensor in network._inputs:
        if -1 in tensor.shape and tensor.name not in config._profiles[0]._shapes:
            return f"Dynamic dimension in {tensor.name}, but no shapes in the profile"
    return ""


def _happen(fault: dict[str, Any], monitor: Any) -> str:
    kind = fault.get("fault")
    while kind == "wait" and monitor.step_complete("Tactics", 0):
        time.sleep(0.02)
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        threading.Event().wait()
    return "Requested amount of GPU memory could not be allocated" if kind == "none" else ""


def _follow(monitor: Any) -> bool:
    """Tell the monitor of two phases; whether it lets the build go on."""
    if monitor is None:
        return True
    monitor.phase_start("Building Engine", None, 2)
    monitor.phase_start("Tactics", "Building Engine", STEPS)
    for step in range(STEPS):
        if not monitor.step_complete("Tactics", step):
            return False
    monitor.phase_finish("Tactics")
    goes_on = all(monitor.step_complete("Building Engine", step) for step in range(2))
    monitor.phase_finish("Building Engine")
    return goes_on


class INetworkDefinition:
    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]


class ITensor:
    pass


class OnnxParser:
    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._errors = network, []

    def parse(self, model: Any, path: Any = None) -> bool:
        data = bytes(model)
        try:
            graph = onnx.load_from_string(data).graph
            options = ort.SessionOptions()
            options.log_severity_level = 4
            ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of protobuf and of onnxruntime
            text = " ".join(str(error).split())
            self._errors.append(make(self._network._trt, "ParserError", _text=text))
            return False
        self._network._model = data
        self._network._inputs = [self._tensor(value) for value in graph.input]
        return True

    def _tensor(self, value: onnx.ValueInfoProto) -> Any:
        trt, of = self._network._trt, value.type.tensor_type
        shape = tuple(-1 if dim.dim_param else dim.dim_value for dim in of.shape.dim)
        kind = getattr(trt.DataType, TYPES[of.elem_type])
        return make(trt, "ITensor", _name=value.name, _dtype=kind, _shape=shape)

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]


class ParserError:
    def node_operator(self) -> str:
        return "Model"

    def desc(self) -> str:
        return str(self._text)


class IOptimizationProfile:
    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))


class IBuilderConfig:
    def set_memory_pool_limit(self, pool: Any, pool_size: Any) -> None:
        self._pools[pool] = int(pool_size)

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def clear_flag(self, flag: Any) -> None:
        self._off.add(flag)

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        return make(self._trt, "ITimingCache", _data=bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if b"damaged" in cache._data:
            return False
        self._cache = cache._data
        return True

    def get_timing_cache(self) -> Any:
        return make(self._trt, "ITimingCache", _data=self._cache)


class ITimingCache:
    def serialize(self) -> Any:
        return make(self._trt, "IHostMemory", self._data)


BEHAVIOURS = {
    kind.__name__: kind
    for kind in (
        Builder, IBuilderConfig, IHostMemory, ILogger, INetworkDefinition, IOptimizationProfile,
        IProgressMonitor, ITensor, ITimingCache, OnnxParser, ParserError,
    )
}  # fmt: skip

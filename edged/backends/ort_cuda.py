"""ONNX Runtime with its CUDA provider: blocks read and write the device's memory, on our stream.

Rows at the borders of blocks lie in one arena and never leave the device; batches are flights, as
`edged.cuda.memory` has them. ONNX Runtime keeps memory of its own for weights and activations. It
needs the package onnxruntime-gpu. Called with the arguments that the API has; not verified on
hardware.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnxruntime as ort

from edged.backends.base import BlockUse, LoadedBlock, Progress, go_on
from edged.backends.block_files import bytes_of, files_of
from edged.backends.memory import NUMPY
from edged.backends.ort_common import args_of, check_provider, line, of_load, of_run
from edged.backends.signature import check
from edged.budget import DeviceBytes
from edged.cuda.api import Cuda
from edged.cuda.memory import CudaArray, CudaMemory
from edged.errors import ConfigError, EdgedError
from edged.options import OnnxRuntimeOptions

_PROVIDER = "CUDAExecutionProvider"
_LOG_ERRORS = 3  # log severity of onnxruntime: errors and worse
_MAX_BINDINGS = 2048
_ARENA_BYTES = 256 << 20  # for all rows at the borders of blocks, if that is not much of the device
_ARENA_PART = 4  # of what is free, one part of so many at most

# What the provider says of options that it does not take, when a session is made.
_OF_OPTIONS = ("Unknown provider option", "Failed to parse provider option")

_BindingKey: TypeAlias = "tuple[str, tuple[tuple[int, ...], ...], tuple[int, ...]]"
_Arg: TypeAlias = "tuple[str, type[np.generic]]"


class _Block(NamedTuple):
    session: Any
    inputs: tuple[_Arg, ...]
    outputs: tuple[_Arg, ...]
    nbytes: int


class OnnxRuntimeCuda:
    name = "onnxruntime"
    lanes = 1
    prepare_row_s = 0.0
    prepares = False
    builds = False
    sizes: tuple[int, ...] = ()

    def __init__(self, options: OnnxRuntimeOptions, cuda: Cuda) -> None:
        """Raises Unsupported if this build of onnxruntime has no CUDA provider."""
        check_provider(_PROVIDER)
        facts = cuda.facts()
        self.emulated = cuda.emulated
        self.device = f"cuda:{options.device_id}, {facts.name}"
        self.versions = {"onnxruntime": ort.__version__, "CUDA": str(facts.runtime)}
        self._cuda = cuda
        self._facts = facts
        arena_bytes = min(_ARENA_BYTES, cuda.free_bytes() // _ARENA_PART)
        self.memory = CudaMemory(cuda, arena_bytes)
        self._settings = {
            "device_id": str(options.device_id),
            "user_compute_stream": str(int(self.memory.compute)),
            "arena_extend_strategy": "kSameAsRequested",  # not the next power of two
            "use_tf32": "0",  # answers are those of float32, as of every backend
            **{key: str(value) for key, value in options.provider_options.items()},
        }
        self._run_options = ort.RunOptions()
        # The flight waits, not each block.
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._blocks: dict[str, _Block] = {}
        self._bindings: OrderedDict[_BindingKey, Any] = OrderedDict()

    def is_prepared(self, block: str) -> bool:
        return False

    def prepare(self, block: str, path: Path, progress: Progress = go_on) -> None:
        pass

    def files(self, block: str, path: Path) -> Sequence[Path]:
        return files_of(path)

    def load(self, block: str, path: Path, uses: Sequence[BlockUse]) -> LoadedBlock:
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_ERRORS
        try:
            self._cuda.use()
            session = ort.InferenceSession(
                str(path), options, providers=[(_PROVIDER, self._settings)], enable_fallback=0
            )
            check_provider(_PROVIDER, session)
            inputs, outputs = args_of(session.get_inputs()), args_of(session.get_outputs())
            max_rows = check(block, inputs, outputs, uses)
        except (EdgedError, OSError):
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base
            if any(words in str(error) for words in _OF_OPTIONS):
                raise ConfigError(f"device.options.provider_options: {line(error)}") from error
            raise of_load(block, error) from error
        size = bytes_of(path)
        self._blocks[block] = _Block(
            session,
            inputs=tuple((arg.name, NUMPY[arg.datatype]) for arg in inputs if arg.datatype),
            outputs=tuple((arg.name, NUMPY[arg.datatype]) for arg in outputs if arg.datatype),
            nbytes=size,
        )
        return LoadedBlock(size, max_rows, extra_bytes=0 if self._is_apart else size)

    def unload(self, block: str) -> None:
        for key in [key for key in list(self._bindings) if key[0] == block]:
            self._bindings.pop(key, None)  # another thread may bind meanwhile, and evict it
        del self._blocks[block]

    def run(
        self,
        block: str,
        inputs: Sequence[CudaArray],
        outputs: Sequence[CudaArray],
        *,
        wide: bool = True,
    ) -> None:
        loaded, arrays = self._blocks[block], (*inputs, *outputs)
        # A binding holds only addresses and shapes, so an old binding fits any arrays of these
        # shapes that lie at these addresses now.
        shapes = tuple([(array.rows, *array.tensor.shape) for array in arrays])
        key = (block, shapes, tuple([array.address for array in arrays]))
        try:
            binding = self._bindings.get(key) or self._bind(key, loaded)
            loaded.session.run_with_iobinding(binding, self._run_options)
        except Exception as error:
            raise of_run(block, error) from error

    def device_bytes(self) -> DeviceBytes:
        """Of memory of its own, and of a board's, as far as ONNX Runtime lets us know: the weights
        by their files, and the arena. Its own activations count as taken by others."""
        weights = sum(block.nbytes for block in list(self._blocks.values()))
        arena = self.memory.arena
        if not self._is_apart:
            return DeviceBytes(weights + arena.size)
        spare_bytes = arena.size - arena.used_bytes
        free_bytes = self._cuda.free_bytes() + spare_bytes
        return DeviceBytes(weights + arena.used_bytes, free_bytes, self._facts.total_bytes)

    def close(self) -> None:
        self._bindings.clear()
        self._blocks.clear()
        self.memory.close()

    @property
    def _is_apart(self) -> bool:
        return not self._facts.unified

    def _bind(self, key: _BindingKey, loaded: _Block) -> Any:
        _, shapes, addresses = key
        binding = loaded.session.io_binding()
        device_id = int(self._settings["device_id"])
        places = iter(zip(shapes, addresses, strict=True))
        for (name, kind), (shape, address) in zip(loaded.inputs, places, strict=False):
            binding.bind_input(name, "cuda", device_id, kind, shape, address)
        for (name, kind), (shape, address) in zip(loaded.outputs, places, strict=False):
            binding.bind_output(name, "cuda", device_id, kind, shape, address)
        if len(self._bindings) >= _MAX_BINDINGS:
            self._bindings.popitem(last=False)
        self._bindings[key] = binding
        return binding

"""ONNX Runtime: the default backend. It runs on any CPU; options select another provider.

The CPU has as many `lanes` as threads. Batches run side by side, each on the thread that calls:
that is a third more batches a second than to run one after the other on all threads. A batch that
is alone runs wide, on all threads. ONNX Runtime cannot give a session threads of its own beside a
common pool, so a block has two sessions, one with a pool of its own and one without; both map the
same weights. Pools sleep between runs: if each spins on, a chain of six blocks takes three to eight
times as long as the uncut model. Their threads have a processor each, for the same reason. If there
is one lane, a block has one session and all sessions share one pool, so that threads need not be
woken at each border of blocks.

All sessions share one arena; with an arena each, activations take twice the memory.

The CPU backend prepares a block once for each host: it is optimised, and its large weights go into
files of their own, which are mapped and not read. Blocks with equal weights map the same file.
TensorRT is not verified on hardware; the CUDA provider has a module of its own.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort

from edged.backends import mapped
from edged.backends.base import BlockUse, LoadedBlock, Progress, go_on
from edged.backends.block_files import bytes_of, files_of
from edged.backends.memory import NUMPY, Array, HostMemory
from edged.backends.ort_common import (
    args_of,
    check_provider,
    is_of_memory,
    line,
    of_load,
    of_run,
)
from edged.backends.ort_cuda import OnnxRuntimeCuda
from edged.backends.parting import part
from edged.backends.prepared import PreparedBlocks
from edged.backends.signature import check
from edged.budget import DeviceBytes
from edged.cuda.runtime import CudaRuntime
from edged.errors import ConfigError, EdgedError
from edged.options import OnnxRuntimeOptions

_MODEL = "model.onnx"
_WEIGHTS = "weights"  # how the names of files with weights begin
_LEAST_BYTES = 4096  # smaller weights stay in the model: a mapping takes a page anyway
_LOG_ERRORS = 3  # log severity of onnxruntime: errors and worse
_LOG_FATAL = 4
_WAKE_THREADS_S = 0.1e-3  # approximate time to wake threads and to wait for the last of them
_TIMED_RUNS_MAX = 5  # several runs, since the first is slow and others may have the processor
_MAX_BINDINGS = 2048  # buffers are reused, so the same addresses come again and again
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

_Shapes: TypeAlias = "tuple[tuple[int, ...], ...]"
_BindingKey: TypeAlias = "tuple[str, bool, _Shapes, tuple[int, ...]]"  # block, wide, .., addresses


@dataclass(frozen=True, slots=True)
class _Block:
    wide: Any  # ort.InferenceSession that runs on all threads
    narrow: Any  # session that runs on the calling thread; may be the same session as `wide`
    inputs: tuple[tuple[str, type[np.generic]], ...]
    outputs: tuple[tuple[str, type[np.generic]], ...]


class OnnxRuntime:
    name = "onnxruntime"
    builds = False
    emulated = False
    prepare_row_s = 0.0
    sizes: tuple[int, ...] = ()

    def __init__(self, options: OnnxRuntimeOptions, *, threads: int, cache_dir: Path) -> None:
        self._provider = _PROVIDERS[options.provider]
        check_provider(self._provider)
        on_cpu = options.provider == "cpu"
        self.lanes = options.lanes or (threads if on_cpu else 1)
        self._shares_threads = self.lanes == 1 and threads > 1
        if self._shares_threads:
            _share_threads(threads)
        _share_arena()
        self._threads = threads
        self._places = _places(threads) if on_cpu else None
        self.device = f"cpu, {threads} threads" if on_cpu else f"cuda:{options.device_id}"
        self.memory = HostMemory()
        self.versions = {"onnxruntime": ort.__version__}
        self._options = options
        self._prepared: PreparedBlocks | None = None
        if on_cpu:
            self._prepared = PreparedBlocks(
                cache_dir, {"onnxruntime": ort.__version__, "pack": options.pack}
            )
            self._prepared.sweep()
        self.prepares = on_cpu
        self._blocks: dict[str, _Block] = {}
        self._quick: dict[str, bool] = {}  # result of `_is_quick` for each block ever loaded
        self._bindings: dict[_BindingKey, Any] = {}
        self._bindings_lock = threading.Lock()  # lanes may bind at the same time

    def is_prepared(self, block: str) -> bool:
        return self._prepared is not None and self._prepared.find(block) is not None

    def prepare(self, block: str, path: Path, progress: Progress = go_on) -> None:
        if self._prepared is not None and self._prepared.find(block) is None:
            self._prepared.make(block, functools.partial(self._optimise, path))

    def files(self, block: str, path: Path) -> Sequence[Path]:
        if self._prepared is None or self._prepared.find(block) is None:
            return files_of(path)
        return self._prepared.files(block)

    def load(self, block: str, path: Path, uses: Sequence[BlockUse]) -> LoadedBlock:
        try:
            if self._prepared is not None:
                self.prepare(block, path)
                self._prepared.hold(block)
                self._prepared.verify(block)
            wide = narrow = self._session(block, path, wide=self.lanes == 1)
            inputs, outputs = args_of(narrow.get_inputs()), args_of(narrow.get_outputs())
            max_rows = check(block, inputs, outputs, uses)
            if self.lanes > 1 and block not in self._quick:
                self._quick[block] = all(_is_quick(narrow, use) for use in uses)
            if self.lanes > 1 and not self._quick[block]:
                wide = self._session(block, path, wide=True)
        except (EdgedError, OSError) as error:
            self._let_go(block)
            if self._prepared is not None and isinstance(error, FileNotFoundError):
                raise self._prepared.damaged(block, "another process has removed it") from error
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base
            self._let_go(block)
            raise of_load(block, error) from error
        self._blocks[block] = _Block(
            wide,
            narrow,
            inputs=tuple((arg.name, NUMPY[arg.datatype]) for arg in inputs if arg.datatype),
            outputs=tuple((arg.name, NUMPY[arg.datatype]) for arg in outputs if arg.datatype),
        )
        return self._weigh(block, path, max_rows)

    def unload(self, block: str) -> None:
        with self._bindings_lock:
            for key in [key for key in self._bindings if key[0] == block]:
                del self._bindings[key]
        del self._blocks[block]
        self._let_go(block)
        if self._prepared is not None:
            for file in self._prepared.files(block):
                mapped.give_cache_back(file)

    def run(
        self, block: str, inputs: Sequence[Array], outputs: Sequence[Array], *, wide: bool = True
    ) -> None:
        loaded = self._blocks[block]
        # A binding holds only addresses and shapes, so an old binding fits any arrays of these
        # shapes that lie at these addresses now.
        arrays = (*inputs, *outputs)
        addresses = tuple([array.__array_interface__["data"][0] for array in arrays])
        key = (block, wide, tuple([array.shape for array in arrays]), addresses)
        session = loaded.wide if wide else loaded.narrow
        binding = self._bindings.get(key) or self._bind(key, loaded, inputs, outputs)
        try:
            session.run_with_iobinding(binding)
        except Exception as error:
            raise of_run(block, error) from error

    def device_bytes(self) -> DeviceBytes | None:
        return None

    def close(self) -> None:
        for block in self._blocks:
            self._let_go(block)
        self._bindings.clear()
        self._blocks.clear()

    def _let_go(self, block: str) -> None:
        if self._prepared is not None:
            self._prepared.let_go(block)

    def _session(self, block: str, path: Path, *, wide: bool) -> Any:
        entry = self._prepared.find(block) if self._prepared is not None else None
        if self._prepared is None or entry is None:
            return self._open(path, self._session_options())
        options = self._session_options(wide=wide)
        # The prepared copy is optimised already.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return self._open(entry / _MODEL, options)
        except Exception as error:
            raise self._prepared.damaged(block, line(error)) from error

    def _weigh(self, block: str, path: Path, max_rows: int | None) -> LoadedBlock:
        """The memory of a loaded block; a prepared one counts the weights that stay mapped.

        Weights that an operator packs are in the file twice, as they were and packed. ONNX Runtime
        reads them as they were, packs them for each session, and then uses those in the file.
        """
        entry = None if self._prepared is None else self._prepared.find(block)
        if self._prepared is None or entry is None:
            return LoadedBlock(bytes_of(path), max_rows)
        used = extra = 0
        shared: dict[str, int] = {}
        found = mapped.mappings(entry)
        for file in self._prepared.files(block):
            facts = file.stat()
            stays = facts.st_size
            if file.name.startswith(_WEIGHTS):
                own = found.get(file.name, [])
                mapped.bring_in(own)
                stays = mapped.mapped_bytes(own)
                # Weights to pack are in the file and, until they are packed, on the heap as well.
                extra += 2 * max(0, facts.st_size - stays)
                key = f"{facts.st_dev}:{facts.st_ino}"  # equal weights of a block are one file
                before, shared[key] = shared.get(key, 0), max(stays, shared.get(key, 0))
                used += shared[key] - before
            else:
                used += stays
            if stays < facts.st_size:
                mapped.give_cache_back(file)
        return LoadedBlock(used, max_rows, extra, shared)

    def _optimise(self, path: Path, folder: Path) -> None:
        options = self._session_options()
        options.optimized_model_filepath = str(folder / _MODEL)
        weights = "session.optimized_model_external_initializers_file_name"
        options.add_session_config_entry(weights, _WEIGHTS)
        least = "session.optimized_model_external_initializers_min_size_in_bytes"
        options.add_session_config_entry(least, str(_LEAST_BYTES))
        if self._options.pack:
            packed = "session.save_external_prepacked_constant_initializers"
            options.add_session_config_entry(packed, "1")
        self._open(path, options)
        if not self._options.pack:  # else the places of packed weights are in the model as well
            part(folder / _MODEL, folder / _WEIGHTS)

    def _session_options(self, *, wide: bool = True) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_ERRORS
        if self._shares_threads:
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = self._threads if wide else 1  # 1 is the calling thread
            options.add_session_config_entry("session.force_spinning_stop", "1")
            if wide and self._places is not None:
                options.add_session_config_entry("session.intra_op_thread_affinities", self._places)
        if self._prepared is not None:  # the backend runs on the CPU
            options.add_session_config_entry("session.use_env_allocators", "1")
            if not self._options.pack:
                options.add_session_config_entry("session.disable_prepacking", "1")
            # Memory patterns, one for each number of rows, double the memory of activations and
            # save 1 % of the time (tools.bench memory).
            options.enable_mem_pattern = False
        return options

    def _open(self, path: Path, options: Any) -> Any:
        settings = dict(self._options.provider_options)
        if self._prepared is None:
            settings["device_id"] = self._options.device_id
        session = ort.InferenceSession(
            str(path), options, providers=[(self._provider, settings)], enable_fallback=0
        )
        check_provider(self._provider, session)
        return session

    def _bind(
        self, key: _BindingKey, loaded: _Block, inputs: Sequence[Array], outputs: Sequence[Array]
    ) -> Any:
        binding = (loaded.wide if key[1] else loaded.narrow).io_binding()
        address = iter(key[3])
        for (name, kind), array in zip(loaded.inputs, inputs, strict=True):
            binding.bind_input(name, "cpu", 0, kind, array.shape, next(address))
        for (name, kind), array in zip(loaded.outputs, outputs, strict=True):
            binding.bind_output(name, "cpu", 0, kind, array.shape, next(address))
        with self._bindings_lock:
            if len(self._bindings) >= _MAX_BINDINGS:
                del self._bindings[next(iter(self._bindings))]
            self._bindings[key] = binding
        return binding


def create(
    options: OnnxRuntimeOptions, *, threads: int, cache_dir: Path
) -> OnnxRuntime | OnnxRuntimeCuda:
    if options.provider == "cuda":
        check_provider(_PROVIDERS["cuda"])
        return OnnxRuntimeCuda(options, CudaRuntime(options.device_id))
    return OnnxRuntime(options, threads=threads, cache_dir=cache_dir)


@functools.cache
def _share_threads(threads: int) -> None:
    """Size the thread pool of the process, which can be done once, before its first session."""
    try:
        ort.set_global_thread_pool_sizes(threads, 1)
    except Exception as error:
        raise ConfigError(
            f"this process already runs onnxruntime with another number of threads than {threads}: "
            "use one number in one process"
        ) from error


def _places(threads: int) -> str | None:
    """A processor for each thread of a pool but the calling one, which keeps the first processor.

    The kernel often puts a woken thread on the processor of the thread that wakes it, though others
    are idle, and that thread spins while it waits: a chain of ten blocks took twice as long.
    None if there are not enough processors.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 < threads <= len(allowed):
        return None
    return ";".join(str(processor + 1) for processor in allowed[1:threads])  # numbered from 1


@functools.cache
def _share_arena() -> None:
    """Make one arena for all sessions of the process, which can be done once."""
    cpu = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(cpu, None)
    ort.set_default_logger_severity(_LOG_ERRORS)


def _is_quick(session: Any, use: BlockUse) -> bool:
    """Whether one thread runs a row in less time than waking other threads takes.

    The row is of ones: an older onnxruntime ends the process where whole numbers are divided by 0.
    False for a block that cannot run it.
    """
    quiet = ort.RunOptions()
    quiet.log_severity_level = _LOG_FATAL
    feeds = {
        f"x{index}": np.ones((1, *tensor.shape), NUMPY[tensor.datatype])
        for index, tensor in enumerate(use.reads)
    }
    for _ in range(_TIMED_RUNS_MAX):
        began_s = time.perf_counter()
        try:
            session.run(None, feeds, quiet)
        except Exception as error:  # onnxruntime's exceptions have no common base
            if is_of_memory(error):
                raise
            return False
        took_s = time.perf_counter() - began_s
        if took_s < _WAKE_THREADS_S:
            return True
        if took_s > 100 * _WAKE_THREADS_S:
            break
    return False

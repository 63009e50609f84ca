"""The serving side of TensorRT: prepares, loads and runs blocks. Written once for 10.3 to 11.4.

A block's engine is built by a process of its own (child.py) and kept in the cache directory, with
all that it depends on in the key. Linear heads run in one engine, which takes their weights as
inputs. Engines share one piece of scratch, since all of them run in one stream. API-checked against
TensorRT 10.3, 10.13, 10.16 and 11.4, not run on TensorRT.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from edged.backends import mapped
from edged.backends.base import BlockUse, LoadedBlock, Progress, go_on
from edged.backends.prepared import PreparedBlocks
from edged.backends.signature import check
from edged.backends.tensorrt import facts, module
from edged.backends.tensorrt.child import Builds, RunBuild, empty
from edged.backends.tensorrt.engine import Binding, LoadedEngine, PlanRefused, Runtime
from edged.backends.tensorrt.orders import (
    ABOUT,
    PLAN,
    ROWS,
    WEIGHTS,
    About,
    BuildOrder,
    HeadShape,
    weight_bytes,
)
from edged.backends.tensorrt.trial import attempt
from edged.budget import DeviceBytes
from edged.cuda.api import Address, Cuda
from edged.cuda.arena import taken_bytes
from edged.cuda.memory import CudaArray, CudaMemory
from edged.cuda.runtime import CudaRuntime
from edged.errors import EdgedError, ResourceExhausted
from edged.options import TensorRtOptions

log = logging.getLogger("edged.tensorrt")


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A block that is ready to run. `fixed`: the inputs that are its weights."""

    engine: LoadedEngine
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fixed: dict[str, Binding]
    weights: Address | None = None


class TensorRt:
    name = "tensorrt"
    builds = True
    lanes = 1
    sizes: tuple[int, ...] = ()  # engines take any number of rows up to `max_rows`
    prepare_row_s = 0.0
    prepares = True

    def __init__(
        self,
        options: TensorRtOptions,
        *,
        trt: Any,
        cuda: Cuda,
        cache_dir: Path,
        run_build: RunBuild | None = None,
    ) -> None:
        """`trt`: TensorRT's Python module. `run_build`: see child.Builds."""
        device = cuda.facts()
        self.emulated = cuda.emulated
        self._facts = device
        self._options = options
        self._module = trt.__name__
        self._level = facts.optimization_level(device)
        release = facts.l4t_release()
        self._prepared = PreparedBlocks(
            cache_dir, facts.key_facts(device, trt.__version__, options, self._level, release)
        )
        self._prepared.sweep()
        self._builds = Builds(cache_dir, timeout_s=options.build_timeout_s, run=run_build)
        self._timings = cache_dir / facts.timing_cache_name(device, trt.__version__, release)
        self._cuda = cuda
        self.memory = CudaMemory(cuda, facts.arena_bytes(options, cuda.free_bytes()))
        self._runtime = Runtime(trt, cuda)
        self.device = f"cuda:{options.device_id}, {device.name}"
        self.versions = {
            "tensorrt": trt.__version__,
            "cuda": f"{device.runtime // 1000}.{device.runtime % 1000 // 10}",
        }
        self._blocks: dict[str, _Loaded] = {}
        self._heads: dict[str, LoadedEngine] = {}  # each shape has one, which stays
        self._held: dict[str, int] = {}  # bytes of the engines that are loaded, by their entry
        self._scratch: Address | None = None
        self._scratch_bytes = 0
        self._lock = threading.Lock()  # contexts and scratch serve one enqueue at a time

    # --- prepared entries -----------------------------------------------------------------------

    def is_prepared(self, block: str) -> bool:
        about = self._about(block)
        return about is not None and (
            about.head is None or self._prepared.find(about.head.id) is not None
        )

    def prepare(self, block: str, path: Path, progress: Progress = go_on) -> None:
        if self.is_prepared(block):
            return
        with self._builds.turn(progress):
            about = self._about(block)  # another process may have made it meanwhile
            if about is None:
                self._make(block, str(path), progress)
                about = self._about(block)
            if about is not None and about.head and not self._prepared.find(about.head.id):
                self._make(about.head.id, about.head, progress)

    def files(self, block: str, path: Path) -> Sequence[Path]:
        return self._prepared.files(block) or (path,)

    def _about(self, block: str) -> About | None:
        """What the entry says of itself; None if there is none that can be read."""
        entry = self._prepared.find(block)
        if entry is None:
            return None
        try:
            return msgspec.json.decode((entry / ABOUT).read_bytes(), type=About)
        except (OSError, msgspec.MsgspecError, ValueError):
            log.warning("the engine of block %s cannot be read: it is built again", block[:12])
            self._prepared.remove(block)
            return None

    def _make(self, entry: str, what: str | HeadShape, progress: Progress) -> None:
        made: list[About] = []

        def write(folder: Path) -> None:
            order = BuildOrder(
                module=self._module,
                what=what,
                target=str(folder),
                precision=self._options.precision,
                max_rows=self._options.max_rows,
                pools=facts.pools(self._cuda.free_bytes(), self._level),
                timing_cache=str(self._timings),
            )
            about = self._builds.make(order, progress)
            if wrong := self._try(folder, about):
                empty(folder)
                order = replace(order, precision="fp32", fallback=f"device: {wrong}")
                about = self._builds.make(order, progress)
            made.append(about)

        self._prepared.make(entry, write)
        self._tell(entry, made[0])

    def _try(self, folder: Path, about: About) -> str:
        """What is wrong with what an engine computes on this device; empty if nothing is."""
        try:
            return attempt(Runtime(self._runtime.trt, self._cuda), self.memory, folder, about)
        except ResourceExhausted as error:
            log.warning("a new engine was not tried on the device: %s", error)
            return ""
        finally:
            (folder / ROWS).unlink(missing_ok=True)

    def _tell(self, entry: str, about: About) -> None:
        size = sum(file.stat().st_size for file in self._prepared.files(entry))
        kind = "weights of a linear head kept" if about.head else f"{about.precision} engine built"
        log.info(
            "%s: %s in %.1f s, %.1f MB, %d MB of memory at most", entry[:20], kind, about.seconds,
            size / 1e6, about.peak_bytes / 1e6, extra={"block": entry},
        )  # fmt: skip
        if about.fallback:
            log.warning(
                "block %s runs in FP32: %s", entry[:12], about.fallback, extra={"block": entry}
            )

    # --- the device -----------------------------------------------------------------------------

    def load(self, block: str, path: Path, uses: Sequence[BlockUse]) -> LoadedBlock:
        try:
            self.prepare(block, path)
            self._prepared.hold(block)
            self._prepared.verify(block)
            about = self._about(block)
            if about is None:
                raise FileNotFoundError
            inputs, outputs = ([p.arg for p in side] for side in (about.inputs, about.outputs))
            one_row = check(block, inputs, outputs, uses)
            used = self._load_head(block, about) if about.head else self._load_engine(block, about)
            self._grow(self._blocks[block].engine.scratch_bytes)
        except BaseException as error:
            self._let_go(block)
            if isinstance(error, FileNotFoundError):
                raise self._prepared.damaged(block, "another process has removed it") from error
            raise
        for file in self._prepared.files(block):
            mapped.give_cache_back(file)
        return LoadedBlock(used, one_row or self._options.max_rows)

    def unload(self, block: str) -> None:
        self._cuda.use()
        with self._lock:
            self._cuda.synchronize(self.memory.compute)
            self._let_go(block)

    def run(
        self,
        block: str,
        inputs: Sequence[CudaArray],
        outputs: Sequence[CudaArray],
        *,
        wide: bool = True,
    ) -> None:
        loaded = self._blocks[block]
        places = dict(loaded.fixed)
        for names, arrays in ((loaded.inputs, inputs), (loaded.outputs, outputs)):
            for name, array in zip(names, arrays, strict=True):
                places[name] = Binding(array.address, (array.rows, *array.tensor.shape))
        self._cuda.use()
        with self._lock:
            assert self._scratch is not None
            try:
                loaded.engine.enqueue(
                    places, self._scratch, self._scratch_bytes, self.memory.compute
                )
            except EdgedError as error:
                raise type(error)(f"block {block[:12]} failed: {error}") from error

    def device_bytes(self) -> DeviceBytes:
        """Of memory of its own, and of a board's: engines as they were measured, and the arena."""
        engines, arena = sum(list(self._held.values())), self.memory.arena
        if self._facts.unified:
            return DeviceBytes(engines + arena.size)
        spare_bytes = arena.size - arena.used_bytes
        free_bytes = self._cuda.free_bytes() + spare_bytes
        return DeviceBytes(engines + arena.used_bytes, free_bytes, self._facts.total_bytes)

    def close(self) -> None:
        for block in list(self._blocks):
            self.unload(block)
        for shape, engine in self._heads.items():
            engine.close()
            self._prepared.let_go(shape)
        self._heads.clear()
        self.memory.close()

    def _load_engine(self, block: str, about: About) -> int:
        """Bytes that it takes: as measured, and at least those of the plan."""
        entry = self._prepared.find(block)
        assert entry is not None
        engine = self._read(block, entry / PLAN)
        self._blocks[block] = _loaded(engine, about, {})
        self._check_plan(block, engine, about)
        return self._held[block]

    def _load_head(self, block: str, about: About) -> int:
        """Bytes of its weights. The engine stays for all heads that come."""
        shape = about.head
        entry = self._prepared.find(block)
        assert shape is not None
        assert entry is not None
        if shape.id not in self._heads:
            self._prepared.hold(shape.id)
            self._prepared.verify(shape.id)
            found = self._prepared.find(shape.id)
            assert found is not None
            self._heads[shape.id] = self._read(shape.id, found / PLAN)
        data = np.fromfile(entry / WEIGHTS, np.uint8)
        classes = about.outputs[0].shape[-1]
        assert classes is not None
        address = self.memory.allocate(len(data))
        biases = weight_bytes(shape, classes)
        fixed = {
            "w": Binding(address, (classes, shape.features)),
            "b": Binding(address + biases, (classes,)),
        }
        self._blocks[block] = _loaded(self._heads[shape.id], about, fixed, address)
        self.memory.upload(address, data)
        return taken_bytes(len(data))

    def _read(self, entry: str, plan: Path) -> LoadedEngine:
        """What it takes is measured, and at least the plan's size: others allocate as well."""
        before_bytes, plan_bytes = self._cuda.free_bytes(), plan.stat().st_size
        try:
            engine = self._runtime.read(plan)
        except PlanRefused as error:
            raise self._prepared.damaged(entry, f"TensorRT refuses the engine: {error}") from error
        self._held[entry] = max(plan_bytes, before_bytes - self._cuda.free_bytes())
        return engine

    def _check_plan(self, block: str, engine: LoadedEngine, about: About) -> None:
        """The plan must be what its entry says: a wrong extent would write beyond a buffer."""
        for inputs, ports in ((True, about.inputs), (False, about.outputs)):
            found = [(arg.name, arg.datatype, arg.shape[1:]) for arg in engine.args(inputs=inputs)]
            said = [(port.name, port.datatype, port.shape[1:]) for port in ports]
            if found != said:
                raise self._prepared.damaged(block, f"the engine has {found}, the entry {said}")

    def _grow(self, size: int) -> None:
        """Make the scratch that all engines share at least so large."""
        with self._lock:
            if self._scratch is not None and size <= self._scratch_bytes:
                return
            before_bytes, size = self._scratch_bytes, max(size, 1)
            if self._scratch is not None:
                self._cuda.synchronize(self.memory.compute)
                self.memory.free(self._scratch)
                self._scratch, self._scratch_bytes = None, 0
            try:
                self._scratch = self.memory.allocate(size)
            except ResourceExhausted:
                if before_bytes:  # the engines that are loaded still need theirs
                    self._scratch = self.memory.allocate(before_bytes)
                    self._scratch_bytes = before_bytes
                raise
            self._scratch_bytes = size

    def _let_go(self, block: str) -> None:
        loaded = self._blocks.pop(block, None)
        if loaded is not None:
            if loaded.weights is not None:
                self.memory.free(loaded.weights)
            else:
                loaded.engine.close()
        self._held.pop(block, None)
        self._prepared.let_go(block)


def _loaded(
    engine: LoadedEngine, about: About, fixed: dict[str, Binding], weights: Address | None = None
) -> _Loaded:
    inputs, outputs = (tuple(p.name for p in side) for side in (about.inputs, about.outputs))
    return _Loaded(engine, inputs, outputs, fixed, weights)


def create(options: TensorRtOptions, *, threads: int, cache_dir: Path) -> TensorRt:
    """Raises Unsupported where TensorRT, CUDA or the device is missing."""
    trt = module.find()
    return TensorRt(options, trt=trt, cuda=CudaRuntime(options.device_id), cache_dir=cache_dir)

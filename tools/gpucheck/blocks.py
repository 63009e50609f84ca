"""Figures of a store's blocks in this process: in flight, against the CPU, loaded and unloaded."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edged import backends
from edged.backends.base import Backend
from edged.backends.memory import Array
from edged.config import cores
from edged.core.events import Member, Run
from edged.device.executor import Executor, InFlight
from edged.device.inputs import preparation
from edged.device.loader import Loader
from edged.device.staging import Feed, Pool, Staged, shape_of
from edged.link import messages as link
from edged.store import Store
from tools.gpucheck.findings import Loads, Parity, Pipeline
from tools.gpucheck.measure import Setting

_WARM_UPS = 6  # batches; the third of a kind is recorded
_LOADS = 5


class _Lane:
    """All blocks of a store on a device, and requests that lie in staging memory."""

    def __init__(self, setting: Setting, name: str, **options: Any) -> None:
        self.backend = _open(setting, name, options)
        self._loader = Loader(Store(setting.store), self.backend)
        manifests = Store(setting.store).models()
        self._loader.begin(manifests)
        for block in self._loader.blocks:
            self._loader.load(block)
        self.executor = Executor(manifests, self.backend, self._loader.max_rows)
        models = sorted(manifests)
        first = manifests[models[0]]
        rows = self.rows = setting.rows
        pool = Pool(0, shape_of(first), 2 * rows, self.backend.memory)
        (array,) = pool.arrays
        array[:] = np.random.default_rng(setting.seed).random(array.shape, dtype=np.float32)
        array[rows:] = array[:rows]
        self._requests = [
            [
                Staged(row, 1, {model: link.Ask(model)}, (_feed(first, pool, at, model),), {model})
                for row, model in zip(range(rows), itertools.cycle(models), strict=False)
                for at in (half * rows + row,)
            ]
            for half in range(2)
        ]
        self._turns = itertools.count()

    def submit(self) -> InFlight:
        """The next batch: rows of all models in turn."""
        requests = self._requests[next(self._turns) % 2]
        members = tuple(Member(one.rid, tuple(one.asks)) for one in requests)
        found = self.executor.submit(Run(0, "group", members, self.rows, True), requests)
        assert found is not None
        return found

    def outputs(self) -> list[Array]:
        """What a batch answers, row by row."""
        outputs, payload = self.executor.finish(self.submit())
        del outputs
        return [np.frombuffer(bytes(frame), np.float32) for frame in payload]


def _feed(manifest: Any, pool: Pool, row: int, model: str) -> Feed:
    return Feed(preparation(manifest, images=False), pool, [row], (model,))


def _open(setting: Setting, name: str, options: dict[str, Any]) -> Backend:
    folder = Path(setting.folder) / "cache"
    return backends.create(name, options, threads=cores(), cache_dir=folder)


def pipeline(setting: Setting) -> Pipeline:
    """Batches that wait for each other, and batches with one more in flight."""
    lane = _Lane(setting, "torch", device=setting.device)
    executor = lane.executor

    def one() -> None:
        executor.finish(lane.submit())

    for _ in range(_WARM_UPS):
        one()
    one_s = _mean_s(one, setting.seconds)
    if executor.depth == 1:
        return Pipeline(one_s * 1e3, None)
    before = lane.submit()

    def two() -> None:
        nonlocal before
        ahead = lane.submit()
        executor.finish(before)
        before = ahead

    for _ in range(_WARM_UPS):
        two()
    two_s = _mean_s(two, setting.seconds)
    executor.finish(before)
    return Pipeline(one_s * 1e3, two_s * 1e3)


def _mean_s(work: Callable[[], None], seconds: float) -> float:
    began_s = time.perf_counter()
    for count in itertools.count(1):
        work()
        taken_s = time.perf_counter() - began_s
        if taken_s > seconds:
            return taken_s / count
    raise AssertionError("it counts for ever")


def parity(setting: Setting) -> Parity:
    """Each precision, with recordings, against ONNX Runtime on the CPU."""
    exact = _Lane(setting, "onnxruntime").outputs()
    span = max(float(np.ptp(row)) for row in exact)
    worst, same_best = {}, {}
    precisions = ("fp32", "tf32", "fp16") if setting.device == "cuda" else ("fp32", "fp16")
    for precision in precisions:
        lane = _Lane(setting, "torch", device=setting.device, precision=precision)
        for _ in range(_WARM_UPS):  # the last ones replay what was recorded
            found = lane.outputs()
        pairs = list(zip(found, exact, strict=True))
        worst[precision] = max(float(np.abs(a - b).max()) for a, b in pairs) / span
        same_best[precision] = float(np.mean([a.argmax() == b.argmax() for a, b in pairs]))
    return Parity(worst, same_best)


def loads(setting: Setting) -> Loads:
    """The largest block: to load it, to copy as many bytes, and what unloading it leaves."""
    backend, store = _open(setting, "torch", {"device": setting.device}), Store(setting.store)
    loader = Loader(store, backend)
    loader.begin(store.models())
    block = max(loader.blocks, key=store.block_size)
    loader.load(block)  # what a first load takes for good
    loader.unload(block)
    before = _held(backend)
    times_s = []
    for _ in range(_LOADS):
        began_s = time.perf_counter()
        info = loader.load(block)
        times_s.append(time.perf_counter() - began_s)
        loader.unload(block)
    return Loads(
        info.bytes_used,
        statistics.median(times_s),
        _copy_s(setting, backend, info.bytes_used),
        _held(backend) - before,
    )


def _held(backend: Backend) -> int:
    device = backend.device_bytes()
    return 0 if device is None else device.held_bytes


def _copy_s(setting: Setting, backend: Backend, size: int) -> float:
    """Median seconds of a copy from staging memory to the device."""
    source = torch.from_numpy(backend.memory.staging(size))
    source[:] = 1
    target = torch.empty(size, dtype=torch.uint8, device=setting.device)
    times_s = []
    for _ in range(_LOADS):
        began_s = time.perf_counter()
        target.copy_(source, non_blocking=True)
        if setting.device == "cuda":
            torch.cuda.synchronize()
        times_s.append(time.perf_counter() - began_s)
    return statistics.median(times_s)

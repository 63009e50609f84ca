"""Brings the models of a worker onto its device: verify and load each block, then warm up.

Everything here happens before the worker says Ready; a failure is the reason why it cannot start.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from edged.backends.base import Backend, Loaded, Use
from edged.device import link
from edged.device.executor import Executor, Segment
from edged.device.staging import Pool, Shape, shape_of
from edged.errors import StoreError
from edged.manifest import Manifest
from edged.paths.layout import Tensor
from edged.store import Store

log = logging.getLogger("edged.device")

_WARM_UP_RUNS = 3  # timed ones; their median counts
_LONG_S = 0.5  # a run that takes longer is timed once


def load_blocks(
    store: Store, manifests: Mapping[str, Manifest], backend: Backend
) -> tuple[list[link.BlockInfo], dict[str, Loaded]]:
    """Load each block once, whoever shares it. Raises StoreError for a missing or damaged one."""
    infos: list[link.BlockInfo] = []
    loaded: dict[str, Loaded] = {}
    for block, uses in _uses(manifests.values()).items():
        started_ns = time.perf_counter_ns()
        if not backend.is_prepared(block):
            store.verify_block(block)
        loaded[block] = backend.load(block, store.block_path(block), uses)
        load_us = (time.perf_counter_ns() - started_ns) // 1000
        infos.append(link.BlockInfo(block, loaded[block].bytes_used, load_us))
        log.debug("block %s loaded in %d ms", block[:12], load_us // 1000)
    return infos, loaded


def check_manifests(manifests: Mapping[str, Manifest]) -> None:
    """Raise StoreError where a model says of itself what cannot be."""
    for name, manifest in manifests.items():
        spec = manifest.preprocess
        if spec is not None:
            plane = (spec.height, spec.width)
            shape = (3, *plane) if spec.layout == "NCHW" else (*plane, 3)
            inputs = [manifest.value(value) for value in manifest.inputs]
            if [(v.datatype, v.shape) for v in inputs] != [("FP32", shape)]:
                raise StoreError(
                    f"model {name!r} has a preprocessing that makes FP32 {list(shape)}, which is "
                    "not its input; export it again"
                )
        first = manifest.value(manifest.outputs[0])
        if manifest.labels and (not first.shape or first.shape[-1] != len(manifest.labels)):
            raise StoreError(
                f"model {name!r} has {len(manifest.labels)} labels for an output of shape "
                f"{list(first.shape)}; export it again"
            )


def warm_up(
    executors: Sequence[Executor],
    manifests: Mapping[str, Manifest],
    pools: Mapping[Shape, Pool],
    max_batch_rows: int,
) -> list[link.WarmUp]:
    """Run each model in each lane, with one row and with as many as it will get, and time it.

    With several lanes the times that matter are those of one lane's share of the device; the
    whole device is only ever given to a batch that is alone. The model of each group that takes
    longest is timed with 2, 4, 8, .. rows as well.
    """
    for pool in pools.values():
        for array in pool.arrays:
            # Whatever lies in fresh memory could be denormal floats, which take far longer.
            array[:max_batch_rows] = np.asarray(0.5).astype(array.dtype)
    first, *others = executors
    found: list[link.WarmUp] = []
    slowest: dict[str, link.WarmUp] = {}
    for name, manifest in manifests.items():
        most = min(max_batch_rows, manifest.max_rows or max_batch_rows)
        sizes = tuple(dict.fromkeys((1, most)))
        found += [_time(first, manifest, pools, rows, wide=True) for rows in sizes]
        if others:
            found += [_time(first, manifest, pools, rows, wide=False) for rows in sizes]
        last = found[-1]
        if last.group not in slowest or last.infer_us > slowest[last.group].infer_us:
            slowest[last.group] = last
        log.debug("model %s warm: %d us for %d rows", name, last.infer_us, last.rows)
    for last in slowest.values():
        for rows in _doubled(last.rows):
            found.append(_time(first, manifests[last.model], pools, rows, wide=not others))
    for executor in others:
        for last in slowest.values():
            _time(executor, manifests[last.model], pools, last.rows, wide=False)
    return found


def _time(
    executor: Executor,
    manifest: Manifest,
    pools: Mapping[Shape, Pool],
    rows: int,
    *,
    wide: bool,
) -> link.WarmUp:
    segment = Segment(pools[shape_of(manifest)], list(range(rows)), (manifest.name,))
    times_s: list[float] = []
    executor.compute([segment], wide=wide)
    while len(times_s) < _WARM_UP_RUNS and not (times_s and times_s[0] > _LONG_S):
        started_s = time.perf_counter()
        executor.compute([segment], wide=wide)
        times_s.append(time.perf_counter() - started_s)
    infer_us = max(1, round(statistics.median(times_s) * 1e6))
    return link.WarmUp(manifest.steps[0].block, manifest.name, rows, infer_us, wide)


def _doubled(end: int) -> Iterator[int]:
    """2, 4, 8, .. below `end`."""
    rows = 2
    while rows < end:
        yield rows
        rows *= 2


def _uses(manifests: Iterable[Manifest]) -> dict[str, list[Use]]:
    """The blocks in the order in which models need them, each with the shapes it is used on."""
    uses: dict[str, dict[Use, None]] = {}
    for manifest in manifests:
        tensors = {v.name: Tensor(v.datatype, v.shape) for v in manifest.values}
        for step in manifest.steps:
            reads = tuple(tensors[name] for name in step.reads)
            writes = tuple(tensors[name] for name in step.writes)
            uses.setdefault(step.block, {})[Use(reads, writes)] = None
    return {block: list(of) for block, of in uses.items()}

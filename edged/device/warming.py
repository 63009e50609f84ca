"""Runs models before they are needed: memory grows, kernels are chosen, times are measured."""

from __future__ import annotations

import functools
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edged.device import link
from edged.device.executor import Executor, Segment
from edged.device.staging import Pool, Shape, shape_of
from edged.manifest import Manifest

log = logging.getLogger("edged.device")

_RUNS = 3  # timed ones; their median counts
_LONG_S = 0.5  # a run that takes longer is timed once


class Warming:
    """Times of models by number of rows, on the lanes of one worker.

    With several lanes the times that matter are those of one lane's share of the device; the
    whole device is only ever given to a batch that is alone.
    """

    def __init__(
        self,
        executors: Sequence[Executor],
        pools: Mapping[Shape, Pool],
        max_batch_rows: int,
        *,
        timed: bool = True,
    ) -> None:
        """Unless `timed`, models are only run: whoever asks knows the times."""
        for pool in pools.values():
            for array in pool.arrays:
                # Whatever lies in fresh memory could be denormal floats, which take far longer.
                array[:max_batch_rows] = np.asarray(0.5).astype(array.dtype)
        self._first, *self._others = executors
        self._timed = timed
        self._pools = pools
        self._slowest: dict[str, tuple[link.WarmUp, Manifest]] = {}  # by group
        self.times: list[link.WarmUp] = []

    def run(self, manifest: Manifest, rows: int) -> None:
        """Once in all lanes at once, which takes the most memory. Its blocks are loaded."""
        segment = self._segment(manifest, rows)
        run = functools.partial(Executor.compute, segments=[segment], wide=not self._others)
        with ThreadPoolExecutor(1 + len(self._others)) as threads:
            list(threads.map(run, [self._first, *self._others]))

    def time(self, manifest: Manifest, max_rows: int) -> None:
        """With one row and with as many as it will get. Its blocks are loaded."""
        if not self._timed:
            self._first.compute([self._segment(manifest, max_rows)], wide=True)
            self.run(manifest, max_rows)
            return
        sizes = tuple(dict.fromkeys((1, max_rows)))
        self.times += [self._time(self._first, manifest, rows, wide=True) for rows in sizes]
        if self._others:
            self.times += [self._time(self._first, manifest, rows, wide=False) for rows in sizes]
        last = self.times[-1]
        known = self._slowest.get(last.group)
        if known is None or last.infer_us > known[0].infer_us:
            self._slowest[last.group] = (last, manifest)
        log.debug("model %s warm: %d us for %d rows", manifest.name, last.infer_us, last.rows)

    def finish(self, resident: Callable[[Manifest], bool]) -> None:
        """Time the model of each group that takes longest with 2, 4, 8, .. rows as well.

        Of those that are still `resident`; and let every lane run once.
        """
        slowest = [(last, model) for last, model in self._slowest.values() if resident(model)]
        for last, manifest in slowest:
            for rows in _doubled(last.rows):
                self.times.append(self._time(self._first, manifest, rows, wide=not self._others))
        for executor in self._others:
            for last, manifest in slowest:
                self._time(executor, manifest, last.rows, wide=False)

    def _segment(self, manifest: Manifest, rows: int) -> Segment:
        return Segment(self._pools[shape_of(manifest)], list(range(rows)), (manifest.name,))

    def _time(
        self, executor: Executor, manifest: Manifest, rows: int, *, wide: bool
    ) -> link.WarmUp:
        segment = self._segment(manifest, rows)
        times_s: list[float] = []
        executor.compute([segment], wide=wide)
        while len(times_s) < _RUNS and not (times_s and times_s[0] > _LONG_S):
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

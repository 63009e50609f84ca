"""Runs models before they are needed: memory grows, kernels are chosen, times are measured."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from edged.device.executor import Executor, Segment
from edged.device.staging import Pool, Shape, shape_of
from edged.link import messages as link
from edged.manifest import Manifest
from edged.paths.layout import Tensor
from edged.profiles.microbatch import is_enough

log = logging.getLogger("edged.device")

_RUNS = 4  # timed ones
_LONG_S = 2.0  # runs that take longer, one of each case together, are timed once


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
        microbatches: Mapping[str, int],
    ) -> None:
        """Unless `timed`, models are only run: whoever asks knows the times and `microbatches`."""
        for pool in pools.values():
            for array in pool.arrays:
                # Whatever lies in fresh memory could be denormal floats, which take far longer.
                array[:max_batch_rows] = np.asarray(0.5).astype(array.dtype)
        self._first, *self._others = executors
        self._timed = timed
        self._microbatches = dict(microbatches)
        self._judged: set[str] = set()  # blocks that need not be compared again
        self._split()
        self._pools = pools
        self._slowest: dict[str, tuple[link.WarmUp, Manifest]] = {}  # by group
        self._times: dict[tuple[str, int, bool], link.WarmUp] = {}

    @property
    def times(self) -> tuple[link.WarmUp, ...]:
        """What has been measured, the latest of each case."""
        return tuple(self._times.values())

    def run(self, key: str, manifest: Manifest, rows: int) -> None:
        """Once in all lanes at once, which takes the most memory. Its blocks are loaded."""
        segment = self._segment(key, manifest, rows)
        lanes = [self._first, *self._others]
        with ThreadPoolExecutor(len(lanes)) as threads:
            list(threads.map(lambda lane: lane.compute([segment], wide=len(lanes) == 1), lanes))

    def judge(self, key: str, manifest: Manifest, less: int, more: int) -> None:
        """Run blocks `less` rows at a time from now on unless `more` are quicker.

        Only those that weigh less than what they read and write for one row: the others gain from
        each further row. Sizes come in ascending order, so that what runs in micro-batches never
        takes the memory of larger ones. Its blocks are loaded.
        """
        fresh = _outweighed(manifest) - self._judged - self._microbatches.keys()
        if not (fresh and self._timed and self._first.memory.is_host):
            return  # elsewhere the runs go on when they have returned
        least_us = {block: {less: math.inf, more: math.inf} for block in fresh}
        cases = [(rows, not self._others) for rows in (less, more)]
        for _, _, runs in self._turns(self._first, key, manifest, cases):
            for run in runs:
                if run.block in fresh:
                    least_us[run.block][run.rows] = min(run.us, least_us[run.block][run.rows])
        for block, found_us in least_us.items():
            if is_enough(less, found_us[less] / 1e6, more, found_us[more] / 1e6):
                self._microbatches[block] = less
                log.info("block %s runs %d rows at a time", block[:12], less)
        self._split()

    def time(self, key: str, manifest: Manifest, max_rows: int) -> None:
        """With one row and with as many as it will get. Its blocks are loaded."""
        if not self._timed:
            self._first.compute([self._segment(key, manifest, max_rows)], wide=True)
            self.run(key, manifest, max_rows)
            return
        self._judged.update(step.block for step in manifest.steps)
        sizes = dict.fromkeys((1, max_rows))
        cases = [
            (rows, wide) for wide in ((True, False) if self._others else (True,)) for rows in sizes
        ]
        last = self._time(self._first, key, manifest, cases)[-1]
        known = self._slowest.get(last.group)
        if known is None or last.infer_us > known[0].infer_us:
            self._slowest[last.group] = (last, manifest)
        log.debug("model %s warm: %d us for %d rows", key, last.infer_us, last.rows)

    def finish(self, resident: Callable[[Manifest], bool]) -> None:
        """Time the model of each group that takes longest with 2, 4, 8, .. rows as well.

        Of those that are still `resident`; and let every lane run once.
        """
        slowest = [(last, model) for last, model in self._slowest.values() if resident(model)]
        for last, manifest in slowest:
            # All sizes together: those of a curve have to be measured at one pace of the machine.
            sizes = dict.fromkeys((1, *_doubled(last.rows), last.rows))
            cases = [(rows, not self._others) for rows in sizes]
            self._time(self._first, last.model, manifest, cases)
        for executor in self._others:
            for last, manifest in slowest:
                segment = self._segment(last.model, manifest, last.rows)
                executor.compute([segment], wide=False)

    def _segment(self, key: str, manifest: Manifest, rows: int) -> Segment:
        return Segment(self._pools[shape_of(manifest)], list(range(rows)), (key,))

    def _time(
        self,
        executor: Executor,
        key: str,
        manifest: Manifest,
        cases: Sequence[tuple[int, bool]],
    ) -> list[link.WarmUp]:
        """The time of each case, rows and whether wide: the least of a few runs.

        Whatever else the machine does makes a run slower, never faster.
        """
        least_s = dict.fromkeys(cases, math.inf)
        for case, took_s, _ in self._turns(executor, key, manifest, cases):
            least_s[case] = min(least_s[case], took_s)
        group = manifest.steps[0].block
        found = [
            link.WarmUp(group, key, rows, max(1, round(took_s * 1e6)), wide)
            for (rows, wide), took_s in least_s.items()
        ]
        self._times.update({(one.model, one.rows, one.wide): one for one in found})
        return found

    def _split(self) -> None:
        for executor in (self._first, *self._others):
            executor.split(self._microbatches)

    def _turns(
        self,
        executor: Executor,
        key: str,
        manifest: Manifest,
        cases: Sequence[tuple[int, bool]],
    ) -> Iterator[tuple[tuple[int, bool], float, Sequence[link.BlockRun]]]:
        """Run each case a few times: which, its seconds, those of its blocks.

        Cases take turns, so that what disturbs does not meet one of them alone.
        """
        segments = {rows: self._segment(key, manifest, rows) for rows, _ in cases}
        for turn in range(1 + _RUNS):
            began_s = time.perf_counter()
            for rows, wide in cases:
                started_s = time.perf_counter()
                batch = executor.compute([segments[rows]], wide=wide)
                took_s = time.perf_counter() - started_s
                if turn:  # the first run of a case is slow
                    yield (rows, wide), took_s, batch.runs
            if turn and time.perf_counter() - began_s > _LONG_S:
                break


def _outweighed(manifest: Manifest) -> set[str]:
    """The blocks that weigh less than what they read and write for one row."""
    row_bytes = {v.name: Tensor(v.datatype, v.shape).row_bytes for v in manifest.values}
    return {
        step.block
        for step in manifest.steps
        if len(step.layers) > 0
        and sum(layer.weight_bytes for layer in step.layers)
        < sum(row_bytes[name] for name in (*step.reads, *step.writes))
    }


def _doubled(end: int) -> Iterator[int]:
    """2, 4, 8, .. below `end`."""
    rows = 2
    while rows < end:
        yield rows
        rows *= 2

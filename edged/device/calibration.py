"""Measures what batches of models take, one run at a time, on lanes that have nothing else to do.

What is measured is kept, and what is known is not measured again. Knows no scheduler: the front
says when the next run is made.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from edged.backends.base import Backend
from edged.device.executor import Executor, Segment
from edged.device.held import held_bytes, is_apart
from edged.device.measurements import BlockFigures, MeasuredTime, Measurements, PathFigures
from edged.device.staging import Pool, shape_of
from edged.link import messages as link
from edged.manifest import Manifest
from edged.paths.layout import Tensor
from edged.profiles.microbatch import is_enough

log = logging.getLogger("edged.device")

_RUNS = 4  # timed ones of each case; a first one is not timed
_LONG_S = 2.0  # a round of runs that takes longer is the last one
_BORDERS = 4  # times what a block reads and writes: a safe guess of what it takes while it runs
_BASE_BYTES = 16 << 20  # a safe guess of what the first runs take, however many rows they have

_Case = tuple[int, bool]  # rows, and whether on the whole device


@dataclass(slots=True)
class _Plan:
    """The runs of one model that are still to be made."""

    manifest: Manifest
    most_rows: int
    runs: Iterator[None]


class Calibration:
    """One thread at a time calls `step`."""

    def __init__(
        self,
        backend: Backend,
        executors: Sequence[Executor],
        idle: queue.LifoQueue[Executor],
        measurements: Measurements,
        *,
        counted_bytes: Callable[[], int],
    ) -> None:
        """`idle`: executors of lanes that run nothing. `counted_bytes`: of the memory that blocks
        are in, those of all loaded blocks, and what this process took before there were any.
        """
        self._backend = backend
        self._executors = executors
        self._idle = idle
        self._measurements = measurements
        self._counted_bytes = counted_bytes
        self._plans: dict[str, _Plan] = {}  # by key of the model
        self._splitting = threading.Lock()

    # --- what is known --------------------------------------------------------------------------

    def times(self, manifests: Mapping[str, Manifest]) -> tuple[link.WarmUp, ...]:
        """What was measured of these models."""
        return tuple(
            link.WarmUp(manifest.steps[0].block, key, one.rows, one.us, one.wide)
            for key, manifest in manifests.items()
            if (known := self._measurements.path(manifest)) is not None
            for one in known.times
        )

    def is_known(self, manifest: Manifest, most_rows: int) -> bool:
        """Whether nothing is left to be measured, up to batches of so many rows."""
        known = self._measurements.path(manifest)
        return known is not None and known.rows >= most_rows

    def row_bytes(self, manifests: Mapping[str, Manifest]) -> int:
        """What a row of the largest batch takes while it runs: measured, or a safe guess."""
        return max((self._row_bytes(manifest) for manifest in manifests.values()), default=0)

    def base_bytes(self, manifests: Mapping[str, Manifest]) -> int:
        """What the first runs take, however many rows they have: measured, or a safe guess."""
        known = [self._measurements.path(manifest) for manifest in manifests.values()]
        return max((_BASE_BYTES if one is None else one.base_bytes for one in known), default=0)

    def _row_bytes(self, manifest: Manifest) -> int:
        known = self._measurements.path(manifest)
        if known is not None and known.rows:
            return known.row_bytes
        sizes = _row_bytes(manifest)
        crossing = (sum(sizes[n] for n in (*step.reads, *step.writes)) for step in manifest.steps)
        flights_bytes = self._backend.memory.depth * sum(sizes.values())
        return self._backend.lanes * (_BORDERS * max(crossing) + flights_bytes)

    def microbatches(self, blocks: Sequence[str]) -> dict[str, int]:
        """Rows that blocks run at once, of those that were found to be quicker so."""
        known = {block: self._measurements.block(block) for block in blocks}
        return {
            block: figures.rows_at_once
            for block, figures in known.items()
            if figures is not None and figures.rows_at_once is not None
        }

    def split(self, microbatches: Mapping[str, int]) -> None:
        """Run these blocks at most so many rows at a time from now on. Any thread may call this."""
        with self._splitting:
            for executor in self._executors:
                executor.split({**executor.microbatches, **microbatches})

    # --- measuring ------------------------------------------------------------------------------

    def step(self, key: str, manifest: Manifest, most_rows: int) -> bool:
        """Make the next run of a model, whose blocks are loaded; True when there is none left."""
        plan = self._plans.get(key)
        if plan is None or plan.manifest != manifest or plan.most_rows > most_rows:
            plan = self._plans[key] = _Plan(
                manifest, most_rows, self._runs(key, manifest, most_rows)
            )
        for _ in plan.runs:
            return False
        del self._plans[key]
        return True

    def forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._plans.pop(key, None)

    def _runs(self, key: str, manifest: Manifest, most_rows: int) -> Iterator[None]:
        """All runs of a model, one between two `yield`s; then what was found is kept."""
        known = self._measurements.path(manifest) or PathFigures()
        if known.rows >= most_rows:
            return
        sizes = list(dict.fromkeys((1, *_doubled(most_rows), most_rows)))
        pool = Pool(0, shape_of(manifest), most_rows, self._backend.memory)
        for name, array in zip(manifest.inputs, pool.arrays, strict=True):
            # Whatever lies in fresh memory could be denormal floats, which take far longer.
            array[:] = np.asarray((manifest.span(name) or (0.5,))[0]).astype(array.dtype)
        segments = {rows: Segment(pool, list(range(rows)), (key,)) for rows in sizes}
        taken_bytes = []
        pool_bytes = 0 if is_apart(self._backend) else pool.nbytes
        for less, rows in zip([0, *sizes], sizes, strict=False):
            self._run_everywhere(segments[rows])
            taken_bytes.append(held_bytes(self._backend) - self._counted_bytes())
            yield
            if less:
                yield from self._judge(manifest, segments[less], segments[rows])
        self._end_judging(manifest)
        cases = [(rows, not self._several) for rows in sizes]
        if self._several:
            cases.append((1, True))
        least_s = dict.fromkeys(cases, math.inf)
        for case, took_s, _ in self._turns(segments, cases):
            if took_s is not None:
                least_s[case] = min(least_s[case], took_s)
            yield
        times = tuple(
            MeasuredTime(rows, wide, max(1, round(took_s * 1e6)))
            for (rows, wide), took_s in least_s.items()
        )
        row_bytes = self._row_bytes(manifest)
        base_bytes = max(0, taken_bytes[0] - pool_bytes)
        if most_rows > 1:  # requests of a few rows may have run before
            growth_bytes = max(0, taken_bytes[-1] - taken_bytes[0])
            row_bytes = -(-growth_bytes // (most_rows - most_rows // 4))
        self._measurements.keep_path(manifest, PathFigures(most_rows, times, row_bytes, base_bytes))
        log.info("model %s is measured, up to %d rows", key, most_rows)

    @property
    def _several(self) -> bool:
        """Whether there are several lanes. Then the times that matter are those of one of them."""
        return len(self._executors) > 1

    def _run_everywhere(self, segment: Segment) -> None:
        """Once in all lanes at once, which takes the most memory."""
        if not self._several:
            with self._lane() as lane:  # in this thread: libraries of a GPU have handles for each
                for _ in range(self._backend.memory.depth):  # flights have memory of their own
                    lane.compute([segment])
            return
        lanes = [self._idle.get() for _ in self._executors]
        try:
            with ThreadPoolExecutor(len(lanes)) as threads:
                list(threads.map(lambda lane: lane.compute([segment], wide=False), lanes))
        finally:
            for lane in lanes:
                self._idle.put(lane)

    @contextlib.contextmanager
    def _lane(self) -> Iterator[Executor]:
        """The executor of a lane that runs nothing meanwhile."""
        executor = self._idle.get()
        try:
            yield executor
        finally:
            self._idle.put(executor)

    def _judge(self, manifest: Manifest, less: Segment, more: Segment) -> Iterator[None]:
        """Run blocks fewer rows at a time from now on unless more are quicker.

        Only those that weigh less than what they read and write for one row: the others gain from
        each further row. Sizes come in ascending order, so that what runs in micro-batches never
        takes the memory of larger ones.
        """
        fewer, many = len(less.rows), len(more.rows)
        fresh = {
            block: figures
            for block in _outweighed(manifest)
            if (figures := self._measurements.block(block)) is not None and not figures.is_judged
        }
        if not (fresh and self._backend.memory.is_host):
            return  # elsewhere the runs go on when they have returned
        least_us = {block: {fewer: math.inf, many: math.inf} for block in fresh}
        cases = [(rows, not self._several) for rows in (fewer, many)]
        for _, took_s, runs in self._turns({fewer: less, many: more}, cases):
            for run in runs if took_s is not None else ():
                if run.block in fresh:
                    least_us[run.block][run.rows] = min(run.us, least_us[run.block][run.rows])
            yield
        for block, found_us in least_us.items():
            if is_enough(fewer, found_us[fewer] / 1e6, many, found_us[many] / 1e6):
                self._split(block, fresh[block], fewer)

    def _split(self, block: str, figures: BlockFigures, rows: int) -> None:
        found = replace(figures, is_judged=True, rows_at_once=rows)
        self._measurements.keep_block(block, found)
        log.info("block %s runs %d rows at a time", block[:12], rows)
        self.split({block: rows})

    def _end_judging(self, manifest: Manifest) -> None:
        """All sizes were compared: the others run all rows at once."""
        for block in _outweighed(manifest):
            figures = self._measurements.block(block)
            if figures is not None:
                self._measurements.keep_block(block, replace(figures, is_judged=True))

    def _turns(
        self, segments: Mapping[int, Segment], cases: Sequence[_Case]
    ) -> Iterator[tuple[_Case, float | None, Sequence[link.BlockRun]]]:
        """Run each case a few times: which, its seconds, those of its blocks.

        Cases take turns, so that what disturbs does not meet one of them alone. Whatever else the
        machine does makes a run slower, never faster: the least of a few runs counts. The first
        run of a case is slow, and has no seconds here.
        """
        for turn in range(1 + _RUNS):
            round_s = 0.0
            for rows, wide in cases:
                with self._lane() as executor:
                    started_s = time.perf_counter()
                    batch = executor.compute([segments[rows]], wide=wide)
                    took_s = time.perf_counter() - started_s
                round_s += took_s
                yield (rows, wide), took_s if turn else None, batch.runs
            if turn and round_s > _LONG_S:
                break


def _row_bytes(manifest: Manifest) -> dict[str, int]:
    return {v.name: Tensor(v.datatype, v.shape).row_bytes for v in manifest.values}


def _outweighed(manifest: Manifest) -> set[str]:
    """The blocks that weigh less than what they read and write for one row."""
    row_bytes = _row_bytes(manifest)
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

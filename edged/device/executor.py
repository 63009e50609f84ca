"""Runs batches: finds the rows in staging memory, runs the blocks, makes the answers.

One thread at a time runs batches on an executor; another one has an executor of its own, with its
own memory. Knows no sockets and no scheduler, and trusts that what it is told to run is staged.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from edged.backends.base import Backend
from edged.backends.memory import Array, BackendMemory, DeviceArray
from edged.core.events import BatchDone, Member, Run
from edged.device.answers import Answers
from edged.device.program import Program
from edged.device.staging import Pool, Staged
from edged.link import messages as link
from edged.manifest import Manifest
from edged.paths.layout import BufferView, Layout
from edged.paths.trie import Plan, Trie

_PROGRAMS = 256  # mixes of rows that stay ready to run


class Segment(msgspec.Struct, eq=False):
    """Rows of one pool that are asked for the same models and stay together."""

    pool: Pool
    rows: list[int]
    models: tuple[str, ...]  # sorted
    number: int = 0  # in its batch


_Wanted: TypeAlias = tuple[Staged, str, Segment]  # a model of a request; where its rows are


class Batch(msgspec.Struct, frozen=True, eq=False):
    """What `compute` has left in memory, until it is called again."""

    plan: Plan
    runs: list[link.BlockRun]
    output: Callable[[BufferView], Array]


class Executor:
    """Owns the memory at block borders, and the programs of the mixes that it has run."""

    def __init__(
        self,
        manifests: Mapping[str, Manifest],
        backend: Backend,
        max_rows: Mapping[str, int | None],
    ) -> None:
        """`max_rows`: of one run of each block that was ever loaded; None is any number."""
        self._backend = backend
        self._max_rows = max_rows
        self.microbatches: Mapping[str, int] = {}
        self.memory = backend.memory
        self._allocated = self.memory.allocate(0)
        self.nbytes = 0
        self.runs: Sequence[link.BlockRun] = ()  # the blocks of the last batch
        self._program = functools.lru_cache(_PROGRAMS)(self._make_program)
        self.define(manifests)

    def define(self, manifests: Mapping[str, Manifest]) -> None:
        """Run these models from now on, in place of those before; a batch that runs goes on.

        Any thread may call this. Raises StoreError where two models disagree on what a block
        writes; nothing changes then.
        """
        self._trie = Trie(manifests)
        self._manifests = manifests
        self._program.cache_clear()

    def split(self, microbatches: Mapping[str, int]) -> None:
        """Run these blocks at most so many rows at a time from now on; a batch that runs goes on.

        Any thread may call this.
        """
        self.microbatches = microbatches
        self._program.cache_clear()

    def run(
        self, run: Run, requests: Sequence[Staged], prepare_s: float = 0.0
    ) -> tuple[link.BatchOutputs, list[memoryview]]:
        """One batch. The payload is valid until the next one. Raises EdgedError."""
        started_ns = time.perf_counter_ns()
        manifests = self._manifests  # others may be defined meanwhile
        segments, wanted = _segments(run.members, requests)
        if not segments:  # none of the requests could be prepared
            self.runs = ()
            return link.BatchOutputs(BatchDone(run.batch, 0.0, 0.0), ()), []
        batch = self.compute(segments, wide=run.wide)
        inferred_ns = time.perf_counter_ns()
        answers = Answers(batch.output)
        for request, model, segment in wanted:
            place, before = batch.plan.segments[segment.number]
            answers.add(request, request.asks[model], manifests[model], place, before)
        done = BatchDone(
            batch=run.batch,
            infer_s=(inferred_ns - started_ns) / 1e9,
            output_s=(time.perf_counter_ns() - inferred_ns) / 1e9,
            prepare_s=prepare_s,
        )
        return link.BatchOutputs(done, tuple(answers.answers)), answers.payload

    def compute(self, segments: Sequence[Segment], *, wide: bool = True) -> Batch:
        """Run all blocks for these segments; `plan.segments` says where each one's rows are."""
        plan = self._trie.plan([(segment.models, len(segment.rows)) for segment in segments])
        program = self._program(plan.layout)
        roots, order = _feed(self.memory, program, plan, segments)
        self.runs = runs = program.run(self._backend, roots, order, wide=wide)
        self.memory.wait()
        return Batch(plan, runs, functools.partial(program.output, in_order=order is None))

    def _make_program(self, layout: Layout) -> Program:
        program = Program(layout, self.memory, self._rows_at_once)
        if program.nbytes > self.nbytes:
            self._program.cache_clear()  # they lie in the memory that is given up here
            self._allocated, self.nbytes = None, 0  # before as much again is asked for
            self._allocated = self.memory.allocate(program.nbytes)
            self.nbytes = program.nbytes
        program.place(self._allocated)
        return program

    def _rows_at_once(self, block: str) -> int | None:
        most, micro = self._max_rows[block], self.microbatches.get(block)
        return most if micro is None else min(micro, most or micro)


def _segments(
    members: Sequence[Member], requests: Sequence[Staged]
) -> tuple[list[Segment], list[_Wanted]]:
    """The rows of a batch by place in staging memory."""
    placed: dict[tuple[int, int], Segment] = {}
    wanted: list[_Wanted] = []
    for member, request in zip(members, requests, strict=True):
        for feed in request.feeds:
            models = tuple([model for model in feed.models if model in member.models])
            if not models:
                continue
            segment = Segment(feed.pool, feed.rows, models)
            placed[feed.pool.number, feed.rows[0]] = segment
            wanted += [(request, model, segment) for model in models]
    segments = [placed[at] for at in sorted(placed)]
    for number, segment in enumerate(segments):
        segment.number = number
    return segments, wanted


def _feed(
    memory: BackendMemory, program: Program, plan: Plan, segments: Sequence[Segment]
) -> tuple[dict[int, DeviceArray], DeviceArray | None]:
    """The inputs by buffer, and the order of rows that come as they lie in staging memory."""
    roots: dict[int, DeviceArray] = {}
    scattered: list[int] = []
    for buffer, parts in plan.inputs.items():
        piece = None
        if buffer in program.in_place:
            piece = _one_piece(parts, segments, in_order=True)
        if piece is None:
            scattered.append(buffer)
        else:
            roots[buffer] = piece
    reorder = program.layout.reorder
    order: DeviceArray | None = None
    if scattered and reorder is not None and memory.is_host:
        pieces = [_one_piece(plan.inputs[b], segments, in_order=False) for b in reorder.roots]
        if all(piece is not None for piece in pieces):
            roots.update(
                (b, p) for b, p in zip(reorder.roots, pieces, strict=True) if p is not None
            )
            parts = plan.inputs[reorder.roots[0]]
            rows = [row for _, _, number in parts for row in segments[number].rows]
            first = min(rows)
            order = memory.indices([row - first for row in rows])
            scattered = [buffer for buffer in scattered if buffer not in reorder.roots]
    for buffer in scattered:
        target = roots[buffer] = program.root(buffer)
        for start, index, number in plan.inputs[buffer]:
            segment = segments[number]
            segment.pool.read(index, segment.rows, target[start : start + len(segment.rows)])
    return roots, order


def _one_piece(
    parts: Sequence[tuple[int, int, int]], segments: Sequence[Segment], *, in_order: bool
) -> Array | None:
    """The staging rows themselves, if they lie side by side in one pool."""
    _, index, number = parts[0]
    pool = segments[number].pool
    rows: list[int] = []
    for _, at, number in parts:
        if at != index or segments[number].pool is not pool:
            return None
        rows += segments[number].rows
    if not in_order:
        rows.sort()
    first, end = rows[0], rows[-1] + 1
    return pool.arrays[index][first:end] if rows == list(range(first, end)) else None

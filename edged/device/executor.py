"""Runs batches: finds the rows in staging memory, runs the blocks, makes the answers.

One thread uses an executor; a second thread would have a second one, with its own memory. Knows no
sockets and no scheduler, and trusts that what it is told to run is staged.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edged.backends.base import Backend
from edged.backends.memory import Array, DeviceArray, Memory
from edged.device import link
from edged.device.answers import Answers
from edged.device.program import Program
from edged.device.staging import Pool, Staged
from edged.manifest import Manifest
from edged.paths.layout import Layout, View
from edged.paths.trie import Plan, Trie

_PROGRAMS = 256  # mixes of rows that stay ready to run


@dataclass(slots=True, eq=False)
class Segment:
    """Rows of one pool that are asked for the same models and stay together."""

    pool: Pool
    rows: list[int]
    models: tuple[str, ...]  # sorted


@dataclass(frozen=True, slots=True)
class Batch:
    """What `compute` has left in memory, until it is called again."""

    memory: Memory
    program: Program
    plan: Plan
    in_order: bool
    runs: list[link.BlockRun]

    def output(self, view: View) -> Array:
        return self.memory.get(self.program.answer(view, in_order=self.in_order))


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
        self.memory = backend.memory
        self._allocated = self.memory.allocate(0)
        self.nbytes = 0
        self._program = functools.lru_cache(_PROGRAMS)(self._make_program)
        self.define(manifests)

    def define(self, manifests: Mapping[str, Manifest]) -> None:
        """Run these models from now on, in place of those before.

        Raises StoreError where two of them disagree on what a block writes; nothing changes then.
        """
        self._trie = Trie(manifests)
        self._manifests = manifests
        self._program.cache_clear()

    def run(
        self, message: link.Run, requests: Sequence[Staged], prepare_us: int = 0
    ) -> tuple[link.BatchDone, list[memoryview]]:
        """One batch. The payload is valid until the next one. Raises EdgedError."""
        started_ns = time.perf_counter_ns()
        segments, wanted = _segments(message.members, requests)
        batch = self.compute(segments, wide=message.wide)
        inferred_ns = time.perf_counter_ns()
        answers, payload = self._answer(batch, wanted)
        done = link.BatchDone(
            batch=message.batch,
            infer_us=(inferred_ns - started_ns) // 1000,
            output_us=(time.perf_counter_ns() - inferred_ns) // 1000,
            blocks=tuple(batch.runs),
            answers=tuple(answers),
            prepare_us=prepare_us,
        )
        return done, payload

    def compute(self, segments: Sequence[Segment], *, wide: bool = True) -> Batch:
        """Run all blocks for these segments; `plan.segments` says where each one's rows are."""
        plan = self._trie.plan([(segment.models, len(segment.rows)) for segment in segments])
        program = self._program(plan.layout)
        roots, order = _feed(self.memory, program, plan, segments)
        runs = program.run(self._backend, roots, order, wide=wide)
        self.memory.wait()
        return Batch(self.memory, program, plan, order is None, runs)

    def _answer(
        self, batch: Batch, wanted: Sequence[_Wanted]
    ) -> tuple[list[link.Answer], list[memoryview]]:
        answers = Answers(batch.output)
        for one in wanted:
            place, before = batch.plan.segments[one.segment]
            answers.add(one.rid, one.ask, self._manifests[one.ask.model], place, before, one.rows)
        return answers.answers, answers.payload

    def _make_program(self, layout: Layout) -> Program:
        program = Program(layout, self.memory, self._max_rows)
        if program.nbytes > self.nbytes:
            self._program.cache_clear()  # they lie in the memory that is given up here
            self._allocated, self.nbytes = None, 0  # before as much again is asked for
            self._allocated = self.memory.allocate(program.nbytes)
            self.nbytes = program.nbytes
        program.place(self._allocated)
        return program


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One model of one request, and the segment that its rows are in."""

    rid: int
    rows: int
    ask: link.Ask
    segment: int


def _segments(
    members: Sequence[link.Member], requests: Sequence[Staged]
) -> tuple[list[Segment], list[_Wanted]]:
    """The rows of a batch by place in staging memory; equal frames are one row."""
    segments: list[Segment] = []
    wanted: list[tuple[Staged, str, Segment]] = []
    seen: dict[tuple[int, int], Segment] = {}
    for member, request in zip(members, requests, strict=True):
        for feed in request.feeds:
            models = tuple(model for model in feed.models if model in member.models)
            if not models:
                continue
            key = (feed.pool.number, feed.fingerprint)
            segment = seen.get(key)
            if segment is None or not feed.pool.equal(segment.rows, feed.rows):
                segment = seen[key] = Segment(feed.pool, feed.rows, models)
                segments.append(segment)
            elif models != segment.models:
                segment.models = tuple(sorted({*segment.models, *models}))
            wanted += [(request, model, segment) for model in models]
    segments.sort(key=lambda segment: (segment.pool.number, segment.rows[0]))
    index = {id(segment): at for at, segment in enumerate(segments)}
    return segments, [
        _Wanted(request.rid, request.rows, request.asks[model], index[id(segment)])
        for request, model, segment in wanted
    ]


def _feed(
    memory: Memory, program: Program, plan: Plan, segments: Sequence[Segment]
) -> tuple[dict[int, DeviceArray], DeviceArray | None]:
    """The inputs by buffer, and the order of rows that come as they lie in staging memory."""
    parts: dict[int, list[tuple[int, int, Segment]]] = {}
    for segment, (place, before) in zip(segments, plan.segments, strict=True):
        for index, view in place.inputs:
            parts.setdefault(view.buffer, []).append((view.start + before, index, segment))
    roots: dict[int, DeviceArray] = {}
    scattered: list[int] = []
    for buffer, part in parts.items():
        part.sort(key=lambda item: item[0])
        piece = _one_piece(part, in_order=True) if buffer in program.in_place else None
        if piece is None:
            scattered.append(buffer)
        else:
            roots[buffer] = piece
    reorder = program.layout.reorder
    order: DeviceArray | None = None
    if scattered and reorder is not None and memory.is_host:
        pieces = [_one_piece(parts[buffer], in_order=False) for buffer in reorder.roots]
        if all(piece is not None for piece in pieces):
            roots.update(
                (b, p) for b, p in zip(reorder.roots, pieces, strict=True) if p is not None
            )
            rows = [row for _, _, segment in parts[reorder.roots[0]] for row in segment.rows]
            order = memory.indices([row - min(rows) for row in rows])
            scattered = [buffer for buffer in scattered if buffer not in reorder.roots]
    for buffer in scattered:
        target = roots[buffer] = program.root(buffer)
        for start, index, segment in parts[buffer]:
            segment.pool.read(index, segment.rows, target[start : start + len(segment.rows)])
    return roots, order


def _one_piece(parts: Sequence[tuple[int, int, Segment]], *, in_order: bool) -> Array | None:
    """The staging rows themselves, if they lie side by side in one pool."""
    _, index, first = parts[0]
    rows = [row for _, _, segment in parts for row in segment.rows]
    begin = rows[0] if in_order else min(rows)
    expected = list(range(begin, begin + len(rows)))
    if (rows if in_order else sorted(rows)) != expected:
        return None
    if any(i != index or segment.pool is not first.pool for _, i, segment in parts):
        return None
    return first.pool.arrays[index][begin : begin + len(rows)]

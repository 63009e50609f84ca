"""Runs batches: finds the rows in staging memory, runs the blocks, makes the answers.

A lane has an executor of its own, with its own memory. `run` does a batch from its begin to its
end; where the device works while the host goes on, one thread submits batches and another one
finishes them. Knows no sockets and no scheduler, and trusts that what it is told to run is staged.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from edged.backends.base import Backend, DeviceLost
from edged.backends.memory import Array, BackendMemory, DeviceArray, DeviceMemory, Flight
from edged.core.events import BatchDone, Member, Run
from edged.device.answers import Answers
from edged.device.program import Program
from edged.device.staging import Pool, Staged
from edged.errors import EdgedError
from edged.link import messages as link
from edged.manifest import Manifest
from edged.paths.layout import BufferView, Layout
from edged.paths.trie import Plan, Trie

log = logging.getLogger("edged.device")

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


class _Slot:
    """The memory at block borders of one batch in flight, and the programs that lie in it."""

    def __init__(self, memory: BackendMemory, make: Callable[[_Slot, Layout], Program]) -> None:
        self.flight = memory.flight()
        self.allocated: DeviceMemory = None
        self.nbytes = 0
        self.program = functools.lru_cache(_PROGRAMS)(functools.partial(make, self))


class InFlight(msgspec.Struct, eq=False):
    """A batch that the device was given, until its answers are made."""

    run: Run
    batch: Batch
    slot: _Slot
    wanted: Sequence[_Wanted]
    manifests: Mapping[str, Manifest]
    prepare_s: float
    begun_ns: int


class Executor:
    """Owns the memory at block borders, and the programs of the mixes that it has run.

    As many batches as the device has use for may be in flight, `depth`. They end in the order in
    which they were submitted, and the answers of one are valid until `depth` more are submitted.
    """

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
        self.depth = self.memory.depth
        self._slots = [_Slot(self.memory, self._make_program) for _ in range(self.depth)]
        self._next = 0  # slot of the next batch
        self._idle_ns = 0  # when the device had done all that was finished
        self.runs: Sequence[link.BlockRun] = ()  # the blocks of the last batch
        self.define(manifests)

    @property
    def nbytes(self) -> int:
        return sum(slot.nbytes for slot in self._slots)

    def define(self, manifests: Mapping[str, Manifest]) -> None:
        """Run these models from now on, in place of those before; a batch that runs goes on.

        Any thread may call this. Raises StoreError where two models disagree on what a block
        writes; nothing changes then.
        """
        self._trie = Trie(manifests)
        self._manifests = manifests
        self._forget_programs()

    def split(self, microbatches: Mapping[str, int]) -> None:
        """Run these blocks at most so many rows at a time from now on; a batch that runs goes on.

        Any thread may call this.
        """
        self.microbatches = microbatches
        self._forget_programs()

    def run(
        self, run: Run, requests: Sequence[Staged], prepare_s: float = 0.0
    ) -> tuple[link.BatchOutputs, list[memoryview]]:
        """One batch. The payload is valid until the next one. Raises EdgedError."""
        in_flight = self.submit(run, requests, prepare_s)
        if in_flight is None:
            self.runs = ()
            return nothing_ran(run), []
        return self.finish(in_flight)

    def submit(
        self, run: Run, requests: Sequence[Staged], prepare_s: float = 0.0
    ) -> InFlight | None:
        """Give the device a batch; None if none of its requests could be prepared.

        One thread calls this, when fewer than `depth` batches are in flight. A failure, which is an
        EdgedError, leaves nothing in flight.
        """
        begun_ns = time.perf_counter_ns()
        manifests = self._manifests  # others may be defined meanwhile
        segments, wanted = _segments(run.members, requests)
        if not segments:
            return None
        slot = self._slots[self._next]
        try:
            batch = self._begin(slot, segments, wide=run.wide)
        except Exception:
            _come_to_rest(slot.flight)
            raise
        self._next = (self._next + 1) % self.depth
        return InFlight(run, batch, slot, wanted, manifests, prepare_s, begun_ns)

    def finish(self, in_flight: InFlight) -> tuple[link.BatchOutputs, list[memoryview]]:
        """Wait for the batch that was submitted first, and make its answers.

        Another thread may call this. Raises EdgedError when the batch has failed; it has ended.
        """
        try:
            in_flight.slot.flight.wait()
        except Exception:
            _come_to_rest(in_flight.slot.flight)
            raise
        inferred_ns = time.perf_counter_ns()
        # The device began with it when it had done the one before.
        begun_ns = max(in_flight.begun_ns, self._idle_ns)
        self._idle_ns = inferred_ns
        batch = in_flight.batch
        answers = Answers(batch.output)
        for request, model, segment in in_flight.wanted:
            place, before = batch.plan.segments[segment.number]
            answers.add(request, request.asks[model], in_flight.manifests[model], place, before)
        done = BatchDone(
            batch=in_flight.run.batch,
            infer_s=(inferred_ns - begun_ns) / 1e9,
            output_s=(time.perf_counter_ns() - inferred_ns) / 1e9,
            prepare_s=in_flight.prepare_s,
        )
        self.runs = batch.runs
        return link.BatchOutputs(done, tuple(answers.answers)), answers.payload

    def compute(self, segments: Sequence[Segment], *, wide: bool = True) -> Batch:
        """Run all blocks for these segments; `plan.segments` says where each one's rows are.

        Nothing else may be in flight.
        """
        slot = self._slots[self._next]
        try:
            batch = self._begin(slot, segments, wide=wide)
            slot.flight.wait()
        except Exception:
            _come_to_rest(slot.flight)
            raise
        self._next = (self._next + 1) % self.depth
        return batch

    def _begin(self, slot: _Slot, segments: Sequence[Segment], *, wide: bool) -> Batch:
        plan = self._trie.plan([(segment.models, len(segment.rows)) for segment in segments])
        program = slot.program(plan.layout)
        roots, order = _feed(self.memory, slot.flight, program, plan, segments)
        runs = program.run(self._backend, slot.flight, roots, order, wide=wide)
        outputs = program.fetch(slot.flight, in_order=order is None)
        return Batch(plan, runs, outputs.__getitem__)

    def _make_program(self, slot: _Slot, layout: Layout) -> Program:
        program = Program(layout, self.memory, self._rows_at_once, self._backend.sizes)
        if slot.allocated is None or program.nbytes > slot.nbytes:
            slot.program.cache_clear()  # they lie in the memory that is given up here
            if slot.allocated is not None:
                self.memory.free(slot.allocated)
            slot.allocated, slot.nbytes = None, 0  # before as much again is asked for
            slot.allocated = self.memory.allocate(program.nbytes)
            slot.nbytes = program.nbytes
        program.place(slot.allocated)
        return program

    def _forget_programs(self) -> None:
        for slot in self._slots:
            slot.program.cache_clear()

    def _rows_at_once(self, block: str) -> int | None:
        most, micro = self._max_rows[block], self.microbatches.get(block)
        return most if micro is None else min(micro, most or micro)


def nothing_ran(run: Run) -> link.BatchOutputs:
    """The report of a batch of which no request could be prepared."""
    return link.BatchOutputs(BatchDone(run.batch, 0.0, 0.0), ())


def _come_to_rest(flight: Flight) -> None:
    """A batch has failed: wait for what goes on of it, which reads staging memory and its own.

    Raises DeviceLost, which is worse than whatever has failed.
    """
    try:
        flight.wait()
    except DeviceLost:
        raise
    except EdgedError as error:
        log.debug("more of a batch that failed: %s", error)


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
    memory: BackendMemory,
    flight: Flight,
    program: Program,
    plan: Plan,
    segments: Sequence[Segment],
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
    reorder = program.reorder
    order: DeviceArray | None = None
    if scattered and reorder is not None:
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
    copies: list[tuple[Array, DeviceArray]] = []
    for buffer in scattered:
        target = roots[buffer] = program.root(buffer)
        for start, index, number in plan.inputs[buffer]:
            segment = segments[number]
            rows = segment.rows
            copies += segment.pool.copies(index, rows, target[start : start + len(rows)])
    flight.put(copies)
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

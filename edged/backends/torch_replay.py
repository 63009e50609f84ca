"""Repeated runs are recorded once and replayed, which avoids the launch of each kernel.

A recording (a CUDA graph) is of one block on arrays of certain shapes at certain addresses. Where
the rows of a block lie in the same place again and again, it is of these addresses. Otherwise it is
of memory of ours: rows are copied there and from there on the device, and all such recordings share
this memory, since they run in turn. Knows no CUDA: the caller passes in how work is recorded.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

log = logging.getLogger("edged.device")


class NotRecordable(Exception):
    """Work that needs the host in between. The device goes on."""


Work: TypeAlias = Callable[[], None]
Record: TypeAlias = Callable[[Work], Work]
"""From work that touches the device to what does it, again and again; does nothing by itself.

Raises NotRecordable, torch.OutOfMemoryError, or RuntimeError for a device that is lost.
"""
Recorder: TypeAlias = Callable[[], Record]
"""A new one is made whenever no recording is left of the last one's: CUDA's pools die so."""
Compute: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor]], None]

_MAX_RECORDINGS = 256
_MAX_COUNTED = 4096  # kinds of runs that are counted; then all begin anew
_RECORD_AT_RUN = 3  # a run of a block is recorded the third time that it is made
# Recordings of one block in the places where its rows lie, for each of its shapes. Rows of a later
# block lie elsewhere with each mix of tasks: those would be recorded for ever.
_MAX_PLACES = 8
_ALIGNMENT = 256  # bytes, the alignment of torch's caching allocator


class _Key(NamedTuple):
    """All that a recording depends on."""

    block: str
    arrays: tuple[tuple[torch.Size, torch.dtype], ...]  # inputs and outputs
    addresses: tuple[int, ...] | None  # None: in memory of ours


class _Recording(NamedTuple):
    replay: Work
    inputs: Sequence[Tensor] = ()  # in memory of ours
    outputs: Sequence[Tensor] = ()


class Replays:
    """Owns the recordings of one device, and the memory that they use. Not thread-safe, but any
    thread may be the next one to run a block."""

    def __init__(self, device: torch.device, recorder: Recorder) -> None:
        self._device = device
        self._recorder = recorder
        self._record: Record  # made when there is something to record
        self._recordings: OrderedDict[_Key, _Recording] = OrderedDict()  # the last used is last
        self._counts: Counter[_Key] = Counter()  # runs without a recording of this kind
        self._places: Counter[_Key] = Counter()  # recordings made at addresses of the caller
        self._never: set[str] = set()  # blocks that cannot be recorded
        self._threads = threading.local()  # `blocks` that this thread has computed
        self.recorded = 0  # recordings that were ever made
        self._memory = torch.empty(0, dtype=torch.uint8, device=device)

    @property
    def nbytes(self) -> int:
        """Memory of ours at the borders of recordings."""
        return self._memory.nbytes

    def run(
        self, block: str, compute: Compute, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        """Do `compute(inputs, outputs)`, by replaying a recording if there is one."""
        tensors = (*inputs, *outputs)
        anywhere = _Key(block, tuple([(t.shape, t.dtype) for t in tensors]), None)
        here = anywhere._replace(addresses=tuple([t.data_ptr() for t in tensors]))
        recording = self._recordings.get(here)
        if recording is not None:
            self._recordings.move_to_end(here)
            recording.replay()
            return
        recording = self._meet(here, anywhere, compute, inputs, outputs)
        if recording is None:
            self._computed().add(block)
            compute(inputs, outputs)
            return
        for source, target in zip(inputs, recording.inputs, strict=False):
            target.copy_(source)
        recording.replay()
        for source, target in zip(recording.outputs, outputs, strict=False):
            target.copy_(source)

    def forget(self, block: str) -> None:
        """Free all recordings of a block."""
        for counts in (self._recordings, self._counts, self._places):
            for key in [key for key in counts if key.block == block]:
                del counts[key]
        self._never.discard(block)
        self._free_memory()

    def clear(self) -> None:
        """Free all recordings. What runs again and again is recorded anew."""
        self._recordings.clear()
        self._counts.clear()
        self._places.clear()
        self._free_memory()

    def _meet(
        self,
        here: _Key,
        anywhere: _Key,
        compute: Compute,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> _Recording | None:
        """A recording of the run, made now if it has run often enough; else None."""
        if here.block in self._never:
            return None
        if len(self._counts) > _MAX_COUNTED:
            self._counts.clear()
        self._counts.update((here, anywhere))
        often_here = self._counts[here] >= _RECORD_AT_RUN
        if often_here and self._places[anywhere] < _MAX_PLACES:
            made = self._make(here, compute, inputs, outputs)
            self._places[anywhere] += made is not None
            return made
        recording = self._recordings.get(anywhere)
        if recording is not None:
            self._recordings.move_to_end(anywhere)
            return recording
        if self._counts[anywhere] < _RECORD_AT_RUN:
            return None
        return self._make(anywhere, compute, *self._place(inputs, outputs))

    def _make(
        self, key: _Key, compute: Compute, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> _Recording | None:
        """Record, but not what this thread has never computed: libraries have handles of their own
        for each thread, and cannot make one in a recording."""
        if key.block not in self._computed():
            return None
        if not self._recordings:
            self._record = self._recorder()
        try:
            replay = self._record(lambda: compute(inputs, outputs))
        except NotRecordable as error:
            log.warning("block %s is run without a recording: %s", key.block[:12], error)
            self._never.add(key.block)
            return None
        except torch.OutOfMemoryError:
            log.warning("block %s is not recorded: the device's memory is full", key.block[:12])
            for kind in (key, key._replace(addresses=None)):
                self._counts[kind] = 0  # later there may be room
            return None
        placed = (inputs, outputs) if key.addresses is None else ((), ())
        made = self._recordings[key] = _Recording(replay, *placed)
        del self._counts[key]
        self.recorded += 1
        if len(self._recordings) > _MAX_RECORDINGS:
            self._recordings.popitem(last=False)
        return made

    def _computed(self) -> set[str]:
        """The blocks that this thread has computed without a recording."""
        found: set[str] = self._threads.__dict__.setdefault("blocks", set())
        return found

    def _place(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Arrays like these in memory of ours. Recordings made in less of it are dropped."""
        tensors = (*inputs, *outputs)
        size = sum(_aligned(tensor.nbytes) for tensor in tensors)
        if size > self._memory.nbytes:
            for key in [key for key in self._recordings if key.addresses is None]:
                del self._recordings[key]
            self._memory = torch.empty(0, dtype=torch.uint8, device=self._device)
            self._memory = torch.empty(size, dtype=torch.uint8, device=self._device)
        placed, offset = [], 0
        for tensor in tensors:
            part = self._memory[offset : offset + tensor.nbytes]
            placed.append(part.view(tensor.dtype).view(tensor.shape))
            offset += _aligned(tensor.nbytes)
        return placed[: len(inputs)], placed[len(inputs) :]

    def _free_memory(self) -> None:
        if all(key.addresses is not None for key in self._recordings):
            self._memory = torch.empty(0, dtype=torch.uint8, device=self._device)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT

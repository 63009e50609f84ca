"""Repeated runs are recorded once and replayed, which avoids the launch of each kernel.

A recording (a CUDA graph) is of one block at one number of rows and has addresses of its own: rows
are copied there and from there, on the device. All recordings share these addresses, since they run
in turn. Knows no CUDA: the caller passes in how work is recorded.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

log = logging.getLogger("edged.device")

Work: TypeAlias = Callable[[], None]
Record: TypeAlias = Callable[[Work], Work]
"""From work that touches the device to what does it, again and again; does nothing by itself.

Raises RuntimeError for work that needs the host in between.
"""
Recorder: TypeAlias = Callable[[], Record]
"""A new one is made whenever no recording is left of the last one's: CUDA's pools die so."""
Compute: TypeAlias = Callable[[Sequence[Tensor], Sequence[Tensor]], None]

_Key: TypeAlias = "tuple[str, int]"  # block, rows

_MAX_RECORDINGS = 256
_RECORD_AT_RUN = 3  # a run of a block is recorded the third time that it is made
_ALIGNMENT = 256  # bytes, the alignment of torch's caching allocator


@dataclass(frozen=True, slots=True)
class _Recording:
    inputs: list[Tensor]
    outputs: list[Tensor]
    replay: Work


class Replays:
    """Owns the recordings of one device, and the memory that they use. Not thread-safe."""

    def __init__(self, device: torch.device, recorder: Recorder) -> None:
        self._device = device
        self._recorder = recorder
        self._record: Record  # made when there is something to record
        self._recordings: OrderedDict[_Key, _Recording] = OrderedDict()  # the last used is last
        self._seen: dict[_Key, int] = {}  # number of runs that were not replayed
        self._never: set[str] = set()  # blocks that cannot be recorded
        self._memory = torch.empty(0, dtype=torch.uint8, device=device)

    def run(
        self, block: str, compute: Compute, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        """Do `compute(inputs, outputs)`, by replaying a recording if there is one."""
        key = block, len(outputs[0])
        recording = self._recordings.get(key) or self._meet(key, compute, inputs, outputs)
        if recording is None:
            compute(inputs, outputs)
            return
        self._recordings.move_to_end(key)
        for source, target in zip(inputs, recording.inputs, strict=True):
            target.copy_(source)
        recording.replay()
        for source, target in zip(recording.outputs, outputs, strict=True):
            target.copy_(source)

    def forget(self, block: str) -> None:
        """Free all recordings of a block."""
        for key in [key for key in self._seen if key[0] == block]:
            del self._seen[key]
            self._recordings.pop(key, None)
        self._never.discard(block)

    def clear(self) -> None:
        self._recordings.clear()
        self._seen.clear()

    def _meet(
        self, key: _Key, compute: Compute, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> _Recording | None:
        """A recording of the run, made now if it has run often enough; else None."""
        block = key[0]
        self._seen[key] = seen = self._seen.get(key, 0) + 1
        self._reserve(sum(_aligned(tensor.nbytes) for tensor in (*inputs, *outputs)))
        if seen < _RECORD_AT_RUN or block in self._never:
            return None
        if not self._recordings:
            self._record = self._recorder()
        placed = self._place((*inputs, *outputs))
        ours, theirs = placed[: len(inputs)], placed[len(inputs) :]
        try:
            replay = self._record(lambda: compute(ours, theirs))
        except RuntimeError as error:
            text = " ".join(str(error).split())[:300]
            log.warning("block %s is run without a recording: %s", block[:12], text)
            self._never.add(block)
            return None
        recording = self._recordings[key] = _Recording(ours, theirs, replay)
        if len(self._recordings) > _MAX_RECORDINGS:
            oldest, _ = self._recordings.popitem(last=False)
            self._seen[oldest] = 0
        return recording

    def _reserve(self, size: int) -> None:
        """Make room for the largest run so far. Recordings made in less room are dropped."""
        if size > self._memory.nbytes:
            self._recordings.clear()
            self._memory = torch.empty(size, dtype=torch.uint8, device=self._device)

    def _place(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        placed, offset = [], 0
        for tensor in tensors:
            part = self._memory[offset : offset + tensor.nbytes]
            placed.append(part.view(tensor.dtype).view(tensor.shape))
            offset += _aligned(tensor.nbytes)
        return placed


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT

"""What `infer` returns: frozen values, made from a reply."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from numpy.typing import NDArray

from edged import wire
from edged.client.call import Call
from edged.client.tensors import from_wire
from edged.errors import EdgedError, NotFound


class TaskResult(msgspec.Struct, frozen=True):
    """One task's answer for all rows of the request.

    With `top_k`, `classes[row]` holds the best classes, best first, and the tensor that they were
    taken from is not in `tensors`. Arrays are read-only, of shape (rows, ...).
    """

    task: str
    model: str
    tensors: Mapping[str, NDArray[Any]]
    classes: tuple[tuple[wire.ClassScore, ...], ...] = ()

    @property
    def tensor(self) -> NDArray[Any]:
        """The model's first output tensor."""
        if not self.tensors:
            raise NotFound(f"task {self.task!r} came as classes: ask without top_k for the tensor")
        return next(iter(self.tensors.values()))


class Result(msgspec.Struct, frozen=True):
    """The answer to one inference; `result["flowers"]` is that task's."""

    id: str
    outputs: tuple[TaskResult, ...]
    times: wire.InferTimes
    round_trip_s: float  # time from the first send to the answer, by the client's clock
    sends: int

    def __getitem__(self, task: str) -> TaskResult:
        for output in self.outputs:
            if output.task == task:
                return output
        raise NotFound(f"task {task!r} was not asked for in request {self.id}")

    @property
    def batch_size(self) -> int:
        """Rows of the largest batch that the request was part of."""
        return self.times.batch_size

    @property
    def tier(self) -> str:
        """Where the request was served: client, edge or cloud."""
        return self.times.tier

    @property
    def emulated(self) -> bool:
        """True: nothing was computed, the values mean nothing (the `emulated` backend)."""
        return self.times.emulated


def reply_of(call: Call) -> wire.ReplyMessage:
    """The reply to an ended call. Raises the error that it ended with."""
    if isinstance(call.outcome, EdgedError):
        raise call.outcome
    assert call.outcome is not None, "this is a bug: the call has not ended"
    return call.outcome


def result_of(call: Call) -> Result:
    """The result of an ended INFER call. Raises the error that it ended with."""
    reply, asked = reply_of(call), call.header
    assert isinstance(reply.header, wire.InferReply), "this is a bug: no inference"
    assert isinstance(asked, wire.Infer), "this is a bug: no inference"
    frames = iter(reply.payload)
    missing = {output.name for output in asked.outputs}
    parts: dict[tuple[str, str], TaskResult] = {}
    for output in reply.header.outputs:
        key = (output.name, output.model)
        missing.discard(output.name)
        known = parts.get(key, TaskResult(output.name, output.model, MappingProxyType({})))
        if output.classification is not None:
            parts[key] = TaskResult(*key, known.tensors, output.classification)
        else:
            tensors = {**known.tensors, output.tensor: from_wire(output, next(frames))}
            parts[key] = TaskResult(*key, MappingProxyType(tensors), known.classes)
    if missing:
        raise EdgedError(f"the daemon left out {sorted(missing)} of request {asked.id}")
    return Result(
        id=asked.id,
        outputs=tuple(parts.values()),
        times=reply.header.parameters,
        round_trip_s=call.ended_s - call.began_s,
        sends=call.sends,
    )

"""A request that is owed an answer: its payload, its results so far, and the reply to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from edged import wire
from edged.core.events import Answer
from edged.daemon.models.catalog import Resolved
from edged.daemon.peers.clients import Client
from edged.link import messages as link
from edged.manifest import Manifest


class Pending(msgspec.Struct, eq=False):
    """A request between its arrival and its answer.

    The payload is kept until then: when the worker dies, the request runs again.
    """

    client: Client
    id: str
    resolved: Resolved
    to_prepare: list[wire.Buffer]
    payload_bytes: int
    held_bytes: int  # of them here, and not in memory that the client shares
    light: bool  # as of link.Prepare
    late_images: int  # that the lane decodes which runs them, as a part of the batch
    is_ordered: bool = False  # the worker that there is has its Prepare
    is_left_out: bool = False  # that of a light one has failed: batches run without it
    # Of each model, by its key: the outputs, and the tensors of those without classes.
    results: dict[str, tuple[list[wire.OutputTensor], Sequence[wire.Buffer]]] = {}
    answer_bytes: int = 0  # of these tensors

    def ordered(self) -> None:
        """The worker is told to prepare it; results were of one that has died."""
        self.results.clear()
        self.answer_bytes = 0
        self.is_ordered, self.is_left_out = True, False

    def add(self, model: Manifest, answer: link.Answer, raw: Sequence[wire.Buffer]) -> None:
        """What one model has found; `raw` are the tensors of its outputs without classes."""
        self.results[answer.model] = [_output(model, output) for output in answer.outputs], raw
        self.answer_bytes += sum(map(len, raw))

    def reply(
        self, answer: Answer, *, emulated: bool, credits: int
    ) -> tuple[wire.InferReply, list[wire.Buffer]]:
        """The reply with all results, and its payload."""
        outputs: list[wire.OutputTensor] = []
        payload: list[wire.Buffer] = []
        for wanted in self.resolved.outputs:
            found, raw = self.results[wanted.key]
            outputs += found
            payload += raw
        header = wire.InferReply(
            id=self.id,
            outputs=tuple(outputs),
            parameters=wire.InferTimes(
                queue_us=round(answer.queue_s * 1e6),
                compute_input_us=round(answer.prepare_s * 1e6),
                compute_infer_us=round(answer.infer_s * 1e6),
                compute_output_us=round(answer.output_s * 1e6),
                batch_size=answer.batch_rows,
                emulated=emulated,
                credits=credits,
            ),
        )
        return header, payload


def answers_of(
    message: link.BatchDone, frames: Sequence[wire.Buffer]
) -> Iterator[tuple[link.Answer, list[wire.Buffer]]]:
    """Each answer of a batch with its raw tensors, which follow in the order of the outputs."""
    tensors = iter(frames)
    for answer in message.answers:
        yield answer, [next(tensors) for output in answer.outputs if output.classes is None]


def _output(model: Manifest, output: link.Output) -> wire.OutputTensor:
    classes = None
    if output.classes is not None:
        classes = tuple(
            tuple(wire.ClassScore(c.index, c.score, c.label) for c in row) for row in output.classes
        )
    return wire.OutputTensor(
        model.task, model.name, output.name, output.datatype, output.shape, classes
    )

"""Requests that are owed an answer, and the replies to clients.

Owns the table of pending requests: their payloads, their results so far, and how many bytes they
hold. Knows no sockets.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from edged import wire
from edged.config import Config
from edged.core.events import Answer, Refuse
from edged.daemon.models.catalog import Resolved
from edged.daemon.peers.clients import ConnectedClient
from edged.errors import EdgedError, from_code
from edged.link import messages as link
from edged.manifest import Manifest

log = logging.getLogger("edged")


class ClientOutlet(Protocol):
    """Where messages to clients go."""

    def to_client(self, routing_id: bytes, frames: wire.Frames) -> bool:
        """Never blocks. False when the client is gone or does not read."""


class PendingRequest(msgspec.Struct, eq=False):
    """A request between its arrival and its answer.

    The payload is kept until then: when the worker dies, the request runs again.
    """

    client: ConnectedClient
    id: str
    resolved: Resolved
    order: list[wire.Buffer]  # the PayloadHeader and its payload
    payload_bytes: int
    held_bytes: int  # the part of the payload that is held here, and not in shared memory
    inline: bool  # prepared by the batch that runs it
    inline_images: int  # the number of images that the batch decodes
    level: int = 0  # 0 is the most urgent
    is_ordered: bool = False  # the present worker has its payload
    has_failed: bool = False  # its inline preparation has: batches run without it
    # The outputs of each model, by its key, with the tensors of those that have no classes.
    results: dict[str, tuple[list[wire.OutputTensor], Sequence[wire.Buffer]]] = {}
    answer_bytes: int = 0  # the size of these tensors

    def __str__(self) -> str:
        """As the log names it: the id is the client's own."""
        return f"request {self.id} of client {self.client.number}"

    def fields(self, rid: int) -> dict[str, int]:
        """By which the journal finds all that the log says of it."""
        return {"request": rid, "client": self.client.number}

    def lose_worker(self) -> None:
        """The worker is gone. An answer that is held for its turn still needs the results."""
        self.is_ordered = self.has_failed = False

    def forget_results(self) -> None:
        """Another worker runs all of its models anew."""
        self.results.clear()
        self.answer_bytes = 0

    def add(
        self, model: Manifest, answer: link.ModelAnswer, tensors: Sequence[wire.Buffer]
    ) -> None:
        """What one model has found; `tensors` are those of its outputs without classes."""
        outputs = [
            wire.OutputTensor(model.task, model.name, o.name, o.datatype, o.shape, o.classes)
            for o in answer.outputs
        ]
        self.results[answer.model] = outputs, tensors
        self.answer_bytes += sum(map(len, tensors))

    def reply(self, answer: Answer, *, emulated: bool, credits: int) -> wire.Frames:
        """The message with all results."""
        outputs: list[wire.OutputTensor] = []
        payload: list[wire.Buffer] = []
        for wanted in self.resolved.outputs:
            found, tensors = self.results[wanted.key]
            outputs += found
            payload += tensors
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
        return wire.encode_reply(header, payload)


class Replies:
    """Owns the pending requests, and sends clients their answers and all other messages."""

    def __init__(
        self,
        outlet: ClientOutlet,
        config: Config,
        on_gone: Callable[[ConnectedClient, float], None],
    ) -> None:
        """`on_gone`: told of a client that could not be reached."""
        self._outlet = outlet
        self._queue_rows = config.scheduler.queue_rows
        self._limits = config.published_limits()
        self._on_gone = on_gone
        self.pending: dict[int, PendingRequest] = {}  # each by its `rid`
        self.payload_bytes = 0  # what pending requests hold here
        self.payload_room_bytes = config.scheduler.queue_bytes  # what they may hold
        self.rejected: Counter[str] = Counter()  # requests that were never queued, by code
        self._waiting_clients = 0  # clients that are owed an answer

    def add(self, rid: int, request: PendingRequest) -> None:
        client = request.client
        self._waiting_clients += not client.in_flight
        client.in_flight[request.id] = rid
        self.pending[rid] = request
        self.payload_bytes += request.held_bytes

    def answer(self, command: Answer, now: float, *, emulated: bool) -> None:
        """Send the results of a request."""
        credits = self._credits(self.pending[command.rid])
        request = self._take(command.rid)
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "%s: %s", request, _where_time_went(command), extra=request.fields(command.rid)
            )
        frames = request.reply(command, emulated=emulated, credits=credits)
        self._deliver(request.client, frames, now)

    def refuse(self, command: Refuse, now: float) -> None:
        """Send an error in place of results."""
        request = self._take(command.rid)
        if log.isEnabledFor(logging.DEBUG):
            code, fields = command.code.value, request.fields(command.rid)
            log.debug("%s is refused: %s, %s", request, code, command.message, extra=fields)
        error = from_code(command.code, command.message, retry_after_s=command.retry_after_s)
        self.send_error(request.client, error, request.id, now)

    def send(self, client: ConnectedClient, header: wire.ReplyHeader, now: float) -> None:
        """Send a reply to anything else than a request for inference."""
        self._deliver(client, wire.encode_reply(header), now)

    def reject(
        self, client: ConnectedClient, error: EdgedError, id: str | None, now: float
    ) -> None:
        """Refuse a request for inference, or one that cannot be read, before it is queued."""
        self.rejected[error.code.value] += 1
        self.send_error(client, error, id, now)

    def send_error(
        self, client: ConnectedClient, error: EdgedError, id: str | None, now: float
    ) -> None:
        self._deliver(client, wire.encode_error(error, id), now)

    def _take(self, rid: int) -> PendingRequest:
        request = self.pending.pop(rid)
        self.payload_bytes -= request.held_bytes
        client = request.client
        del client.in_flight[request.id]
        self._waiting_clients -= not client.in_flight
        return request

    def _credits(self, answered: PendingRequest) -> int:
        """How many such requests its client may have unanswered: its share of the queue now."""
        waiting = self._waiting_clients
        by_rows = self._queue_rows // (waiting * answered.resolved.rows)
        by_bytes = self.payload_room_bytes // (waiting * max(1, answered.payload_bytes))
        by_answers = self._limits.max_message_bytes // max(1, answered.answer_bytes)
        return max(1, min(self._limits.max_in_flight, by_rows, by_bytes, by_answers))

    def _deliver(self, client: ConnectedClient, frames: wire.Frames, now: float) -> None:
        if not self._outlet.to_client(client.routing_id, frames):
            self._on_gone(client, now)


def _where_time_went(answer: Answer) -> str:
    parts_s = (answer.queue_s, answer.prepare_s, answer.infer_s, answer.output_s)
    waiting, input, infer, output = (f"{1e3 * seconds:.1f}" for seconds in parts_s)
    return (
        f"answered after {1e3 * sum(parts_s):.1f} ms: waiting {waiting}, input {input}, "
        f"infer {infer}, output {output}; in a batch of {answer.batch_rows} rows"
    )

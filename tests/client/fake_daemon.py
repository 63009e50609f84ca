"""A daemon with real sockets and no models, whose answers a test decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import zmq

from edged import wire
from edged.errors import EdgedError

LABELS = ("daisy", "rose", "tulip")
LIMITS = wire.Limits(max_rows=8, max_in_flight=4)


@dataclass(frozen=True)
class Received:
    """A request, and who sent it."""

    client: bytes
    request: wire.RequestMessage

    @property
    def id(self) -> str:
        return self.request.header.id

    @property
    def is_infer(self) -> bool:
        return isinstance(self.request.header, wire.Infer)


Messages = Iterable[wire.Frames]
Answer = Callable[[Received], Messages]


class FakeDaemon:
    """Answers each INFER with what `answer` returns: any number of messages, none included.

    Other operations get sensible replies, unless `answer_others` is given.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.answer: Answer = lambda received: [infer_reply(received)]
        self.answer_others: Answer = lambda received: [other_reply(received)]
        self.received: list[Received] = []
        self._thread: threading.Thread | None = None

    @property
    def infers(self) -> list[Received]:
        return [received for received in self.received if received.is_infer]

    def start(self) -> None:
        self._context = zmq.Context()
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_HANDOVER, 1)
        router.setsockopt(zmq.LINGER, 5_000)
        router.bind(self.endpoint)
        self._stop = self._context.socket(zmq.PAIR)
        self._stop.bind("inproc://stop")
        self._thread = threading.Thread(target=self._serve, args=[router])
        self._thread.start()

    def stop(self) -> None:
        """Let go what was sent, then cut all connections."""
        if self._thread is not None:
            self._stop.send(b"")
            self._thread.join()
            self._stop.close()
            self._context.term()
            self._thread = None

    def _serve(self, router: zmq.Socket[bytes]) -> None:
        stop = self._context.socket(zmq.PAIR)
        stop.connect("inproc://stop")
        poller = zmq.Poller()
        poller.register(router, zmq.POLLIN)
        poller.register(stop, zmq.POLLIN)
        while stop not in dict(poller.poll()):
            client, *frames = router.recv_multipart()
            try:
                received = Received(client, wire.decode_request(frames, LIMITS))
            except wire.BadRequest as error:
                router.send_multipart([client, *wire.encode_error(error, error.id)])
                continue
            self.received.append(received)
            answer = self.answer if received.is_infer else self.answer_others
            for message in answer(received):
                router.send_multipart([client, *message])
        router.close()
        stop.close()


def infer_reply(received: Received) -> wire.Frames:
    """For each task the scores of three classes, which differ by row, or the best classes."""
    header = received.request.header
    assert isinstance(header, wire.Infer)
    rows = header.inputs[0].shape[0]
    scores = np.arange(rows, dtype="<f4").repeat(3).reshape(rows, 3) + np.float32([0, 2, 1])
    outputs, payload = [], []
    for asked in header.outputs:
        classes = None
        if (k := asked.parameters.classification) is not None:
            best = [(int(i), float(row[i])) for row in scores for i in np.argsort(-row)[:k]]
            classes = tuple(
                tuple(wire.ClassScore(i, score, LABELS[i]) for i, score in best[r * k : r * k + k])
                for r in range(rows)
            )
        else:
            payload.append(scores.tobytes())
        model = asked.parameters.model or f"{asked.name}-net"
        outputs.append(
            wire.OutputTensor(asked.name, model, "logits", "FP32", scores.shape, classes)
        )
    times = wire.InferTimes(queue_us=10, compute_infer_us=1000, batch_size=rows + 1)
    return wire.encode_reply(wire.InferReply(header.id, tuple(outputs), times), payload)


def error(received: Received, error: EdgedError) -> wire.Frames:
    return wire.encode_error(error, received.id)


def other_reply(received: Received) -> wire.Frames:
    header = received.request.header
    return wire.encode_reply(_OTHERS[type(header)](header))


_STATISTICS = wire.StatisticsReply(
    id="",
    server=wire.ServerStatistics(state="READY", pid=42, uptime_s=3725.0, in_flight=3, queued=1),
    tasks=(
        wire.TaskStatistics(
            "flowers",
            inference_count=90,
            execution_count=30,
            success=wire.Duration(80, 80 * 12_000_000),
            fail=wire.Failures(2, {"INVALID_ARG": 2}),
            queue=wire.Duration(80, 80 * 2_000_000),
            compute_infer=wire.Duration(80, 80 * 8_000_000),
            latency_us={"p50": 11_000.0, "p99": 31_000.0},
            queued=1,
            windows=(
                wire.TaskWindow(60, 62.5, 50, 2, 55, {"p50": 12_000.0, "p99": 32_000.0}),
                wire.TaskWindow(600, 640.0),
            ),
        ),
    ),
    batches=(wire.BatchStatistics(1, 10, 0), wire.BatchStatistics(4, 20, 5)),
    memory={"block_bytes": 12_900_000},
)

_OTHERS: dict[type, Callable[[wire.RequestHeader], wire.ReplyHeader]] = {
    wire.Ping: lambda h: wire.PingReply(h.id),
    wire.Cancel: lambda h: wire.CancelReply(h.id, False),
    wire.ServerLive: lambda h: wire.LiveReply(h.id, True),
    wire.ServerReady: lambda h: wire.ReadyReply(h.id, True, "READY"),
    wire.ServerMetadata: lambda h: wire.ServerMetadataReply(h.id, "edged", "0.1.0", (), LIMITS),
    wire.ModelReady: lambda h: wire.ModelReadyReply(h.id, "flowers-net", True),
    wire.ModelMetadata: lambda h: wire.ModelMetadataReply(
        h.id,
        "flowers-net",
        "flowers",
        "onnx_onnxv1",
        (wire.TensorMetadata("image", "FP32", (-1, 3, 32, 32)),),
        (wire.TensorMetadata("logits", "FP32", (-1, 3)),),
        labels=LABELS,
    ),
    wire.RepositoryIndex: lambda h: wire.RepositoryIndexReply(
        h.id,
        (
            wire.ModelIndex("flowers-net", "flowers", "READY", "", True, "fp32", 13_000_000, 9_000),
            wire.ModelIndex("food-net", "food", "UNAVAILABLE", "the worker is starting"),
        ),
    ),
    wire.StatisticsQuery: lambda h: wire.StatisticsReply(
        h.id, _STATISTICS.server, _STATISTICS.tasks, _STATISTICS.batches, _STATISTICS.memory
    ),
}

"""The worker's core on an emulated CUDA device: batches in flight, with every access declared."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edged import backends
from edged.backends.emulated_cuda import OnnxRuntimeOnCuda
from edged.backends.memory import Array
from edged.core.events import BatchFailed, Member, Run
from edged.cuda.order import Span
from edged.device.batches import Batches, Submitted
from edged.device.decoding import Decoding, Room
from edged.device.executor import Executor
from edged.device.loader import Loader
from edged.device.preparing import prepare
from edged.device.staging import Staging
from edged.device.turns import TurnQueue
from edged.link import messages as link
from edged.store import Store
from tests.backends.blocks import dense
from tests.device.rig import Model

BODY = dense(6, 40, seed=1)
MODELS = {
    model.manifest.name: model
    for model in (
        Model("a", BODY, dense(40, 4, seed=2)),
        Model("b", BODY, dense(40, 3, seed=3)),
    )
}
STAGING_ROWS = 18
MEMORY_BYTES = 17 << 20  # a context, and as much as fits beside it
NO_PICTURES = Decoding(0, Room(0, 1))


class Core:
    """Serves `MODELS`. Each `ask` is a batch; `answers` has what was reported of each request."""

    def __init__(self, store: Store, backend: OnnxRuntimeOnCuda) -> None:
        self.backend = backend
        self.cuda = backend.cuda
        self.loader = Loader(store, backend)
        self.loader.begin({name: model.manifest for name, model in MODELS.items()})
        manifests = self.loader.manifests
        self.executor = Executor(manifests, backend, self.loader.max_rows)
        self.staging = Staging(manifests, STAGING_ROWS, backend.memory)
        self._batches = Batches(self.staging, TurnQueue(), self._report, report_block_runs=False)
        self.answers: dict[int, list[Array | str]] = {}
        self._members: dict[int, Sequence[Member]] = {}
        self._given: dict[int, tuple[str, Array]] = {}
        self._in_flight: deque[Submitted] = deque()

    def ask(self, batch: int, *asked: tuple[str, int]) -> None:
        """Stage requests for so many rows of a model, and submit them as a batch."""
        while len(self._in_flight) >= self.executor.depth:
            self.finish()
        members = []
        for number, (model, rows) in enumerate(asked):
            rid = 10 * batch + number
            x = np.random.default_rng(rid).random((rows, 6), dtype=np.float32)
            self._given[rid] = model, x
            self._stage(rid, model, x)
            members.append(Member(rid, (model,)))
        self._members[batch] = members
        order = Run(batch, "group", tuple(members), sum(rows for _, rows in asked), True)
        submitted = self._batches.submit(self.executor, order)
        if submitted is not None:
            self._in_flight.append(submitted)

    def finish(self) -> None:
        self._batches.finish(self.executor, self._in_flight.popleft())

    def finish_all(self) -> None:
        while self._in_flight:
            self.finish()

    def close(self) -> None:
        """Give the memory at block borders back."""
        for slot in self.executor._slots:
            if slot.allocated is not None:
                self.backend.memory.free(slot.allocated)

    def wrong(self) -> list[int]:
        """Requests with an answer that is not what the model says, failures apart."""
        found = []
        for rid, (model, x) in self._given.items():
            for answer in self.answers.get(rid, []):
                if not isinstance(answer, str):
                    right = MODELS[model].twin(x)
                    if not np.allclose(answer, right, rtol=1e-4, atol=1e-5):
                        found.append(rid)
        return found

    def _stage(self, rid: int, model: str, x: Array) -> None:
        given = link.Input("x", "tensor", "FP32", x.shape)
        message = link.PayloadHeader(rid, len(x), (given,), (link.Ask(model),))
        staged = self.staging.admit(message)
        for feed in staged.feeds:
            for row in feed.rows:
                place = feed.pool.arrays[0][row]
                span = Span(place.__array_interface__["data"][0], place.nbytes)
                self.cuda.on_host("a row is filled", writes=[span])
        payload = [x.reshape(-1).view(np.uint8).data]
        prepare(message, payload, staged, self.loader.manifests, NO_PICTURES)
        assert self.staging.settle(staged, prepared=True)

    def _report(self, message: link.FromWorker, payload: Sequence[memoryview]) -> None:
        if isinstance(message, BatchFailed):
            for member in self._members[message.batch]:
                self.answers.setdefault(member.rid, []).append(message.code.value)
                self.staging.discard(member.rid)
            return
        assert isinstance(message, link.BatchOutputs)
        frames = iter(payload)
        for answer in message.answers:
            (output,) = answer.outputs
            array = np.frombuffer(next(frames), np.float32).reshape(output.shape)
            span = Span(array.__array_interface__["data"][0], array.nbytes)
            self.cuda.on_host("an answer is read", reads=[span])
            self.answers.setdefault(answer.rid, []).append(array.copy())


def make_backend(folder: Path, **options: Any) -> OnnxRuntimeOnCuda:
    found = backends.create(
        "emulated-cuda", {"memory_bytes": MEMORY_BYTES, **options}, threads=1, cache_dir=folder
    )
    assert isinstance(found, OnnxRuntimeOnCuda)
    return found

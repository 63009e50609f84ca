"""A store of small models and a real worker process, for the tests of the device worker."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from edged import wire
from edged.backends.memory import Array
from edged.core.events import (
    BlockLoaded,
    BlockLoadFailed,
    Calibrate,
    Load,
    Member,
    Prepared,
    PrepareFailed,
    Run,
)
from edged.device.process import WorkerProcess
from edged.device.settings import Settings
from edged.link import messages as link
from edged.manifest import SCHEMA, Manifest, PathStep, Value
from edged.store import Store
from tests.backends.blocks import Block

TIMEOUT_S = 60  # of anything; a test that waits for it fails


class Model:
    """A chain of blocks with one input and one output each, in a manifest and in numpy."""

    def __init__(self, name: str, *blocks: Block, **fields: Any) -> None:
        names = ["image" if "preprocess" in fields else "x", *(f"v{i}" for i in range(len(blocks)))]
        tensors = [blocks[0].use.reads[0], *(block.use.writes[0] for block in blocks)]
        self.blocks = blocks
        self.manifest = Manifest(
            **{
                "schema": SCHEMA,
                "name": name,
                "task": name,
                "precision": "fp32",
                "inputs": (names[0],),
                "outputs": (names[-1],),
                "values": tuple(
                    Value(n, t.datatype, t.shape) for n, t in zip(names, tensors, strict=True)
                ),
                "steps": tuple(
                    PathStep(block.id, (read,), (write,))
                    for block, read, write in zip(blocks, names, names[1:], strict=False)
                ),
                "whole_bytes": sum(len(block.data) for block in blocks),
                **fields,
            }
        )

    def twin(self, x: Array) -> Array:
        for block in self.blocks:
            (x,) = block.twin(x)
        return x


def make_store(path: Path, models: Iterable[Model]) -> Store:
    store = Store(path).create()
    with store.update() as change:
        for model in models:
            for block in model.blocks:
                change.add_block(block.data)
            change.put_model(model.manifest)
    return store


class Rig:
    """Talks to one worker as the front does, one message at a time."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.ready: Any = None
        self.bytes_used: dict[str, int] = {}  # of the blocks that were loaded at the start
        self.failed: dict[str, BlockLoadFailed] = {}  # blocks that could not be
        self._rids = itertools.count(1)
        self._batches = itertools.count(1)
        self._poller = zmq.Poller()
        self._poller.register(worker.death_fd, zmq.POLLIN)

    def send(self, message: link.ToWorker, *payload: bytes) -> None:
        self.worker.sender.put([link.encode(message), *payload])
        self.worker.sender.flush()

    def next(self) -> tuple[link.FromWorker, list[memoryview]]:
        """The next message of the worker. Fails when it ends, or takes too long."""
        sender, receiver = self.worker.sender, self.worker.receiver
        while (frames := receiver.receive()) is None:
            sender.flush()
            self._poller.register(sender.descriptor, zmq.POLLOUT if sender.waits else 0)
            self._poller.register(receiver.descriptor, 0 if receiver.ended else zmq.POLLIN)
            ready = dict(self._poller.poll(TIMEOUT_S * 1000)).keys()
            assert ready, "the worker said nothing in time"
            assert ready - {self.worker.death_fd}, self.worker.exit_reason()
        return link.decode_from_worker(frames[0]), frames[1:]

    def expect(self, kind: type) -> Any:
        message, _ = self.next()
        assert type(message) is kind, message
        return message

    def load_all(self, store: Store) -> None:
        """Have all blocks of the worker's models loaded, as a front does that has room for them."""
        models = store.models(self.ready.models).values()
        for block in dict.fromkeys(step.block for model in models for step in model.steps):
            self.send(Load(block))
            message, _ = self.next()
            if isinstance(message, BlockLoaded):
                self.bytes_used[block] = message.bytes
            else:
                assert isinstance(message, BlockLoadFailed), message
                self.failed[block] = message

    def calibrate(self, model: str, rows: int) -> link.ModelMeasured:
        """Have a model measured; the last report."""
        while True:
            self.send(Calibrate(model, rows))
            message = self.expect(link.ModelMeasured)
            assert message.model == model
            if message.done:
                assert isinstance(message, link.ModelMeasured)
                return message

    def ended(self) -> str:
        """Wait for the end of the process and say how it ended."""
        assert self.worker.wait(TIMEOUT_S), "the worker did not end in time"
        return self.worker.exit_reason()

    def prepare(
        self,
        given: Array | Sequence[bytes] | Mapping[str, Array],
        *asks: str | link.Ask,
        kind: str = "tensor",
        inline: bool = False,
        client: int = 0,
        share: Path | None = None,
        spoil: Callable[[Path], object] = lambda path: None,
    ) -> int:
        """Send a payload and return its rid; `given`: an array, files, or arrays by name.

        share  a file that the payload is written to, from byte 8 on, instead of being sent
        spoil  what becomes of this file before the worker reads it
        """
        if isinstance(given, np.ndarray):
            given = {"x": given}
        if isinstance(given, Mapping):
            inputs = tuple(
                link.Input(name, kind, _DATATYPES[array.dtype.str], array.shape)
                for name, array in given.items()
            )
            payload = [array.tobytes() for array in given.values()]
            rows = next(iter(given.values())).shape[0]
        else:
            inputs = (link.Input("image", "encoded", "UINT8", (len(given),)),)
            payload, rows = list(given), len(given)
        rid = next(self._rids)
        wanted = tuple(link.Ask(ask) if isinstance(ask, str) else ask for ask in asks)
        shared = None
        if share is not None:
            share.write_bytes(bytes(8) + b"".join(payload))
            ends = itertools.accumulate(map(len, payload), initial=8)
            shared = link.PayloadFile(str(share), tuple(zip(ends, map(len, payload), strict=False)))
            payload = []
            spoil(share)
        asked = link.PayloadHeader(rid, rows, inputs, wanted, inline, shared, client=client)
        self.send(asked, *payload)
        return rid

    def prepared(self, *args: Any, **kwargs: Any) -> int:
        """Prepare and wait for it to be done."""
        rid = self.prepare(*args, **kwargs)
        message = self.expect(Prepared)
        assert message.rid == rid
        return rid

    def refused(self, *args: Any, **kwargs: Any) -> PrepareFailed:
        """Prepare and wait for it to be refused."""
        rid = self.prepare(*args, **kwargs)
        message = self.expect(PrepareFailed)
        assert message.rid == rid
        assert "\n" not in message.message
        return message

    def read_all(self) -> None:
        """Wait until the worker has read what was sent before."""
        self.send(link.Measure(1))
        self.expect(link.WorkerMemory)

    def run(self, *members: tuple[int, Sequence[str]], wide: bool = True) -> int:
        batch = next(self._batches)
        staged = tuple(Member(rid, tuple(models)) for rid, models in members)
        self.send(Run(batch, "group", staged, len(staged), wide))
        return batch

    def ran(self, *members: tuple[int, Sequence[str]]) -> Done:
        """Run a batch and wait for its answers."""
        batch = self.run(*members)
        message, payload = self.next()
        assert isinstance(message, link.BatchOutputs), message
        assert message.done.batch == batch
        return Done(message, payload)


class Done:
    """The answers of a batch: `tensors` and `classes` by request and model, first output."""

    def __init__(self, message: link.BatchOutputs, payload: Sequence[memoryview]) -> None:
        self.message = message
        self.tensors: dict[tuple[int, str], Array] = {}
        self.classes: dict[tuple[int, str], tuple[tuple[wire.ClassScore, ...], ...]] = {}
        frames = iter(payload)
        for answer in message.answers:
            for output in answer.outputs:
                if output.classes is not None:
                    self.classes.setdefault((answer.rid, answer.model), output.classes)
                    continue
                array = np.frombuffer(next(frames), np.float32).reshape(output.shape)
                self.tensors.setdefault((answer.rid, answer.model), array)

    @property
    def block_rows(self) -> list[int]:
        return [run.rows for run in self.message.blocks]


@contextmanager
def worker(store: Store | Path, *, ready: bool = True, **settings: Any) -> Iterator[Rig]:
    """A worker process on this store; with `ready`, after it has said so."""
    path = store.path if isinstance(store, Store) else store
    fixed = {"cache_dir": str(path.parent / "cache"), "report_block_runs": True}
    made = Settings(
        store=str(path), **{"backend": "fake", "max_batch_rows": 8, **fixed, **settings}
    )
    process = WorkerProcess(made)
    try:
        rig = Rig(process)
        if ready:
            rig.ready = rig.expect(link.Ready)
            rig.load_all(Store(path))
        yield rig
    finally:
        process.close()


_DATATYPES = {"<f4": "FP32", "|u1": "UINT8", "<i8": "INT64", "<f8": "FP64", "<f2": "FP16"}

"""A worker reports what cannot be read, or was never ordered, and the front stays."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from math import inf, nan
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edged import wire
from edged.client import Client
from edged.core.events import (
    BatchDone,
    BatchFailed,
    BlockLoaded,
    BlockLoadFailed,
    BlockUnloaded,
    Discard,
    Prepared,
    PrepareFailed,
    Run,
)
from edged.daemon import worker_port
from edged.daemon.worker_port import Untrusted
from edged.errors import Code, EdgedError
from edged.link import messages as link
from edged.link.channel import Garbled, Receiver, channel_pair
from tests.colors import picture, png
from tests.daemon.samples import OTHER_BACKBONE, Bench, batch_done, catalog, infer, manifest


def reports(bench: Bench) -> list[tuple[bytes, list[bytes]]]:
    """What an honest worker would report of all that was ordered, as frames."""
    honest: list[tuple[link.FromWorker, list[bytes]]] = []
    for order in bench.worker:
        if isinstance(order, link.PayloadHeader):
            honest.append((Prepared(order.rid, 1e-3), []))
        elif isinstance(order, Run):
            honest.append(batch_done(order, bench.rows))
        elif isinstance(order, link.Measure):
            honest.append((link.WorkerMemory(order.n, 1, 1, 1), []))
    bench.worker.clear()
    return [(link.encode(message), payload) for message, payload in honest]


def spoiled(frame: bytes, payload: list[bytes], dice: random.Random) -> tuple[bytes, list[bytes]]:
    """The report as a worker whose memory is damaged might send it."""
    data = bytearray(frame)
    match dice.randrange(7):
        case 0:
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        case 1:
            del data[dice.randrange(len(data)) :]
        case 2:
            at = dice.randrange(len(data))
            data[at : at + 4] = dice.randbytes(4)
        case 3:
            payload = payload[1:] if payload else [b"surplus"]
        case 4:
            payload = [*payload, b""]
        case 5:
            payload = [part[:-1] for part in payload] or [b"surplus"]
        case 6:
            return msgspec.msgpack.encode(dice.choice([None, 7, ["Run"], {}, ["Loaded", "x"]])), []
    return bytes(data), payload


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_reported_each_request_gets_its_one_answer(seed: int) -> None:
    dice = random.Random(seed)
    bench = Bench(models=catalog(manifest("flowers"), manifest("food"), manifest("signal")))
    bench.worker_is_ready()
    ids = [f"r{number}" for number in range(12)]
    deaths = 0
    for number, id in enumerate(ids):
        tasks = dice.sample(["flowers", "food", "signal"], k=1 + number % 3)
        bench.ask(infer(id, *tasks))
        for frame, payload in reports(bench):
            if dice.random() < 0.3:
                frame, payload = spoiled(frame, payload, dice)
            try:
                bench.front.on_worker(worker_port.read(frame), payload, bench.now)
            except Untrusted as error:
                deaths += 1
                bench.front.on_worker_lost(str(error), bench.now, batch=error.batch)
                bench.worker.clear()
                bench.worker_is_ready()
                break
    bench.finish()
    answered = [reply.header.id for _, reply in bench.sent]
    assert sorted(answered) == sorted(ids)
    assert deaths
    codes = {r.header.code for _, r in bench.sent if isinstance(r.header, wire.ErrorReply)}
    assert codes <= {"INTERNAL", *Code.__members__}


@pytest.fixture
def bench() -> Bench:
    """A front with a request that runs as batch 1."""
    bench = Bench()
    bench.worker_is_ready()
    bench.ask(infer("r1", "flowers"))
    bench.front.on_worker(Prepared(1, 1e-3), [], 0.0)
    return bench


HEAD = manifest("flowers").steps[1].block
OUTPUT = link.ModelOutput("logits", "UINT8", (1, 8))


def outputs(
    batch: int, answers: tuple[link.ModelAnswer, ...], *, infer_s: float = 1.0
) -> link.BatchOutputs:
    return link.BatchOutputs(BatchDone(batch, infer_s, 1.0), answers)


@pytest.mark.parametrize(
    ("report", "payload"),
    [
        (Prepared(1, 1e-3), []),  # a second time
        (Prepared(77, 1e-3), []),
        (PrepareFailed(1, Code.INTERNAL, "no"), []),
        (BatchFailed(2, Code.INTERNAL, "no"), []),
        (outputs(2, ()), []),
        (outputs(1, ()), []),  # with no answer for its member
        (outputs(1, (link.ModelAnswer(1, "flowers", (OUTPUT,)),)), []),
        (outputs(1, (link.ModelAnswer(1, "flowers", (OUTPUT,)),)), [b"short"]),
        (outputs(1, (link.ModelAnswer(1, "flowers", ()),)), []),
        (outputs(1, (link.ModelAnswer(1, "food", (OUTPUT,)),)), [b"8 bytes."]),
        (
            outputs(1, 2 * (link.ModelAnswer(1, "flowers", (OUTPUT,)),)),
            2 * [b"8 bytes."],
        ),
        (BlockLoaded(HEAD, 10, 1e-5), []),
        (BlockLoadFailed(HEAD, Code.INTERNAL, "no"), []),
        (BlockUnloaded(HEAD), []),
        (BlockUnloaded("no block"), []),
        (link.Defined(("flowers",)), []),
        (link.DefineFailed(("flowers",), Code.INTERNAL, "no"), []),
        (link.WorkerMemory(9, 1, 1, 1), []),
        (link.Ready("fake", "nothing", 1, False, (), (), (), {}, 0, 0), []),
    ],
    ids=repr,
)
def test_what_was_not_ordered_is_not_believed(
    bench: Bench, report: link.FromWorker, payload: list[bytes]
) -> None:
    with pytest.raises(Untrusted, match=type(report).__name__):
        bench.front.on_worker(report, payload, 0.0)
    bench.front.on_worker_lost("it talks nonsense", 0.0)
    bench.worker_is_ready()
    bench.worker.clear()
    bench.front.on_worker(Prepared(1, 1e-3), [], 0.0)
    bench.finish()
    assert isinstance(bench.reply().header, wire.InferReply)


@pytest.mark.parametrize(
    ("report", "batch"),
    [
        *((outputs(1, (), infer_s=infer_s), 1) for infer_s in (-1.0, inf, nan, 1e10)),
        *((Prepared(1, prepare_s), None) for prepare_s in (-1e-3, inf, nan)),
        (BlockLoaded(HEAD, 10, nan), None),
        (BlockLoaded(HEAD, -1, 1e-3), None),
        (BlockLoaded(HEAD, 10, 1e-3, {"t": -1}), None),
        (link.Ready("fake", "nothing", 0, False, (), (), (), {}, 0, 0), None),
        (link.Ready("fake", "nothing", 1, False, (), (), (), {}, 0, 0, row_bytes=-1), None),
        (link.ModelMeasured("flowers", True, row_bytes=-1), None),
        (link.ModelMeasured("flowers", True, base_bytes=-1), None),
        (link.ModelMeasured("flowers", True, loading_bytes=-1), None),
        (link.WorkerMemory(1, -1, 1, 1), None),
        (link.WorkerMemory(1, 1, 1, 1, private_bytes=-1), None),
    ],
    ids=repr,
)
def test_figures_that_cannot_be_true_are_not_read(
    report: link.FromWorker, batch: int | None
) -> None:
    with pytest.raises(Untrusted, match="cannot be read: Expected") as caught:
        worker_port.read(link.encode(report))
    assert caught.value.batch == batch


@pytest.mark.parametrize("pieces", [{"t": 11}, {"t": 6, "u": 5}])
def test_a_block_has_no_pieces_that_are_not_of_it(pieces: dict[str, int]) -> None:
    bench = Bench()
    bench.worker_is_ready()
    bench.front.on_worker_lost("it is gone", 0.0)
    bench.loads = []
    models = tuple(bench.store.models)
    ready = link.Ready("fake", "nothing", 1, False, models, (), (), {}, 0, 0)
    bench.front.on_worker(ready, (), 0.0)
    block = bench.loads[0].block
    with pytest.raises(Untrusted, match="BlockLoaded"):
        bench.front.on_worker(BlockLoaded(block, 10, 1e-3, pieces), (), 0.0)


def test_a_batch_owes_nothing_to_whom_it_left_out_though_its_refusal_waits_for_its_turn() -> None:
    bench = Bench()
    bench.worker_is_ready(lanes_prepare=True)
    ordered = wire.InferParameters(ordered=True)
    image = [png(picture(1, 2, 3))]  # so small that lanes decode it
    bench.ask(infer("first", parameters=ordered), image)
    for id in ("good", "bad", "last"):
        bench.ask(infer(id, parameters=ordered), image)
    (first,) = [order for order in bench.worker if isinstance(order, Run)]
    bench.worker.clear()
    bench.front.on_worker(*batch_done(first), 0.0)
    (run,) = [order for order in bench.worker if isinstance(order, Run)]
    bad = run.members[1]
    bench.front.on_worker(PrepareFailed(bad.rid, Code.INVALID_ARG, "no image"), [], 0.0)
    others = tuple(member for member in run.members if member is not bad)
    bench.front.on_worker(*batch_done(msgspec.structs.replace(run, members=others)), 0.0)
    replies = [reply.header for _, reply in bench.sent]
    assert [reply.id for reply in replies] == ["first", "good", "bad", "last"]
    assert [type(reply).__name__ for reply in replies].count("ErrorReply") == 1


@pytest.mark.parametrize(
    "stream",
    [
        struct.pack("=II", 2**31, 5),
        struct.pack("=II", 0, 2**31),
        struct.pack("=IIQ", 1, 4, 2**60) + b"head",
    ],
)
def test_a_stream_that_holds_no_messages_is_found_out(stream: bytes) -> None:
    ours, theirs = channel_pair()
    with ours, theirs:
        theirs.send(stream)
        with pytest.raises(Garbled):
            Receiver(ours).receive()


SPOIL = """
import pathlib
if "edged.device" in pathlib.Path("/proc/self/cmdline").read_text():
    from edged.link import channel, messages as link
    how, send, encode = "{how}", channel.SharedSender.send, link.encode
    def is_bad(message):
        return isinstance(message, link.BatchOutputs) and any(
            answer.model == "weakest" for answer in message.answers)
    def spoil(message):
        frame = encode(message)
        return frame[: len(frame) // 2] if how == "frame" and is_bad(message) else frame
    def spoiled(self, frames):
        if how == "stream" and b"weakest" in frames[0] and b"BatchOutputs" in frames[0]:
            with self._lock:  # as `send` does, or another thread's message would be sent twice
                self._sender._target.sendall(b"\\xff" * 64)
        if how == "payload" and b"weakest" in frames[0] and b"BatchOutputs" in frames[0]:
            frames = frames[:1]
        send(self, frames)
    link.encode, channel.SharedSender.send = spoil, spoiled
"""


@pytest.mark.parametrize("how", ["frame", "payload", "stream"])
def test_the_front_outlives_a_worker_that_talks_nonsense(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The culprit is refused, and all others are answered by the next worker."""
    (tmp_path / "sitecustomize.py").write_text(SPOIL.format(how=how))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    # Where nothing makes sense nobody knows whose batch it was: so no other runs beside it.
    daemon = start(settings="threads = 1" if how == "stream" else "")
    pixels = picture(200, 100, 50)
    with Client(daemon.endpoint, timeout_s=30.0) as good, Client(daemon.endpoint) as bad:
        expected = good.infer(pixels, "color")["color"].tensors
        answers = [good.submit(pixels, "color") for _ in range(5)]
        culprit = bad.submit(pixels, "weakest", timeout_s=30.0)
        answers += [good.submit(pixels, "color") for _ in range(5)]
        with pytest.raises(EdgedError, match="device worker ended 2 times"):
            culprit.result()
        for answer in answers:
            for name, tensor in answer.result()["color"].tensors.items():
                np.testing.assert_array_equal(tensor, expected[name])
    assert daemon.process.poll() is None
    assert daemon.stop() == 0


class HonestWorker:
    """Does what it is ordered to, one order at a time; what it prepares or runs may fail."""

    def __init__(self, bench: Bench, dice: random.Random) -> None:
        self._bench = bench
        self._dice = dice
        self._discarded: set[int] = set()
        self._left_out: set[int] = set()

    def work(self) -> None:
        if not self._bench.worker:
            return
        order = self._bench.worker.pop(0)
        if isinstance(order, Discard):
            self._discarded.add(order.rid)
        elif isinstance(order, link.PayloadHeader):
            self._prepare(order)
        elif isinstance(order, Run):
            self._run(order)

    def _prepare(self, order: link.PayloadHeader) -> None:
        fails = self._dice.random() < 0.2
        if fails and order.inline:
            self._left_out.add(order.rid)
        if fails:
            self._say(PrepareFailed(order.rid, Code.INVALID_ARG, "no image"))
        elif not order.inline:
            discarded = Discard(order.rid) in self._bench.worker
            self._discarded.add(order.rid) if discarded else None
            self._say(
                PrepareFailed(order.rid, Code.CANCELLED, "cancelled")
                if order.rid in self._discarded
                else Prepared(order.rid, 1e-3)
            )

    def _run(self, order: Run) -> None:
        if self._dice.random() < 0.1:
            self._say(BatchFailed(order.batch, Code.INTERNAL, "it failed"))
            return
        members = tuple(m for m in order.members if m.rid not in self._left_out)
        done, payload = batch_done(
            msgspec.structs.replace(order, members=members), self._bench.rows
        )
        self._say(done, payload)

    def _say(self, message: link.FromWorker, payload: Sequence[bytes] = ()) -> None:
        read = worker_port.read(link.encode(message))
        self._bench.front.on_worker(read, payload, self._bench.now)


@pytest.mark.parametrize("lanes_prepare", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_an_honest_worker_is_never_distrusted(seed: int, lanes_prepare: bool) -> None:
    """Whatever clients take back, and in whatever order they are to be answered."""
    dice = random.Random(seed)
    models = [manifest("flowers"), manifest("food"), manifest("signal", backbone=OTHER_BACKBONE)]
    bench = Bench(models=catalog(*models))
    bench.worker_is_ready(lanes_prepare=lanes_prepare)
    worker = HonestWorker(bench, dice)
    asked: list[str] = []
    for number in range(150):
        match dice.randrange(6):
            case 0 | 1:
                parameters = wire.InferParameters(
                    timeout=dice.choice([None, 2_000, 50_000]),
                    stream=dice.choice([None, None, "camera"]),
                    ordered=dice.random() < 0.4,
                )
                rows, id = dice.randint(1, 3), f"r{number}"
                tasks = dice.sample(["flowers", "food", "signal"], k=dice.randint(1, 3))
                bench.ask(infer(id, *tasks, shape=(rows,), parameters=parameters), (b"j",) * rows)
                asked.append(id)
            case 2 if asked:
                bench.ask(wire.Cancel(f"c{number}", dice.choice(asked)))
            case 3:
                bench.now += dice.choice([0.001, 0.01])
                bench.front.on_woke(bench.now)
            case _:
                worker.work()
    while bench.worker:
        worker.work()
    bench.now += 100.0
    bench.front.on_woke(bench.now)
    answered = [reply.header.id for _, reply in bench.sent if reply.header.id.startswith("r")]
    assert sorted(answered) == sorted(asked)

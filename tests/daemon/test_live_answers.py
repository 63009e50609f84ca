"""Whose answer is whose, and in which order: the real daemon around a backend whose outputs tell
every row and every block from every other."""

from __future__ import annotations

import contextlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from edged import wire
from edged.backends.fake import Fake
from edged.client import Client, Pending
from edged.errors import EdgedError
from edged.options import FakeOptions
from edged.store import Store
from tests.backends.blocks import rotations
from tests.colors import SIDE, picture, png
from tests.daemon.live import Daemon, until
from tests.device.rig import Model, make_store
from tests.processes import suspend

TASKS = (["color"], ["weakest"], ["color", "weakest"])
POISON = 0.125  # a row that begins with it makes its batch fail


@pytest.fixture(scope="module")
def expected(store: Path) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What each task must answer to rows, by a fake device of our own."""
    fake = Fake(FakeOptions())
    opened = Store(store)
    for manifest in opened.models().values():
        for step in manifest.steps:
            fake.load(step.block, opened.block_path(step.block), ())
    return {
        name: lambda rows, steps=manifest.steps: _chain(fake, [s.block for s in steps], rows)
        for name, manifest in opened.models().items()
    }


def _chain(fake: Fake, blocks: list[str], rows: np.ndarray) -> np.ndarray:
    for block in blocks:
        out = np.empty((len(rows), 3), np.float32)
        fake.run(block, [rows], [out])
        rows = out
    return rows


def traffic(clients: list[Client], count: int) -> Iterator[tuple[np.ndarray, list[str], Pending]]:
    """Requests of one to four rows for one or two tasks; a few are poisoned or taken back."""
    random = np.random.default_rng(7)
    for number in range(count):
        rows = random.random((random.integers(1, 5), 3, SIDE, SIDE), dtype=np.float32)
        if number % 40 == 20:
            rows[-1, 0, 0, 0] = POISON
        asked = TASKS[random.integers(len(TASKS))]
        pending = clients[number % len(clients)].submit({"image": rows}, asked)
        if number % 25 == 3:
            pending.cancel()
        yield rows, asked, pending


def test_what_comes_while_all_lanes_are_busy_is_taken_in_together(start, tmp_path):
    """Batches of some 10 ms on two lanes, and four times as many requests as they hold."""
    block = rotations(128, 2000)
    model = Model("turned", block)
    daemon = start(
        store=make_store(tmp_path / "turned", [model]).path,
        settings="threads = 2\nprepare_threads = 2\n",
    )
    rows = np.random.default_rng(3).standard_normal((150, 1, 128)).astype(np.float32)
    with Client(daemon.endpoint) as client, Client(daemon.endpoint) as other:
        until(lambda: other.ready().ready)
        results = client.infer_many([{"x": row} for row in rows], ["turned"], in_flight=64)
        for number, (row, result) in enumerate(zip(rows, results, strict=True)):
            np.testing.assert_allclose(result["turned"].tensor, block.twin(row)[0], atol=1e-3)
            if number % 10 == 0:
                assert other.live()
        busy_us = result.times.compute_infer_us
        assert other.statistics().tasks[0].inference_count == len(rows)
    assert busy_us > 2_000, "the batches are too short for this test"
    assert daemon.stop() == 0


def test_no_row_of_one_request_is_ever_in_the_answer_to_another(start, expected):
    """Through mixed batches, failures, cancels and a worker that is killed on the way."""
    options = f"{{run_us = 500, fail_on = {POISON}}}"
    daemon = start(
        settings=f"backend = 'fake'\noptions = {options}\n"
        "[scheduler]\nuseful_batches = false\nqueue_rows = 1000\n"  # for all, while it restarts
    )
    outcomes: Counter[str] = Counter()
    with Client(daemon.endpoint) as watch:
        until(lambda: watch.ready().ready)
        clients = [Client(daemon.endpoint).connect() for _ in range(4)]
        asked = []
        for number, one in enumerate(traffic(clients, 400)):
            asked.append(one)
            if number == 200:
                daemon.worker().kill()
        for rows, tasks, pending in asked:
            try:
                result = pending.result()
            except EdgedError as error:
                outcomes[error.code.value] += 1
                if error.code.value == "INTERNAL":
                    assert (rows == POISON).any()
                continue
            outcomes["answered"] += 1
            assert not (rows == POISON).any()
            for task in tasks:
                np.testing.assert_array_equal(result[task].tensor, expected[task](rows))
        statistics = watch.statistics()
        for client in clients:
            client.close()
    assert outcomes["INTERNAL"] == 10
    assert outcomes.total() == 400
    assert set(outcomes) <= {"answered", "INTERNAL", "CANCELLED"}
    assert sum(batch.mixed for batch in statistics.batches) > 0
    assert statistics.server.worker_restarts == 1


@contextlib.contextmanager
def a_dealer(daemon: Daemon) -> Iterator[zmq.Socket]:
    """A client that keeps to nothing."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.setsockopt(zmq.ROUTING_ID, b"\x01" + secrets.token_bytes(8))
        dealer.connect(daemon.endpoint)
        yield dealer


def _infer(id: str, image: bytes, parameters: wire.InferParameters | None = None) -> wire.Frames:
    inputs = (wire.InputTensor("image", "BYTES", (1,)),)
    outputs = (wire.RequestedOutput("color"),)
    return wire.encode_request(
        wire.Infer(id, inputs, outputs, parameters or wire.InferParameters()), [image]
    )


def _receive(dealer: zmq.Socket) -> wire.ReplyHeader:
    assert dealer.poll(30_000), "waited in vain"
    return wire.decode_reply(dealer.recv_multipart()).header


@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_is_answered_in_turn_where_it_asks_for_it(start, ordered):
    """Every second request is urgent and every tenth is no image: left alone, they overtake."""
    daemon = start(settings="[scheduler]\nstreams = 'fifo'\nmax_batch_rows = 8\nstaging_rows = 8\n")
    ids = [str(number) for number in range(60)]
    with Client(daemon.endpoint) as client, a_dealer(daemon) as dealer:
        until(lambda: client.ready().ready)
        suspend(daemon.worker())
        for number, id in enumerate(ids):
            how = wire.InferParameters(priority=1 + number % 2, stream="door", ordered=ordered)
            image = b"no image" if number % 10 == 5 else png(picture(number, 1, 2))
            dealer.send_multipart(_infer(id, image, how))
        dealer.send_multipart(wire.encode_request(wire.Ping("ping")))
        assert isinstance(_receive(dealer), wire.PingReply)  # so all have arrived
        daemon.worker().resume()
        replies = [_receive(dealer) for _ in ids]
    assert sorted(reply.id for reply in replies) == sorted(ids)
    failed = {reply.id for reply in replies if isinstance(reply, wire.ErrorReply)}
    assert failed == {id for id in ids if int(id) % 10 == 5}
    assert ([reply.id for reply in replies] == ids) is ordered


def test_who_sends_far_more_than_the_limit_hears_of_each_request(start):
    """A burst of refusals must not look like a client that does not read."""
    daemon = start(settings="[limits]\nmax_in_flight = 2\n")
    ids = [str(number) for number in range(500)]
    image = png(picture(1, 2, 3))
    with Client(daemon.endpoint) as client, a_dealer(daemon) as dealer:
        until(lambda: client.ready().ready)
        for id in ids:
            dealer.send_multipart(_infer(id, image))
        replies = [_receive(dealer) for _ in ids]
    assert sorted(reply.id for reply in replies) == sorted(ids)
    codes = {reply.code for reply in replies if isinstance(reply, wire.ErrorReply)}
    assert codes == {"RESOURCE_EXHAUSTED"}

"""The real daemon, worker and client over real sockets."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zmq

from edged import wire
from edged.client import Client
from edged.errors import (
    Cancelled,
    DeadlineExceeded,
    EdgedError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from edged.observe.recording import replay
from edged.store import Store
from tests.colors import picture, png
from tests.daemon.live import until
from tests.processes import suspend


def shade(number: int) -> tuple[int, int, int]:
    """A colour of its own for each request."""
    return (number % 251, number // 251 % 251 + 2, (7 * number) % 241 + 1)


def expect(pixels: tuple[int, int, int], task: str) -> np.ndarray:
    """What the tasks of tests.colors make of a picture in one colour."""
    means = np.array(pixels, np.float32) / 255.0
    return means if task == "color" else -means


def test_images_of_both_kinds_pixels_and_tensors_get_the_same_answer(start):
    daemon = start()
    pixels = (250, 20, 10)
    image = picture(*pixels)
    tensor = np.moveaxis(image, 2, 0)[None].astype(np.float32) / 255
    with Client(daemon.endpoint) as client:
        for inputs in (png(image), image, {"image": tensor}):
            result = client.infer(inputs, ["color", "weakest"])
            np.testing.assert_allclose(
                result["color"].tensor[0], expect(pixels, "color"), atol=1e-6
            )
            np.testing.assert_allclose(
                result["weakest"].tensor[0], expect(pixels, "weakest"), atol=1e-6
            )
        best = client.infer(image, ["color"], top_k=2)["color"].classes[0]
        assert [c.label for c in best] == ["red", "green"]
        assert result.tier == "edge"
    assert daemon.stop() == 0


def test_500_concurrent_mixed_requests_are_each_answered_once_and_replay(start):
    daemon = start(record=True, settings="[scheduler]\nqueue_rows = 600\nuseful_batches = false\n")
    clients = 10
    with Client(daemon.endpoint) as watch:
        until(lambda: watch.ready().ready)
        open_clients = [Client(daemon.endpoint).connect() for _ in range(clients)]
        tasks = itertools.cycle((["color"], ["weakest"], ["color", "weakest"]))
        pending = []
        for number in range(500):
            asked, pixels = next(tasks), shade(number)
            image = png(picture(*pixels)) if number % 2 else picture(*pixels)
            submitted = open_clients[number % clients].submit(image, asked)
            pending.append((pixels, asked, submitted))
        for pixels, asked, submitted in pending:
            result = submitted.result()
            for task in asked:
                np.testing.assert_allclose(result[task].tensor[0], expect(pixels, task), atol=1e-6)
        for client in open_clients:
            client.close()
        statistics = watch.statistics()
    rows = {task.name: task.inference_count for task in statistics.tasks}
    assert sum(rows.values()) == sum(len(asked) for _, asked, _ in pending)
    assert sum(batch.mixed for batch in statistics.batches) > 0
    assert max(batch.rows for batch in statistics.batches) > 1
    assert daemon.stop() == 0
    assert replay(daemon.recording) > 500  # arrivals, batches, preparations that took a thread


def test_a_killed_worker_costs_no_client_its_answer(start):
    daemon = start()
    daemon.wait_for("ready: ")
    with Client(daemon.endpoint) as client:
        first = daemon.worker()
        pending = [(shade(n), client.submit(picture(*shade(n)), ["color"])) for n in range(60)]
        first.kill()
        outcomes: Counter[str] = Counter()
        for pixels, submitted in pending:
            try:
                answer = submitted.result()["color"].tensor[0]
            except EdgedError as error:
                outcomes[error.code.value] += 1
            else:
                np.testing.assert_allclose(answer, expect(pixels, "color"), atol=1e-6)
                outcomes["answered"] += 1
        assert outcomes["answered"] == 60
        until(lambda: daemon.log().count("ready: ") == 2)  # it may have died after the last answer
        assert daemon.worker().pid != first.pid
        assert client.statistics().server.worker_restarts == 1
    assert daemon.stop() == 0


def test_a_stuck_worker_is_replaced(start):
    daemon = start(settings="hang_timeout_s = 1.0\n")
    with Client(daemon.endpoint) as client:
        until(lambda: client.ready().ready)
        suspend(daemon.worker())
        answer = client.infer(picture(9, 8, 7), ["color"])["color"].tensor[0]
        np.testing.assert_allclose(answer, expect((9, 8, 7), "color"), atol=1e-6)
    assert "hung" in daemon.log()


def test_statistics_are_answered_while_an_idle_worker_is_stopped(start):
    daemon = start()
    with Client(daemon.endpoint, timeout_s=10.0) as client:
        until(lambda: client.ready().ready)
        assert "worker_pss_bytes" in client.statistics().memory
        worker = daemon.worker()
        suspend(worker)
        found = client.statistics()
        assert (found.server.state, found.server.worker_restarts) == ("READY", 0)
        assert "worker_pss_bytes" not in found.memory
        worker.resume()
        answer = client.infer(picture(9, 8, 7), ["color"])["color"].tensor[0]
        np.testing.assert_allclose(answer, expect((9, 8, 7), "color"), atol=1e-6)
        assert "worker_pss_bytes" in client.statistics().memory
    assert daemon.stop() == 0


def test_sigterm_answers_what_was_accepted_and_refuses_the_rest(start):
    daemon = start()
    with Client(daemon.endpoint) as client, Client(daemon.endpoint) as late:
        until(lambda: client.ready().ready)
        suspend(daemon.worker())  # so that nothing is answered before the signal
        accepted = [client.submit(picture(*shade(n)), ["color"]) for n in range(20)]
        assert client.live()  # asked after them, so they have arrived
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: late.ready().state == "DRAINING")
        with pytest.raises(Unavailable, match="shutting down"):
            late.infer(picture(3, 3, 3), ["color"], timeout_s=0.5)
        daemon.worker().resume()
        for n, submitted in enumerate(accepted):
            answer = submitted.result()["color"].tensor[0]
            np.testing.assert_allclose(answer, expect(shade(n), "color"), atol=1e-6)
    assert daemon.wait() == 0


def test_a_second_sigterm_ends_it_at_once(start):
    daemon = start()
    with Client(daemon.endpoint) as client:
        until(lambda: client.ready().ready)
        worker = daemon.worker()
        suspend(worker)
        client.submit(picture(1, 2, 3), ["color"])
        assert client.live()  # asked after it, so it has arrived
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: client.ready().state == "DRAINING")
        assert daemon.stop() == 128 + signal.SIGTERM
    assert not worker.is_running()


def huge_png(side: int) -> bytes:
    """The head of a PNG that claims side x side pixels, and no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_bad_input_is_refused_with_its_reason_and_the_next_request_is_unharmed(start):
    daemon = start()
    good = picture(5, 6, 7)
    cases = [
        (b"not an image", ["color"], InvalidArgument, "JPEG"),
        (png(good)[:-20], ["color"], InvalidArgument, "damaged"),
        (huge_png(30_000), ["color"], ResourceExhausted, "pixels"),
        (good, ["colour"], NotFound, "color, weakest"),
        ({"image": np.zeros((1, 3, 9, 9), np.float32)}, ["color"], InvalidArgument, "8"),
        ({"image": np.zeros((1, 3, 8, 8), np.float64)}, ["color"], InvalidArgument, "FP32"),
    ]
    with Client(daemon.endpoint) as client:
        for inputs, tasks, kind, says in cases:
            with pytest.raises(kind, match=says):
                client.infer(inputs, tasks)
            answer = client.infer(good, ["color"])["color"].tensor[0]
            np.testing.assert_allclose(answer, expect((5, 6, 7), "color"), atol=1e-6)


def test_hostile_frames_do_not_disturb_others(start):
    daemon = start()
    context = zmq.Context()
    hostile = context.socket(zmq.DEALER)
    hostile.linger = 0
    hostile.connect(daemon.endpoint)
    with Client(daemon.endpoint) as client:
        for frames in (
            [b""],
            [b"EDG1\x01"],
            [b"EDG1\x01", b"\xdd\xff\xff\xff\xff"],
            [b"EDG1\x01", b"\xdf" + b"\xff" * 4],
            [b"EDG1\x01", b"\x91" * 5000],
            [b"EDG2\x01", b"\x80"],
            [b"EDG1\xee", b"\x80"],
            [b"x"] * 1000,
        ):
            hostile.send_multipart(frames)
            assert hostile.poll(10_000), frames
            assert isinstance(wire.decode_reply(hostile.recv_multipart()).header, wire.ErrorReply)
        hostile.send_multipart([b"EDG1\x01", b"x" * (65 * 2**20)])  # beyond ZMQ_MAXMSGSIZE
        assert client.infer(picture(1, 1, 1), ["color"]).batch_size == 1
    hostile.close()
    context.term()


def test_a_timeout_and_a_cancel_end_a_request_on_the_daemon(start):
    daemon = start(settings="options = {run_us = 300000}\nbackend = 'fake'\n")
    with Client(daemon.endpoint) as client:
        until(lambda: client.ready().ready)
        with pytest.raises(DeadlineExceeded):
            client.infer(picture(1, 1, 1), ["color"], timeout_s=0.05)
        running = client.submit(picture(1, 1, 1), ["color"])
        queued = client.submit(picture(2, 2, 2), ["color"])
        assert queued.cancel()
        with pytest.raises(Cancelled):
            queued.result()
        running.result()
        until(lambda: client.statistics().server.in_flight == 0)


@pytest.mark.parametrize(
    ("damage", "says", "status"),
    [
        ("flip", "damaged", 2),
        ("newer", "schema 99", 2),
        ("missing", "missing", 2),
        ("empty", "no store", 1),  # it may be mounted later
    ],
)
def test_a_damaged_store_is_refused_at_the_start(start, store, tmp_path, damage, says, status):
    broken = tmp_path / "broken"
    shutil.copytree(store, broken)
    block = Store(broken).block_path(Store(broken).model("color").steps[0].block)  # of all models
    if damage == "flip":
        data = bytearray(block.read_bytes())
        data[len(data) // 2] ^= 1
        block.write_bytes(data)
    elif damage == "newer":
        root = broken / "store.json"
        newer = json.loads(root.read_text()) | {"schema": 99}
        root.write_text(json.dumps(newer))
    elif damage == "missing":
        block.unlink()
    else:
        shutil.rmtree(broken)
    daemon = start(store=broken)
    assert daemon.wait() == status
    assert says in daemon.lines[-1]
    assert len(daemon.lines[-1]) < 400


def test_a_misspelt_key_is_refused_at_the_start(start):
    daemon = start(settings="[scheduler]\nmax_batch_rowz = 4\n")
    assert daemon.wait() == 2
    assert "max_batch_rowz" in daemon.lines[-1]


def test_two_daemons_cannot_share_an_endpoint(start):
    first = start()
    with Client(first.endpoint) as client:
        until(lambda: client.ready().ready)
        second = start()
        assert second.wait() == 1
        assert "another daemon does" in second.lines[-1]
        assert client.infer(picture(1, 1, 1), ["color"]).batch_size == 1


def test_what_a_socket_may_be_used_by(start):
    daemon = start()
    daemon.wait_for("listening")
    path = Path(daemon.endpoint.removeprefix("ipc://"))
    assert path.stat().st_mode & 0o777 == 0o660

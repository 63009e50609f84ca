"""The blocking client against a daemon without models, over real sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from edged import wire
from edged.client import Client, Retry
from edged.client.tensors import from_wire, to_wire
from edged.errors import (
    Cancelled,
    DeadlineExceeded,
    EdgedError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from tests.client.fake_daemon import FakeDaemon, Received, error, infer_reply, other_reply

FAST = Retry(attempts=3, resend_after_s=0.05, backoff_s=0.01)
NOT_BY_TIME = Retry(resend_after_s=1000.0)
PATIENCE_S = 10.0  # of a test; passes long before


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[Client]:
    with Client(daemon.endpoint, timeout_s=PATIENCE_S) as client:
        yield client


def payload(received: Received) -> list[bytes]:
    return [bytes(frame) for frame in received.request.payload]


# --- what goes out and comes back ---------------------------------------------------------------


def test_the_best_classes_of_each_task(client: Client) -> None:
    result = client.infer(b"jpeg", ["flowers", "food"], top_k=2)
    assert [(c.label, c.score) for c in result["flowers"].classes[0]] == [("rose", 2), ("tulip", 1)]
    assert result["food"].model == "food-net"
    assert (result.tier, result.batch_size, result.emulated, result.sends) == ("edge", 2, False, 1)
    assert result.times.compute_infer_us == 1000
    with pytest.raises(NotFound, match="without top_k"):
        _ = result["food"].tensor
    with pytest.raises(NotFound, match="not asked for"):
        result["birds"]


def test_the_raw_tensors_of_several_rows(client: Client) -> None:
    tensor = client.infer([b"one", b"two"], "flowers")["flowers"].tensor
    np.testing.assert_array_equal(tensor, np.float32([[0, 2, 1], [1, 3, 2]]))
    assert not tensor.flags.writeable


def test_each_task_in_its_own_way(client: Client) -> None:
    raw = wire.RequestedOutput("food", wire.OutputParameters(model="food-large"))
    result = client.infer(b"jpeg", ["flowers", raw], top_k=1)
    assert result["flowers"].classes[0][0].label == "rose"
    assert result["food"].tensor.shape == (1, 3)
    assert result["food"].model == "food-large"


def test_a_model_with_several_outputs(client: Client, daemon: FakeDaemon) -> None:
    boxes = wire.OutputTensor("cars", "detector", "boxes", "FP32", (1, 1))
    count = wire.OutputTensor("cars", "detector", "count", "UINT8", (1,))
    best = wire.OutputTensor(
        "color", "painter", "logits", "FP32", (1, 2), ((wire.ClassScore(0, 1.0, "red"),),)
    )
    mask = wire.OutputTensor("color", "painter", "mask", "UINT8", (1, 2))
    payload = [np.float32(7).tobytes(), b"\3", b"\0\1"]
    daemon.answer = lambda received: [
        wire.encode_reply(wire.InferReply(received.id, (boxes, count, best, mask)), payload)
    ]
    result = client.infer(b"jpeg", ["cars", "color"])
    assert {name: array.tolist() for name, array in result["cars"].tensors.items()} == {
        "boxes": [[7.0]],
        "count": [3],
    }
    assert result["cars"].tensor.dtype == np.float32
    assert result["color"].classes[0][0].label == "red"
    assert result["color"].tensors["mask"].tolist() == [[0, 1]]


def test_files_and_their_bytes_travel_as_they_are(
    client: Client, daemon: FakeDaemon, tmp_path: Path
) -> None:
    (tmp_path / "rose.jpg").write_bytes(b"a file")
    client.infer([tmp_path / "rose.jpg", b"bytes"], "flowers", priority=1, stream="cam-3")
    (received,) = daemon.infers
    header = received.request.header
    assert isinstance(header, wire.Infer)
    assert header.inputs == (wire.InputTensor("image", "BYTES", (2,)),)
    assert payload(received) == [b"a file", b"bytes"]
    assert (header.parameters.priority, header.parameters.stream) == (1, "cam-3")


def test_decoded_images_travel_as_rows_of_pixels(client: Client, daemon: FakeDaemon) -> None:
    images = [np.full((4, 5, 3), value, np.uint8) for value in (7, 9)]
    client.infer(images, "flowers")
    (received,) = daemon.infers
    assert received.request.header.inputs == (wire.InputTensor("image", "UINT8", (2, 4, 5, 3)),)
    assert payload(received) == [images[0].tobytes() + images[1].tobytes()]


def test_tensors_travel_by_name_row_major_and_little_endian(
    client: Client, daemon: FakeDaemon
) -> None:
    grid = np.arange(6, dtype=">f4").reshape(2, 3)
    client.infer({"x": grid.T, "mask": np.ones((3, 1), bool)}, "flowers")
    (received,) = daemon.infers
    assert received.request.header.inputs == (
        wire.InputTensor("x", "FP32", (3, 2)),
        wire.InputTensor("mask", "BOOL", (3, 1)),
    )
    assert payload(received) == [np.float32([0, 3, 1, 4, 2, 5]).tobytes(), b"\1\1\1"]


@pytest.mark.parametrize("dtype", ["?", "u1", "<u2", ">i8", "<f2", ">f8"])
def test_arrays_survive_the_wire(dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    tensor, frame = to_wire("x", array)
    output = wire.OutputTensor("t", "m", "x", tensor.datatype, tensor.shape)
    np.testing.assert_array_equal(from_wire(output, frame), array)


BAD_INPUTS: dict[str, tuple[Any, str]] = {
    "no image": ([], "no image"),
    "no tensor": ({}, "no input"),
    "path as text": ("rose.jpg", "pathlib.Path"),
    "file and array": ([b"jpeg", np.zeros((2, 2, 3), np.uint8)], "all images as arrays"),
    "grey image": (np.zeros((2, 2), np.uint8), "height, width, 3"),
    "float image": (np.zeros((2, 2, 3), np.float32), "height, width, 3"),
    "two sizes": ([np.zeros((2, 2, 3), np.uint8), np.zeros((2, 3, 3), np.uint8)], "one size"),
    "complex": ({"x": np.zeros((1, 2), complex)}, "complex128"),
    "scalar": ({"x": np.float32(1)}, "shape"),
    "no rows": ({"x": np.zeros((0, 3), np.float32)}, "empty"),
    "rows differ": ({"x": np.zeros((1, 3)), "y": np.zeros((2, 3))}, "axis 0"),
    "empty file": (b"", "empty"),
}


@pytest.mark.parametrize(("inputs", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_refused_before_it_is_sent(
    client: Client, daemon: FakeDaemon, inputs: Any, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        client.infer(inputs, "flowers")
    client.ping()
    assert daemon.infers == []


def test_a_missing_file_and_no_task_are_refused(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.jpg: no such file"):
        client.infer(tmp_path / "none.jpg", "flowers")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        client.infer(tmp_path, "flowers")
    with pytest.raises(InvalidArgument, match="no task"):
        client.infer(b"jpeg", [])


def test_the_limits_of_the_daemon_are_known_before_sending(
    client: Client, daemon: FakeDaemon
) -> None:
    with pytest.raises(ResourceExhausted, match="limit of 8"):
        client.infer([b"jpeg"] * 9, "flowers")
    client.ping()
    assert daemon.infers == []


def test_questions(client: Client) -> None:
    assert client.live()
    assert client.ready().ready
    assert client.metadata().limits.max_rows == 8
    assert [model.state for model in client.models()] == ["READY", "UNAVAILABLE"]
    assert client.model("flowers").labels == ("daisy", "rose", "tulip")
    assert client.model_ready("flowers").name == "flowers-net"
    assert client.statistics().tasks[0].fail.by_code == {"INVALID_ARG": 2}
    assert 0 < client.ping() < PATIENCE_S


# --- many at a time -----------------------------------------------------------------------------


def test_answers_in_any_order_find_their_requests(client: Client, daemon: FakeDaemon) -> None:
    held: list[Received] = []

    def in_reverse(received: Received) -> list[wire.Frames]:
        held.append(received)
        return [infer_reply(held.pop()) for _ in range(len(held))] if len(held) == 4 else []

    daemon.answer = in_reverse
    results = client.infer_many(([b"jpeg"] * rows for rows in (1, 2, 3, 4)), "flowers")
    assert [result["flowers"].tensor.shape[0] for result in results] == [1, 2, 3, 4]


def test_infer_many_takes_from_its_source_only_what_may_be_in_flight(client: Client) -> None:
    taken = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(20):
            taken += 1
            yield b"jpeg"

    for done, _ in enumerate(client.infer_many(source(), "flowers", in_flight=3), start=1):
        assert taken <= done + 2
    assert taken == 20


def test_infer_many_yields_errors_at_their_place_if_asked_to(
    client: Client, daemon: FakeDaemon
) -> None:
    daemon.answer = lambda received: [
        error(received, InvalidArgument("no JPEG"))
        if payload(received) == [b"bad"]
        else infer_reply(received)
    ]
    outcomes = list(client.infer_many([b"a", b"bad", b"", b"c"], "flowers", return_exceptions=True))
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == ["Result", "InvalidArgument", "InvalidArgument", "Result"]
    with pytest.raises(InvalidArgument, match="no JPEG"):
        list(client.infer_many([b"a", b"bad"], "flowers"))


def test_infer_many_ended_early_takes_back_what_is_out(client: Client, daemon: FakeDaemon) -> None:
    daemon.answer = lambda received: [infer_reply(received)] if payload(received) == [b"1"] else []
    results = client.infer_many([b"1", b"2", b"3"], "flowers")
    next(results)
    results.close()
    client.ping()
    taken_back = {
        received.request.header.request
        for received in daemon.received
        if isinstance(received.request.header, wire.Cancel)
    }
    assert taken_back == {received.id for received in daemon.infers[1:]}


@pytest.mark.parametrize("in_flight", [0, -1, 1.5])
def test_infer_many_needs_room_for_one(client: Client, in_flight: int) -> None:
    with pytest.raises(InvalidArgument, match="in_flight"):
        list(client.infer_many([b"jpeg"], "flowers", in_flight=in_flight))


def test_submit_looks_without_waiting(client: Client, daemon: FakeDaemon) -> None:
    release = threading.Event()

    def when_released(received: Received) -> list[wire.Frames]:
        release.wait(PATIENCE_S)
        return [infer_reply(received)]

    daemon.answer = when_released
    pending = client.submit(b"jpeg", "flowers")
    assert not pending.done()
    release.set()
    assert pending.result().id == pending.id
    assert pending.done()


# --- when things go wrong -----------------------------------------------------------------------


def test_a_coded_error_is_raised_as_its_type_and_harms_no_other(
    client: Client, daemon: FakeDaemon
) -> None:
    daemon.answer = lambda received: [error(received, NotFound("no task 'flowers' here"))]
    with pytest.raises(NotFound, match="no task 'flowers' here"):
        client.infer(b"jpeg", "flowers")
    daemon.answer = lambda received: [infer_reply(received)]
    client.infer(b"jpeg", "flowers")


def test_a_result_that_lacks_a_task_is_an_error(client: Client, daemon: FakeDaemon) -> None:
    daemon.answer = lambda received: [wire.encode_reply(wire.InferReply(received.id, ()))]
    with pytest.raises(EdgedError, match="left out"):
        client.infer(b"jpeg", "flowers")


def test_every_answer_comes_twice_and_counts_once(client: Client, daemon: FakeDaemon) -> None:
    daemon.answer = lambda received: [infer_reply(received)] * 2
    results = client.infer_many(([b"jpeg"] * rows for rows in (1, 2, 3)), "flowers")
    assert [result["flowers"].tensor.shape[0] for result in results] == [1, 2, 3]


def test_not_now_is_tried_again_with_the_same_id(daemon: FakeDaemon) -> None:
    def full_at_first(received: Received) -> list[wire.Frames]:
        if len(daemon.infers) == 1:
            return [error(received, Unavailable("the queue is full", retry_after_s=0.001))]
        return [infer_reply(received)]

    daemon.answer = full_at_first
    with Client(daemon.endpoint, retry=FAST) as client:
        assert client.infer(b"jpeg", "flowers").sends == 2
    assert len({(received.client, received.id) for received in daemon.infers}) == 1


def test_a_lost_request_is_sent_again_and_answered_once(daemon: FakeDaemon) -> None:
    daemon.answer = lambda received: [infer_reply(received)] if len(daemon.infers) > 1 else []
    with Client(daemon.endpoint, retry=FAST) as client:
        result = client.infer(b"jpeg", "flowers")
    assert result.sends == 2
    assert len({(received.client, received.id) for received in daemon.infers}) == 1


def test_a_restart_of_the_daemon_costs_no_request(daemon: FakeDaemon) -> None:
    arrived = threading.Event()

    def swallow(received: Received) -> list[wire.Frames]:
        arrived.set()
        return []

    daemon.answer = swallow
    with Client(daemon.endpoint, timeout_s=PATIENCE_S, retry=NOT_BY_TIME) as client:
        pending = client.submit(b"jpeg", "flowers")
        assert arrived.wait(PATIENCE_S)
        daemon.stop()
        daemon.answer = lambda received: [infer_reply(received)]
        daemon.start()
        assert pending.result().sends == 2
    before, after = daemon.infers
    assert (before.client, before.id) == (after.client, after.id)


def test_answers_that_came_before_the_connection_broke_count(daemon: FakeDaemon) -> None:
    asked = threading.Semaphore(0)

    def count(received: Received) -> list[wire.Frames]:
        asked.release()
        return [infer_reply(received)]

    daemon.answer = count
    with Client(daemon.endpoint, retry=Retry(attempts=1)) as client:
        pending = [client.submit(b"jpeg", "flowers") for _ in range(4)]
        for _ in pending:
            assert asked.acquire(timeout=PATIENCE_S)
        daemon.stop()  # before the client looks
        assert [p.result().sends for p in pending] == [1] * 4


def test_no_answer_in_time_is_an_error_and_the_daemon_hears_of_it(
    client: Client, daemon: FakeDaemon
) -> None:
    daemon.answer = lambda received: []
    with pytest.raises(DeadlineExceeded, match=r"no answer to request \d+ within 0.05 s"):
        client.infer(b"jpeg", "flowers", timeout_s=0.05)
    client.ping()
    headers = [received.request.header for received in daemon.received]
    assert any(isinstance(h, wire.Cancel) and h.request == daemon.infers[0].id for h in headers)


def test_cancel_in_time(client: Client, daemon: FakeDaemon) -> None:
    daemon.answer = lambda received: []

    def cancelled(received: Received) -> list[wire.Frames]:
        header = received.request.header
        if not isinstance(header, wire.Cancel):
            return [other_reply(received)]
        return [
            wire.encode_error(Cancelled("taken back"), header.request),
            wire.encode_reply(wire.CancelReply(header.id, True)),
        ]

    daemon.answer_others = cancelled
    pending = client.submit(b"jpeg", "flowers")
    assert pending.cancel()
    with pytest.raises(Cancelled):
        pending.result()


def test_cancel_too_late(client: Client) -> None:
    pending = client.submit(b"jpeg", "flowers")
    result = pending.result()
    assert not pending.cancel()
    assert pending.result().id == result.id


def test_nobody_there(tmp_path: Path) -> None:
    client = Client(f"ipc://{tmp_path}/none.sock", connect_timeout_s=0.05)
    with pytest.raises(
        Unavailable, match=r"no daemon answers at .*none\.sock within 0.05 s: is it"
    ):
        client.connect()
    with pytest.raises(InvalidArgument, match="not connected"):
        client.live()


def test_somebody_else_there(daemon: FakeDaemon) -> None:
    daemon.answer_others = lambda received: [[b"HTTP/1.1 400"]]
    with pytest.raises(EdgedError, match="reply"), Client(daemon.endpoint):
        pass


def test_a_daemon_of_another_version(daemon: FakeDaemon) -> None:
    daemon.answer_others = lambda received: [[b"EDG2\x12", b"\x80"]]
    with pytest.raises(EdgedError, match="EDG2"), Client(daemon.endpoint):
        pass


# --- its own life -------------------------------------------------------------------------------


def test_a_client_can_be_closed_twice_and_connected_again(daemon: FakeDaemon) -> None:
    client = Client(daemon.endpoint)
    with client:
        client.infer(b"jpeg", "flowers")
        with pytest.raises(InvalidArgument, match="already"):
            client.connect()
    client.close()
    with client:
        client.infer(b"jpeg", "flowers")


def test_a_client_belongs_to_one_thread(client: Client) -> None:
    raised: list[BaseException] = []

    def use() -> None:
        try:
            client.ping()
        except EdgedError as error:
            raised.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert isinstance(raised[0], InvalidArgument)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "edged.sock",
        "ipc://",
        "tcp://h",
        "tcp://:5555",
        "udp://x:1",
        "tcp://h:p",
        "tcp://h:65536",
    ],
)
def test_endpoints_that_cannot_be_are_refused_at_once(endpoint: str) -> None:
    with pytest.raises(InvalidArgument, match="ipc:///path"):
        Client(endpoint)


def test_a_path_that_is_too_long_for_a_socket_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="File name too long"):
        Client("ipc:///" + "x" * 200).connect()


def test_tcp_serves_as_well(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as probe:
        port = probe.bind_to_random_port("tcp://127.0.0.1")
    daemon = FakeDaemon(f"tcp://127.0.0.1:{port}")
    daemon.start()
    try:
        with Client(daemon.endpoint) as client:
            assert client.infer(b"jpeg", "flowers", top_k=1)["flowers"].classes[0][0].index == 1
    finally:
        daemon.stop()


@pytest.mark.parametrize("option", ["timeout_s", "connect_timeout_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), True])
def test_times_are_checked_at_construction(option: str, value: float) -> None:
    with pytest.raises(InvalidArgument, match=option):
        Client("ipc:///x", **{option: value})

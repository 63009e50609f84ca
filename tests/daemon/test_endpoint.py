"""No message is slept on: neither one that came before the first look, nor behind a send."""

from __future__ import annotations

import contextlib
import math
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from edged import wire
from edged.daemon.endpoint import BURST, GATHER_MS, Endpoint, gather_ms

TIMEOUT_MS = 10_000
LIMITS = wire.Limits(max_frames=8, max_message_bytes=1_000_000)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Endpoint, zmq.Socket[Any]]]:
    """An endpoint and a client of it, which have spoken with each other."""
    with zmq.Context() as context:
        endpoint = Endpoint(lambda: context.socket(zmq.ROUTER), LIMITS)
        try:
            endpoint.socket.bind(f"ipc://{tmp_path}/a.sock")
            with context.socket(zmq.DEALER) as client:
                client.linger = 0
                client.setsockopt(zmq.ROUTING_ID, b"c")
                client.connect(f"ipc://{tmp_path}/a.sock")
                client.send(b"hello")
                assert contents(endpoint, 1) == [b"hello"]
                yield endpoint, client
        finally:
            endpoint.close(linger=0)


def contents(endpoint: Endpoint, count: int) -> list[bytes]:
    """The last frames of the next messages, as a loop that sleeps in between would see them."""
    poller = select.poll()
    poller.register(endpoint.descriptor, select.POLLIN)
    found: list[bytes] = []
    while len(found) < count:
        if not endpoint.unsure:
            assert poller.poll(TIMEOUT_MS), f"slept on {count - len(found)} messages"
        found += [bytes(frames[-1]) for _, frames in endpoint.messages(0.0)]
    return found


def test_a_message_that_comes_while_others_are_answered(pair):
    endpoint, client = pair
    for number in range(200):
        client.send(b"%d" % number)
        for _ in range(number % 5):  # each may take in that a message has come
            endpoint.send(b"c", [b"answer"])
        assert contents(endpoint, 1) == [b"%d" % number]
    assert client.poll(TIMEOUT_MS)


def test_a_burst_leaves_the_rest_for_the_next_turn(pair):
    endpoint, client = pair
    for number in range(BURST + 3):
        client.send(b"%d" % number)
    assert contents(endpoint, BURST + 3) == [b"%d" % number for number in range(BURST + 3)]


def test_the_sender_and_all_frames_arrive(pair):
    endpoint, client = pair
    client.send_multipart([b"EDG1", b"", b"x" * 100_000])
    while not (found := list(endpoint.messages(0.0))):
        select.select([endpoint.descriptor], [], [], TIMEOUT_MS / 1e3)
    ((routing_id, frames),) = found
    assert routing_id == b"c"
    assert [bytes(frame) for frame in frames] == [b"EDG1", b"", b"x" * 100_000]


def test_of_a_message_with_too_many_frames_one_too_many_is_told_and_the_rest_is_dropped(pair):
    endpoint, client = pair
    client.send_multipart([b"%d" % number for number in range(LIMITS.max_frames + 1_500)])
    client.send(b"next")
    found: list[list[bytes]] = []
    while len(found) < 2:
        select.select([endpoint.descriptor], [], [], 0.0 if endpoint.unsure else TIMEOUT_MS / 1e3)
        found += [[bytes(frame) for frame in frames] for _, frames in endpoint.messages(0.0)]
        assert endpoint.flooder is None
    assert found == [[b"%d" % number for number in range(LIMITS.max_frames + 1)], [b"next"]]


def test_a_flood_of_frames_is_dropped_with_the_socket(pair, tmp_path: Path):
    endpoint, client = pair
    for _ in range(50_000):
        client.send(b"", zmq.SNDMORE)
    client.send(b"")
    turns = 0
    while endpoint.flooder is None:
        select.select([endpoint.descriptor], [], [], 0.0 if endpoint.unsure else TIMEOUT_MS / 1e3)
        turns += len(list(endpoint.messages(0.0)))
    assert turns == 1
    assert endpoint.flooder.routing_id == b"c"
    endpoint.renew()
    endpoint.socket.bind(f"ipc://{tmp_path}/a.sock")
    assert endpoint.flooder is None
    found: list[bytes] = []
    while not found:  # what the client sends before it notices is lost with the connection
        client.send(b"again")
        select.select([endpoint.descriptor], [], [], 0.05)
        found += [bytes(frames[-1]) for _, frames in endpoint.messages(0.0)]
    assert set(found) == {b"again"}


def test_who_leaves_too_much_unread_is_cut_off_and_what_was_for_it_is_gone(pair):
    endpoint, client = pair
    client.setsockopt(zmq.RCVHWM, 1)
    sent = 0
    with contextlib.suppress(zmq.Again):
        while sent < 100_000_000:
            endpoint.send(b"c", [b"x" * 100_000])
            sent += 100_000
    assert LIMITS.max_message_bytes <= endpoint.unread.total_bytes + 100_000
    assert sent < LIMITS.max_message_bytes + 8_000_000  # of which ZeroMQ has taken some
    poller = select.poll()
    poller.register(endpoint.connections.descriptor, select.POLLIN)
    while endpoint.unread.total_bytes:
        assert poller.poll(TIMEOUT_MS)
        endpoint.update(0.0)


def test_what_is_read_is_not_counted(pair):
    endpoint, client = pair
    for _ in range(100):
        endpoint.send(b"c", [b"head", b"x" * 50_000])
        client.recv_multipart()
    connection = endpoint.connections.by_routing_id.get(b"c")
    assert connection is not None
    while connection.unread_bytes:
        endpoint.relieve()
    assert endpoint.unread.total_bytes == 0


@pytest.mark.parametrize(
    ("settled_until_s", "wait_ms"),
    [(-math.inf, 0), (9.0, 0), (10.0019, 0), (10.0021, 1), (10.0031, 2), (20.0, GATHER_MS)],
)
def test_a_message_waits_for_others_only_while_the_device_is_busy(
    settled_until_s: float, wait_ms: int
) -> None:
    assert gather_ms(settled_until_s, 10.0) == wait_ms

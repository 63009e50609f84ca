"""No message is slept on: neither one that came before the first look, nor behind a send."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from edged import wire
from edged.daemon.endpoint import BURST, Endpoint

TIMEOUT_MS = 10_000
LIMITS = wire.Limits(max_frames=8, max_message_bytes=1_000_000)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Endpoint, zmq.Socket[Any]]]:
    """An endpoint and a client of it, which have spoken with each other."""
    with zmq.Context() as context:
        endpoint = Endpoint(lambda: context.socket(zmq.ROUTER), LIMITS)
        endpoint.socket.bind(f"ipc://{tmp_path}/a.sock")
        with context.socket(zmq.DEALER) as client:
            client.setsockopt(zmq.ROUTING_ID, b"c")
            client.connect(f"ipc://{tmp_path}/a.sock")
            client.send(b"hello")
            assert contents(endpoint, 1) == [b"hello"]
            yield endpoint, client
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

"""Messages over a real socket pair."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import Unavailable
from edged.link.channel import Receiver, Sender, SharedSender, channel_pair

SIZES = st.sampled_from([0, 1, 5, 4090, 4096, 5000, 300_000])
MESSAGES = st.lists(st.lists(SIZES, min_size=1, max_size=5), max_size=8)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = channel_pair()
    with ours, theirs:
        yield ours, theirs


def message(number: int, sizes: list[int]) -> list[bytes]:
    return [bytes([number, at]) * (size // 2) + b"!" * (size % 2) for at, size in enumerate(sizes)]


def copied(frames: list[memoryview] | None) -> list[bytes] | None:
    return None if frames is None else [bytes(frame) for frame in frames]


@given(MESSAGES)
def test_without_waiting_every_message_arrives_whole_and_in_order(all_sizes):
    sent = [message(number, sizes) for number, sizes in enumerate(all_sizes)]
    ours, theirs = channel_pair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        sender, receiver = Sender(ours), Receiver(theirs)
        for frames in sent:
            sender.put(frames)
        received = []
        while len(received) < len(sent):
            sender.flush()
            frames = copied(receiver.receive())
            if frames is not None:
                received.append(frames)
        assert received == sent
        assert not sender.waits
        assert receiver.receive() is None
        assert not receiver.ended


def test_payload_stays_when_more_is_received(ends):
    ours, theirs = ends
    sender, receiver = Sender(ours), Receiver(theirs)
    sender.put([b"first", b"a" * 3000])
    sender.put([b"second", b"b" * 3000])
    sender.flush()
    kept = receiver.receive()[1]
    receiver.receive()
    assert bytes(kept) == b"a" * 3000


def test_what_was_read_ahead_is_there_although_the_socket_has_nothing_more(ends):
    ours, theirs = ends
    theirs.setblocking(False)
    sender, receiver = Sender(ours), Receiver(theirs)
    for number in range(70):
        sender.put([bytes([number]), b"payload"])
    sender.flush()
    received = [copied(receiver.receive())[0]]
    assert not select.select([theirs], [], [], 0)[0]  # a poller would not tell of the others
    while (frames := receiver.receive()) is not None:
        received.append(bytes(frames[0]))
    assert received == [bytes([number]) for number in range(70)]


def test_payload_is_received_where_the_reader_has_memory_for_it(ends):
    ours, theirs = ends
    sender, receiver = SharedSender(ours), Receiver(theirs)
    sender.send([b"first", b"a" * 30_000, b"b" * 10])
    sender.send([b"skipped", b"c" * 30_000])
    sender.send([b"last"])
    assert receiver.begin() == b"first"
    assert receiver.sizes == (30_000, 10)
    place = np.zeros(30_010, np.uint8)
    receiver.payload([place[:30_000].data, place[30_000:].data])
    assert place.tobytes() == b"a" * 30_000 + b"b" * 10
    assert receiver.begin() == b"skipped"
    assert receiver.begin() == b"last"


def test_threads_do_not_mix_their_messages(ends):
    ours, theirs = ends
    sender = SharedSender(ours)

    def speak(number: int) -> None:
        for _ in range(20):
            sender.send(message(number, [10, 100_000, 7]))

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    receiver = Receiver(theirs)
    received = [copied(receiver.receive()) for _ in range(60)]
    for thread in threads:
        thread.join()
    for number in range(3):
        assert received.count(message(number, [10, 100_000, 7])) == 20


def test_last_words_are_heard_before_the_end(ends):
    ours, theirs = ends
    SharedSender(theirs).send([b"never read"])
    SharedSender(ours).send([b"last", b"words"])
    ours.close()
    receiver = Receiver(theirs)
    assert copied(receiver.receive()) == [b"last", b"words"]
    assert not receiver.ended
    assert receiver.receive() is None
    assert receiver.ended


def test_nobody_is_there_to_read(ends):
    ours, theirs = ends
    theirs.close()
    sender = Sender(ours)
    sender.put([b"hello", b"there"])
    with pytest.raises(Unavailable, match="gone"):
        sender.flush()
    assert not sender.waits

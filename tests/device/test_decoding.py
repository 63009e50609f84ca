"""Room for pictures that are being decoded."""

from __future__ import annotations

import queue
import threading
from contextlib import ExitStack

import pytest

from edged.device.decoding import Room, room_bytes
from edged.errors import ResourceExhausted
from tests.daemon.live import until

PATIENCE_S = 30.0


class Threads:
    """Take room in threads, and say who has got it."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.entered: queue.Queue[str] = queue.Queue()
        self.leave: dict[str, threading.Event] = {}
        self.threads: list[threading.Thread] = []

    def take(self, name: str, nbytes: int) -> None:
        self.leave[name] = threading.Event()
        thread = threading.Thread(target=self._hold, args=(name, nbytes))
        self.threads.append(thread)
        thread.start()

    def _hold(self, name: str, nbytes: int) -> None:
        with self.room.take(nbytes):
            self.entered.put(name)
            assert self.leave[name].wait(PATIENCE_S)

    def next(self) -> str:
        return self.entered.get(timeout=PATIENCE_S)

    def end(self) -> None:
        for event in self.leave.values():
            event.set()
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_large_pictures_take_turns_and_small_ones_never_wait() -> None:
    room = Room(400, threads=4)  # 25 bytes for each small one, 300 for the others together
    threads = Threads(room)
    with ExitStack() as stack:
        stack.callback(threads.end)
        threads.take("first", 200)
        assert threads.next() == "first"
        threads.take("too large for now", 250)
        until(lambda: room.waiting == 1)
        threads.take("would fit, but came later", 90)
        until(lambda: room.waiting == 2)
        for _ in range(4):
            stack.enter_context(room.take(25))
        threads.leave["first"].set()
        assert threads.next() == "too large for now"
        assert room.waiting == 1
        threads.leave["too large for now"].set()
        assert threads.next() == "would fit, but came later"
        with room.take(210):  # beside it
            pass


def test_a_picture_that_fails_gives_its_room_back() -> None:
    room = Room(400, threads=4)
    for _ in range(3):
        with pytest.raises(ValueError, match="damaged"), room.take(300):
            raise ValueError("damaged")
    with pytest.raises(ResourceExhausted, match=r"takes 301 bytes .* there is memory for 300"):
        room.take(301).__enter__()


def test_the_room_is_for_one_of_the_largest_unless_the_budget_is_small() -> None:
    assert Room(room_bytes(None, 2**25), 4).nbytes == 4 * (10 * 2**25 + 2**20) // 3
    assert room_bytes(800_000_000, 2**25) == 100_000_000
    assert room_bytes(8_000_000_000, 2**25) == room_bytes(None, 2**25)

"""Batches in flight: how many, in which order, and who goes on meanwhile."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from edged.device.pipeline import Pipeline

TIMEOUT_S = 30


class Rig:
    """A pipeline whose batches end when the test says so."""

    def __init__(self, depth: int, refused: frozenset[int] = frozenset()) -> None:
        self.orders: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.read: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.submitted: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.finished: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._may_end = threading.Semaphore(0)
        self._refused = refused
        self.pipeline = Pipeline(depth, self._read, self._submit, self._finish)

    def _read(self) -> int | None:
        order = self.orders.get()
        self.read.put(order)
        return order

    def _submit(self, order: int) -> int | None:
        self.submitted.put(order)
        return None if order in self._refused else order

    def _finish(self, batch: int) -> None:
        assert self._may_end.acquire(timeout=TIMEOUT_S)
        self.finished.put(batch)

    def order(self, *orders: int | None) -> None:
        for order in orders:
            self.orders.put(order)

    def end_one(self) -> None:
        self._may_end.release()


@contextmanager
def running(rig: Rig) -> Iterator[None]:
    lives: list[Callable[[], None]] = [
        rig.pipeline.read_all, rig.pipeline.submit_all, rig.pipeline.finish_all,
    ]  # fmt: skip
    threads = [threading.Thread(target=life, daemon=True) for life in lives]
    for thread in threads:
        thread.start()
    yield
    rig.order(None)
    for thread in threads:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


def take(found: queue.SimpleQueue[int], count: int) -> list[int]:
    return [found.get(timeout=TIMEOUT_S) for _ in range(count)]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_as_many_are_in_flight_as_are_of_use(depth: int) -> None:
    rig = Rig(depth)
    with running(rig):
        rig.order(*range(5))
        assert take(rig.submitted, depth) == list(range(depth))
        assert [rig.read.get(timeout=TIMEOUT_S) for _ in range(5)] == list(range(5))
        assert rig.submitted.empty()
        for ended in range(5):
            rig.end_one()
            assert take(rig.finished, 1) == [ended]
            if ended + depth < 5:
                assert take(rig.submitted, 1) == [ended + depth]


def test_one_that_is_refused_takes_no_place() -> None:
    rig = Rig(1, refused=frozenset({0, 1, 3}))
    with running(rig):
        rig.order(0, 1, 2, 3, 4)
        assert take(rig.submitted, 3) == [0, 1, 2]
        rig.end_one()
        rig.end_one()
        assert take(rig.finished, 2) == [2, 4]


def test_the_end_waits_for_what_is_in_flight() -> None:
    rig = Rig(2)
    with running(rig):
        rig.order(0, 1, None)
        assert take(rig.submitted, 2) == [0, 1]
        rig.end_one()
        rig.end_one()
    assert take(rig.finished, 2) == [0, 1]

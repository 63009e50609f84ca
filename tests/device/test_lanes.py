"""Threads that read orders in turn and run the batches that they read."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edged.device.lanes import Lanes

TIMEOUT_S = 30.0


class Rig:
    """Lanes whose batches are numbers. They are read when ordered, and end when let go."""

    def __init__(self, lanes: int) -> None:
        self.orders: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.begun: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()  # batch, thread
        self.may_end = {number: threading.Event() for number in range(20)}
        self.read = threading.Semaphore(0)
        self.lanes = Lanes(lanes, self._read, self._run)
        self.reader = 0  # of the latest order
        self.threads = [threading.Thread(target=self.lanes.work) for _ in range(lanes + 1)]

    def _read(self) -> int | None:
        batch = self.orders.get()
        self.reader = threading.get_ident()
        self.read.release()
        return batch

    def _run(self, batch: int) -> None:
        self.begun.put((batch, threading.get_ident()))
        assert self.may_end[batch].wait(TIMEOUT_S)

    def order(self, *batches: int | None) -> None:
        """Return when they have been read."""
        for batch in batches:
            self.orders.put(batch)
            assert self.read.acquire(timeout=TIMEOUT_S)

    def next(self) -> int:
        """The next batch that begins."""
        return self.begun.get(timeout=TIMEOUT_S)[0]

    def end(self, *batches: int) -> None:
        for batch in batches:
            self.may_end[batch].set()


@contextmanager
def running(lanes: int) -> Iterator[Rig]:
    rig = Rig(lanes)
    for thread in rig.threads:
        thread.start()
    try:
        yield rig
    finally:
        rig.end(*rig.may_end)
        rig.orders.put(None)
        for thread in rig.threads:
            thread.join(TIMEOUT_S)
    assert not any(thread.is_alive() for thread in rig.threads)


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_as_many_batches_run_as_there_are_lanes_and_the_rest_in_order(lanes: int) -> None:
    with running(lanes) as rig:
        rig.order(*range(lanes + 3))  # all are read though no lane is free for the last three
        assert {rig.next() for _ in range(lanes)} == set(range(lanes))
        assert rig.begun.empty()
        for waiting in range(lanes, lanes + 3):
            rig.end(waiting - lanes)
            assert rig.next() == waiting


def test_the_thread_that_reads_an_order_runs_it() -> None:
    with running(2) as rig:
        for batch in range(2):
            rig.order(batch)
            assert rig.begun.get(timeout=TIMEOUT_S) == (batch, rig.reader)


def test_what_was_read_before_the_end_still_runs() -> None:
    with running(1) as rig:
        rig.order(0, 1, 2, None)
        assert rig.next() == 0
        rig.end(0, 1, 2)
        assert [rig.next(), rig.next()] == [1, 2]

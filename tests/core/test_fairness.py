"""Who gets how much of a busy device: clients that flood beside clients that do not, in virtual
time, on one lane with threads that prepare."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest

from edged.core.events import (
    Answer,
    Arrived,
    BatchDone,
    Command,
    DeviceUp,
    GroupCost,
    Prepare,
    Prepared,
    Refuse,
    Run,
    Woke,
)
from edged.core.staging import LATELY_S
from tests.core.helpers import BACKBONE, Checked, arrived, request

INNOCENT, FLOODER = 1, 2
BASE_S, ROW_S = 0.004, 0.001  # of a batch, and of each row in it
FLOOD = 128  # requests of a flooder in flight


class Device:
    """The scheduler, one lane and `threads` that prepare for `prepare_s` each."""

    def __init__(self, threads: int = 2, prepare_s: float = 0.0, **settings: object) -> None:
        self.scheduler = Checked(**settings)
        self.now = 0.0
        self._count = itertools.count(1)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._prepare_s = prepare_s
        self._threads = [0.0] * threads  # when each is free
        self._lane_s = 0.0
        self._asked: dict[int, tuple[int, float]] = {}  # client and time of each request
        self.answered: Counter[int] = Counter()
        self.refused: Counter[int] = Counter()
        self.waits: dict[int, list[float]] = {}
        self.on_end: Callable[[int], None] = lambda client: None
        rows = (1, 2, 4, 8, 16)
        cost = GroupCost(BACKBONE, rows, tuple(BASE_S + n * ROW_S for n in rows))
        self._tell(DeviceUp((cost,)))

    def at(self, time_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (time_s, next(self._count), what))

    def ask(self, client: int, timeout_s: float = 30.0, **fields: object) -> None:
        rid = next(self._count)
        self._asked[rid] = client, self.now
        light = not self._prepare_s
        deadline_s = self.now + timeout_s
        self._tell(arrived(rid, client=client, light=light, deadline_s=deadline_s, **fields))

    def until(self, end_s: float) -> None:
        while self._queue and self._queue[0][0] <= end_s:
            self.now, _, what = heapq.heappop(self._queue)
            what()
        self.now = end_s

    def _tell(self, event: object) -> None:
        for command in self.scheduler(event, self.now):  # type: ignore[arg-type]
            self._carry_out(command)
        wakeup_s = self.scheduler.scheduler.wakeup_at()
        if wakeup_s < float("inf"):
            self.at(max(self.now, wakeup_s), self._wake)

    def _wake(self) -> None:
        if self.scheduler.scheduler.wakeup_at() <= self.now:
            self._tell(Woke())

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, Prepare) and self._prepare_s:
            first = self._threads.index(min(self._threads))
            self._threads[first] = max(self.now, self._threads[first]) + self._prepare_s
            done = Prepared(command.rid, self._prepare_s)
            self.at(self._threads[first], lambda: self._tell(done))
        elif isinstance(command, Run):
            takes_s = BASE_S + ROW_S * command.rows
            self._lane_s = max(self.now, self._lane_s) + takes_s
            ended = BatchDone(command.batch, takes_s, 0.0)
            self.at(self._lane_s, lambda: self._tell(ended))
        elif isinstance(command, Answer | Refuse):
            client, asked_s = self._asked.pop(command.rid)
            if isinstance(command, Answer):
                self.answered[client] += 1
                self.waits.setdefault(client, []).append(self.now - asked_s)
                self.at(self.now, lambda: self.on_end(client))
            else:
                self.refused[client] += 1
                self.at(self.now + 0.001, lambda: self.on_end(client))


def flood(device: Device, *clients: int, in_flight: int = FLOOD, **fields: object) -> None:
    """Let these always have so many requests out."""

    def again(client: int) -> None:
        if client in clients:
            device.ask(client, **fields)  # type: ignore[arg-type]

    device.on_end = again
    for _ in range(in_flight):
        for client in clients:
            device.ask(client, **fields)  # type: ignore[arg-type]


def trickle(device: Device, end_s: float, timeouts_s: tuple[float, ...], **fields: object) -> int:
    """Ten requests a second, at random times; how many."""
    chance = random.Random(5)
    at_s, count = 0.5, 0
    for timeout_s in itertools.cycle(timeouts_s):
        at_s += chance.expovariate(10.0)
        if at_s >= end_s - timeout_s:
            return count
        count += 1
        device.at(at_s, lambda t=timeout_s: device.ask(INNOCENT, t, **fields))  # type: ignore[misc]
    raise AssertionError


@pytest.mark.parametrize("fields", [{}, {"rows": 16}, {"rows": 5, "group": "another"}], ids=str)
def test_who_asks_little_is_answered_in_time_beside_a_flood(fields):
    device = Device(queue_rows=4096)
    flood(device, FLOODER, **fields)
    sent = trickle(device, 20.0, (0.1, 0.2, 0.3, 0.4))
    device.until(20.0)
    assert device.refused[INNOCENT] == 0
    assert device.answered[INNOCENT] == sent > 150
    # The batch that runs, one that is ordered already, and its own.
    assert max(device.waits[INNOCENT]) <= 3 * (BASE_S + 16 * ROW_S) + 1e-6


if __name__ == "__main__":
    for fields in ({}, {"rows": 16}, {"rows": 5, "group": "another"}):
        for prepare_s in (0.0, 0.002):
            device = Device(queue_rows=4096, prepare_s=prepare_s)
            flood(device, FLOODER, **fields)
            sent = trickle(device, 20.0, (0.1, 0.2, 0.3, 0.4))
            device.until(20.0)
            w = sorted(device.waits.get(INNOCENT, [0]))
            print(fields, prepare_s, sent, device.answered[1], device.refused[1], max(w), w[len(w) // 2], "flooder", device.answered[2])
    for prepare_s in (0.0, 0.002):
        device = Device(queue_rows=4096, prepare_s=prepare_s)
        flood(device, FLOODER)
        device.until(20.0)
        print("alone", prepare_s, device.answered[2])

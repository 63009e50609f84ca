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
from edged.core.requests.fairness import LATELY_S
from edged.core.scheduler import Scheduler
from edged.core.settings import SchedulerSettings
from edged.errors import Code
from tests.core.helpers import BACKBONE, Checked, arrived

INNOCENT, FLOODER = 1, 2
BASE_S, ROW_S = 0.004, 0.001  # of a batch, and of each row in it
FLOOD = 128  # requests of a flooder in flight


class Device:
    """The scheduler, one lane and `threads` that prepare for `prepare_s` each."""

    def __init__(self, threads: int = 2, prepare_s: float = 0.0, **settings: object) -> None:
        self.scheduler = Scheduler(SchedulerSettings(**settings))  # type: ignore[arg-type]
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
        inline = not self._prepare_s
        deadline_s = self.now + timeout_s
        self._tell(arrived(rid, client=client, inline=inline, deadline_s=deadline_s, **fields))

    def until(self, end_s: float) -> None:
        while self._queue and self._queue[0][0] <= end_s:
            self.now, _, what = heapq.heappop(self._queue)
            what()
        self.now = end_s

    def _tell(self, event: object) -> None:
        for command in self.scheduler.handle(event, self.now):  # type: ignore[arg-type]
            self._carry_out(command)
        wakeup_s = self.scheduler.wakeup_at()
        if wakeup_s < float("inf"):
            self.at(max(self.now, wakeup_s), self._wake)

    def _wake(self) -> None:
        if self.scheduler.wakeup_at() <= self.now:
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


def trickle(device: Device, end_s: float, timeouts_s: tuple[float, ...]) -> int:
    """Ten requests a second of the innocent, at random times; how many."""
    chance = random.Random(5)
    at_s = 0.5
    for count, timeout_s in enumerate(itertools.cycle(timeouts_s)):
        at_s += chance.expovariate(10.0)
        if at_s >= end_s - timeout_s:
            return count
        device.at(at_s, lambda t=timeout_s: device.ask(INNOCENT, t))  # type: ignore[misc]
    raise AssertionError


BATCH_S = BASE_S + 16 * ROW_S  # of 16 rows
TIMEOUTS_S = (0.1, 0.2, 0.3, 0.4)
FLOODS = ({}, {"rows": 16}, {"rows": 5, "group": "another"})


@pytest.mark.parametrize("prepare_s", [0.0, 0.001])
@pytest.mark.parametrize("flooded", FLOODS, ids=str)
def test_who_asks_little_is_answered_in_time_beside_a_flood(flooded, prepare_s):
    """Without turns all that is staged would go before it: 48 rows, which take four batches."""
    device = Device(queue_rows=4096, prepare_s=prepare_s)
    flood(device, FLOODER, **flooded)
    sent = trickle(device, 10.0, TIMEOUTS_S)
    device.until(10.0)
    assert device.refused[INNOCENT] == 0
    assert device.answered[INNOCENT] == sent > 70
    # The rest of the batch that runs, one that is ordered already, and its own.
    waits_s = sorted(device.waits[INNOCENT])
    assert waits_s[-1] < 2.6 * BATCH_S
    assert waits_s[len(waits_s) // 2] < 1.7 * BATCH_S


@pytest.mark.parametrize("flooded", FLOODS[:2], ids=str)
def test_a_flood_loses_no_more_than_the_others_take(flooded):
    alone, beside = Device(queue_rows=4096), Device(queue_rows=4096)
    rows = flooded.get("rows", 1)
    for device in (alone, beside):
        flood(device, FLOODER, **flooded)
    trickle(beside, 10.0, TIMEOUTS_S)
    for device in (alone, beside):
        device.until(10.0)
    full = 10.0 / BATCH_S * 16
    assert alone.answered[FLOODER] * rows > 0.995 * full
    taken = beside.answered[INNOCENT] * (16 if rows == 16 else 1)  # sixteen and one: two batches
    assert beside.answered[FLOODER] * rows + taken > 0.98 * full


def test_all_that_flood_get_the_same_whatever_they_send():
    device = Device(queue_rows=4096)
    shapes = {2: (FLOOD, {}), 3: (30, {"rows": 4}), 4: (FLOOD, {"group": "another"}), 5: (16, {})}

    def again(client: int) -> None:
        device.ask(client, **shapes[client][1])  # type: ignore[arg-type]

    device.on_end = again
    for client, (in_flight, _) in shapes.items():
        for _ in range(in_flight):
            again(client)
    device.until(10.0)
    rows = [device.answered[client] * shapes[client][1].get("rows", 1) for client in shapes]
    assert min(rows) > 0.95 * max(rows)


def test_an_urgent_flood_still_goes_before_all_others():
    device = Device(queue_rows=4096)
    flood(device, FLOODER, level=0)
    trickle(device, 5.0, (0.5,))
    device.at(1.0, lambda: device.ask(3, level=1))
    device.until(5.0)
    assert device.answered[3] == 0
    assert device.answered[INNOCENT] > 30


def staged(scheduler: Checked, *clients: int, now: float = 0.0, **fields: object) -> list[int]:
    """How many of these requests, one a client, are on the device at once; of each client."""
    rids = itertools.count(1 + round(1e6 * now) * 1000)
    orders = [
        order
        for client in clients
        for order in scheduler(arrived(next(rids), client=client, inline=True, **fields), now)
    ]
    return [order.rid for order in orders if isinstance(order, Prepare)]


def up(**settings: object) -> Checked:
    scheduler = Checked(staging_rows=16, max_batch_rows=4, **settings)
    scheduler(DeviceUp())
    return scheduler


def test_who_is_alone_may_have_all_of_staging():
    assert len(staged(up(), *[FLOODER] * 20)) == 16


def test_while_others_are_served_the_last_quarter_is_for_who_holds_less_than_a_share():
    scheduler = up()
    assert len(staged(scheduler, INNOCENT)) == 1
    assert len(staged(scheduler, *[FLOODER] * 20, now=0.1)) == 11
    assert scheduler.scheduler.staged_rows == 12
    assert len(staged(scheduler, *[INNOCENT] * 20, now=0.2)) == 4
    assert scheduler.scheduler.staged_rows == 16


def test_the_same_in_bytes():
    scheduler = up(staging_bytes=1600)
    assert len(staged(scheduler, INNOCENT, payload_bytes=1)) == 1
    assert len(staged(scheduler, *[FLOODER] * 5, payload_bytes=400, now=0.1)) == 2
    assert len(staged(scheduler, INNOCENT, payload_bytes=400, now=0.2)) == 1


def test_a_client_that_was_served_counts_for_a_while():
    scheduler = up()
    assert len(staged(scheduler, INNOCENT)) == 1
    scheduler(BatchDone(1, 0.01, 0.0), 0.01)
    assert len(staged(scheduler, *[FLOODER] * 20, now=0.02)) == 12
    late_s = 0.02 + LATELY_S
    scheduler(BatchDone(2, 0.01, 0.0), late_s)  # one row of its own left, one came in its place
    assert scheduler.scheduler.staged_rows == 16


def test_a_policy_that_waits_for_full_batches_does_not_wait_for_what_may_not_come():
    """Rows of one client in two groups, and more of it that wait for its share."""
    scheduler = up(policy="greedy")
    staged(scheduler, INNOCENT, group="small")
    staged(scheduler, *[FLOODER] * 20, now=0.1, group="large")
    sizes = []
    for batch in range(1, 6):
        orders = scheduler(BatchDone(batch, 0.01, 0.0), 0.1 + batch / 100)
        sizes += [order.rows for order in orders if isinstance(order, Run)]
    assert sizes == [1, 4, 4, 4, 4]


def test_what_is_staged_of_a_flood_makes_nobody_else_too_late():
    """Sixteen rows of a flood are ahead, at 10 ms a row, of which those of one batch run."""
    scheduler = up()
    staged(scheduler, FLOODER)
    scheduler(BatchDone(1, 0.01, 0.0), 0.01)
    staged(scheduler, *[FLOODER] * 20, now=0.01)

    def asked(rid: int, client: int) -> list[Command]:
        return scheduler(arrived(rid, client=client, deadline_s=0.08, inline=True), 0.01)

    (refused,) = asked(1, FLOODER)
    assert isinstance(refused, Refuse)
    assert refused.code is Code.DEADLINE_EXCEEDED
    assert not any(isinstance(order, Refuse) for order in asked(2, INNOCENT))

"""When the device hears of its next batch: before the last one ends, but not long before."""

from __future__ import annotations

import math

import pytest

from edged.core.events import (
    BatchDone,
    Command,
    DeviceDown,
    DeviceUp,
    GroupCost,
    Refuse,
    Run,
    Woke,
)
from tests.core.helpers import BACKBONE, Checked, arrived

WORK_S = 0.100  # of each batch
HANDOVER_S = 0.004


def warm(
    handover_s: float = HANDOVER_S,
    lanes: int = 1,
    times_s: tuple[float, float] = (WORK_S, WORK_S + 0.001),
    depth: int = 1,
) -> tuple[Checked, float]:
    """A scheduler that has seen enough batches to know what a hand-over takes; and the time."""
    scheduler = Checked(max_batch_rows=4)
    cost = GroupCost(BACKBONE, (1, 4), times_s, speed_up=1.0)
    scheduler(DeviceUp((cost,), lanes=lanes, depth=depth))
    now = 0.0
    for number in range(1, 101):
        scheduler(arrived(number, inline=True), now)
        now += WORK_S + handover_s
        scheduler(BatchDone(number, WORK_S, 0.0), now)
    return scheduler, now


def runs(commands: list[Command]) -> list[tuple[int, ...]]:
    """The requests of each batch that is ordered."""
    return [tuple(m.rid for m in c.members) for c in commands if isinstance(c, Run)]


def test_a_batch_is_ordered_ahead_by_what_the_handover_takes():
    scheduler, now = warm()
    assert runs(scheduler(arrived(101, inline=True), now)) == [(101,)]
    assert scheduler.scheduler.wakeup_at() == math.inf  # there is nothing to order
    assert runs(scheduler(arrived(102, inline=True), now + 0.01)) == []
    order_at = scheduler.scheduler.wakeup_at()
    assert order_at == pytest.approx(now + WORK_S + HANDOVER_S - HANDOVER_S - 0.001, abs=0.001)
    assert runs(scheduler(arrived(103, inline=True), order_at - 0.001)) == []
    assert runs(scheduler(Woke(), order_at)) == [(102, 103)]  # all that came until then
    assert runs(scheduler(arrived(104, inline=True), order_at)) == []
    assert runs(scheduler(BatchDone(101, WORK_S, 0.0), now + WORK_S)) == []  # the next one runs
    assert scheduler.scheduler.wakeup_at() == pytest.approx(order_at + WORK_S, abs=0.005)


def test_a_driver_may_wait_for_more_arrivals_until_the_next_batch_is_due():
    scheduler, now = warm()
    assert scheduler.scheduler.settled_until_s < now  # nothing runs: an arrival runs at once
    scheduler(arrived(101, inline=True), now)
    until = scheduler.scheduler.settled_until_s
    assert now + 0.9 * WORK_S < until < now + WORK_S
    assert runs(scheduler(arrived(102, inline=True), until - 0.001)) == []
    assert scheduler.scheduler.wakeup_at() == until  # the next batch is ordered then, not before


def test_who_was_ordered_ahead_is_not_suspected_when_the_device_dies():
    """It dies with the first batch each time; what was to run next has not begun."""
    scheduler, now = warm()
    scheduler(arrived(101, inline=True), now)
    scheduler(arrived(102, inline=True), now)
    assert runs(scheduler(Woke(), scheduler.scheduler.wakeup_at())) == [(102,)]
    assert scheduler(DeviceDown("killed"), now + WORK_S) == []
    cost = GroupCost(BACKBONE, (1, 4), (WORK_S, WORK_S + 0.001), speed_up=1.0)
    scheduler(DeviceUp((cost,)), now + 1.0)
    (refused,) = scheduler(DeviceDown("killed"), now + 1.05)
    assert refused.rid == 101
    scheduler(DeviceUp((cost,)), now + 2.0)
    assert scheduler(DeviceDown("killed"), now + 2.05) == []  # 102 is suspected once


def test_a_batch_that_was_ordered_ahead_costs_what_it_takes_after_the_last_one():
    scheduler, now = warm()
    scheduler(arrived(101, inline=True), now)
    scheduler(arrived(102, inline=True), now + 0.099)  # time to order
    for number in (101, 102):
        now += WORK_S
        scheduler(BatchDone(number, WORK_S, 0.0), now)
    scheduler(arrived(103, inline=True), now)
    scheduler(arrived(104, inline=True), now)
    assert scheduler.scheduler.wakeup_at() == pytest.approx(now + WORK_S, abs=0.005)


def test_where_handing_over_takes_no_time_nothing_is_ordered_ahead():
    scheduler, now = warm(handover_s=0.0)
    scheduler(arrived(101, inline=True), now)
    assert runs(scheduler(arrived(102, inline=True), now + WORK_S)) == []
    assert scheduler.scheduler.wakeup_at() == math.inf


def test_a_batch_that_is_late_is_followed_by_one_other_only():
    scheduler, now = warm()
    for number in (101, 102, 103):
        scheduler(arrived(number, inline=True), now)
        now += 10 * WORK_S
    assert len(scheduler.scheduler._device.lanes.batches) == 2


def test_on_two_lanes_the_next_batch_is_for_the_one_that_is_free_first():
    scheduler, now = warm(lanes=2)
    scheduler(arrived(101, inline=True), now)
    scheduler(arrived(102, inline=True), now + 0.020)
    assert len(scheduler.scheduler._device.lanes.batches) == 2
    assert runs(scheduler(arrived(103, inline=True), now + 0.050)) == []
    assert scheduler.scheduler.wakeup_at() == pytest.approx(now + WORK_S - HANDOVER_S, abs=0.002)
    (ahead,) = scheduler(Woke(), now + WORK_S - HANDOVER_S)
    assert isinstance(ahead, Run)
    assert not ahead.wide


def test_nothing_wakes_the_scheduler_while_the_device_is_gone():
    scheduler, now = warm()
    scheduler(arrived(101, inline=True), now)
    scheduler(arrived(102, inline=True), now + 0.010)
    assert scheduler.scheduler.wakeup_at() < math.inf
    scheduler(DeviceDown("it died"), now + 0.020)
    assert scheduler.scheduler.wakeup_at() == math.inf


def test_batches_are_larger_where_handing_over_takes_long():
    for handover_s, rows in ((0.0, 1), (0.050, 4)):
        scheduler, now = warm(handover_s, times_s=(WORK_S, 4 * WORK_S))
        for number in range(101, 106):
            scheduler(arrived(number, inline=True), now)
        commands = scheduler(BatchDone(101, WORK_S, 0.0), now + WORK_S)
        assert [len(members) for members in runs(commands)] == [rows]


def deep(depth: int = 2, sizes: tuple[int, ...] = ()) -> Checked:
    """A device that has use for several batches at once, and batches of four rows at most."""
    scheduler = Checked(max_batch_rows=4, staging_rows=24)
    cost = GroupCost(BACKBONE, (1, 4), (WORK_S, WORK_S + 0.001))
    scheduler(DeviceUp((cost,), depth=depth, sizes=sizes))
    return scheduler


def test_nothing_is_refused_as_too_late_behind_a_batch_of_which_nothing_is_known():
    scheduler = Checked(max_batch_rows=4, staging_rows=24)
    scheduler(DeviceUp((), depth=2))
    for rid in (1, 2, 3):
        out = scheduler(arrived(rid, rows=4, inline=True, deadline_s=30.0))
        assert not any(isinstance(command, Refuse) for command in out)


def test_a_full_batch_goes_at_once_to_a_device_that_has_use_for_it():
    scheduler = deep()
    assert runs(scheduler(arrived(1, rows=4, inline=True))) == [(1,)]
    assert runs(scheduler(arrived(2, rows=4, inline=True))) == [(2,)]
    assert runs(scheduler(arrived(3, rows=4, inline=True))) == []  # two are enough
    assert runs(scheduler(BatchDone(1, WORK_S, 0.0), WORK_S)) == [(3,)]


def test_a_batch_that_others_could_join_waits_for_them():
    scheduler = deep()
    scheduler(arrived(1, rows=1, inline=True))
    assert runs(scheduler(arrived(2, rows=3, inline=True))) == []
    assert runs(scheduler(arrived(3, rows=1, inline=True))) == [(2, 3)]


def test_a_small_batch_is_ordered_as_late_as_on_any_other_device():
    scheduler, now = warm(depth=2)
    scheduler(arrived(101, inline=True), now)
    assert runs(scheduler(arrived(102, inline=True), now + 0.01)) == []
    order_at = scheduler.scheduler.wakeup_at()
    assert order_at == pytest.approx(now + WORK_S - 0.001, abs=0.001)
    assert runs(scheduler(Woke(), order_at)) == [(102,)]


def test_without_a_depth_a_full_batch_waits_for_the_lane():
    scheduler = deep(depth=1)
    scheduler(arrived(1, rows=4, inline=True))
    assert runs(scheduler(arrived(2, rows=4, inline=True))) == []


def test_all_that_is_in_flight_is_suspected_when_the_device_dies():
    """Nobody knows which of them the device ended with."""
    scheduler = deep()
    for rid in (1, 2):
        scheduler(arrived(rid, rows=4, inline=True))
    scheduler(DeviceDown("gone"), 1.0)
    cost = GroupCost(BACKBONE, (1, 4), (WORK_S, WORK_S + 0.001))
    ordered = runs(scheduler(DeviceUp((cost,), depth=2), 2.0))
    assert ordered == [(1,)]  # and nothing beside it
    assert runs(scheduler(BatchDone(3, WORK_S, 0.0), 3.0)) == [(2,)]


def test_the_second_batch_is_charged_from_the_end_of_the_first():
    scheduler = deep()
    for rid in (1, 2):
        scheduler(arrived(rid, rows=4, inline=True))
    scheduler(BatchDone(1, 0.2, 0.0), 0.2)
    scheduler(BatchDone(2, 0.2, 0.0), 0.4)  # and not 0.4 seconds
    assert scheduler.scheduler._device.costs.batch_s(BACKBONE, 4) < 0.3


def test_rows_that_would_be_padded_wait_for_the_next_batch_where_that_is_no_slower():
    scheduler = Checked(max_batch_rows=8)
    cost = GroupCost(BACKBONE, (1, 4, 8), (0.25, 0.5, 0.8))
    scheduler(DeviceUp((cost,), depth=2, sizes=(1, 4, 8)))
    scheduler(arrived(1, rows=8, inline=True))
    for rid in range(2, 7):
        assert runs(scheduler(arrived(rid, inline=True))) == []  # not full
    assert runs(scheduler(BatchDone(1, 0.8, 0.0), 0.8)) == [(2, 3, 4, 5)]
    assert runs(scheduler(BatchDone(2, 0.5, 0.0), 1.3)) == [(6,)]

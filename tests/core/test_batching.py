"""The policies as functions: what each makes of the same view."""

from __future__ import annotations

import math

import pytest

from edged.core.batches.policies import GroupView
from edged.core.costs import CostModel
from edged.core.events import (
    BatchDone,
    DeviceUp,
    DrainAsked,
    GroupCost,
    Prepare,
    Prepared,
    Run,
    Woke,
)
from edged.errors import InvalidArgument
from edged.policies import find
from edged.policies.arrivals import ArrivalRate
from edged.policies.smooth import smallest_feasible
from tests.core.helpers import BACKBONE, Checked, arrived

TABLE_II = GroupCost(
    BACKBONE,
    (1, 2, 4, 6, 8, 12, 16),
    (0.01593, 0.01919, 0.02955, 0.04249, 0.05319, 0.07695, 0.09999),
)
FLAT = GroupCost(BACKBONE, (1, 2, 4, 8), (0.010, 0.0201, 0.0402, 0.0799))


@pytest.mark.parametrize(
    ("rate", "rows"),
    [
        (0, 1), (1, 1), (50, 1), (62.7, 1), (62.8, 2), (104.2, 2), (104.3, 4), (135.3, 4),
        (135.4, 6), (141.3, 8), (150.4, 8), (150.5, 12), (155.9, 12), (156, 16), (160, 16),
        (160.1, None), (500, None),
    ],
)  # fmt: skip
def test_algorithm_1_on_table_ii(rate, rows):
    assert smallest_feasible(TABLE_II, rate, math.inf) == rows


@pytest.mark.parametrize(
    ("name", "ready", "rate", "rows"),
    [
        ("work-conserving", 1, 0, 1),
        ("work-conserving", 5, 0, 5),
        ("work-conserving", 99, 0, 16),
        ("work-conserving-profiled", 5, 0, 4),
        ("greedy", 15, 0, 0),
        ("greedy", 16, 0, 16),
        ("static:4", 3, 0, 0),
        ("static:4", 9, 0, 4),
        ("static:64", 16, 0, 16),
        ("unbatched", 9, 0, 1),
        ("monolithic", 9, 0, 1),
        ("smooth", 3, 110, 0),
        ("smooth", 4, 110, 4),
        ("smooth", 1, 0, 1),
        ("smooth", 15, 500, 0),
        ("smooth", 16, 500, 16),
    ],
)
def test_what_a_policy_makes_of_the_same_queue(name, ready, rate, rows):
    assert find(name).rule()(GroupView(ready, 16, rate, TABLE_II)) == rows


def test_where_no_size_is_feasible_the_printed_algorithm_keeps_its_last():
    rule, other_group = (find("smooth-keep").rule() for _ in range(2))
    assert rule(GroupView(4, 16, 500, TABLE_II)) == 1  # nothing was feasible yet
    assert rule(GroupView(4, 16, 110, TABLE_II)) == 4
    assert rule(GroupView(15, 16, 500, TABLE_II)) == 4
    assert other_group(GroupView(4, 16, 500, TABLE_II)) == 1


def test_a_time_out_ends_the_wait_for_a_full_batch():
    rule = find("smooth-timeout").rule()
    wait_s = 2 * 4 / 110
    assert rule(GroupView(3, 16, 110, TABLE_II, waited_s=wait_s * 0.99)) == 0
    assert rule(GroupView(3, 16, 110, TABLE_II, waited_s=wait_s * 1.01)) == 3
    assert rule(GroupView(9, 16, 110, TABLE_II, waited_s=wait_s * 1.01)) == 4


@pytest.mark.parametrize("name", ["", "clever", "static", "static:", "static:0", "static:-1"])
def test_an_unknown_policy_is_refused_with_the_names_there_are(name):
    with pytest.raises(InvalidArgument, match=r"greedy, .*static:B"):
        find(name)


def test_the_rate_is_counted_over_a_window_and_held_between_beats():
    rate = ArrivalRate(window_s=1.0, beat_s=0.1, since=-5.0)
    for at in (0.01, 0.02):
        rate.add(2, at)
    assert rate.rows_per_s(0.09) == 0
    assert rate.rows_per_s(0.11) == 4
    rate.add(2, 0.15)
    assert rate.rows_per_s(0.2) == 6
    assert rate.next_beat_s(0.21) == pytest.approx(0.3)
    assert rate.rows_per_s(1.09) == 6
    assert rate.rows_per_s(1.1) == 2
    assert rate.rows_per_s(1.3) == 0


def test_a_load_that_has_just_begun_is_not_a_low_one():
    rate = ArrivalRate(window_s=1.0, beat_s=0.1, since=3.0)
    for tick in range(200):
        rate.add(1, 3.0 + tick / 100)
        if tick >= 20:
            assert rate.rows_per_s(3.0 + tick / 100) == pytest.approx(100, rel=0.06)


def test_no_batch_is_larger_than_what_pays():
    costs = CostModel([FLAT])
    assert costs.useful_rows(BACKBONE, 8) == 1
    assert CostModel([TABLE_II]).useful_rows(BACKBONE, 16) == 16
    assert CostModel([TABLE_II]).useful_rows(BACKBONE, 6) == 6
    assert CostModel().useful_rows(BACKBONE, 8) == 8


def test_a_device_whose_batches_do_not_pay_gets_none():
    scheduler = Checked(max_batch_rows=8)
    scheduler(DeviceUp((FLAT,)))
    for rid in (1, 2, 3):
        scheduler(arrived(rid))
        scheduler(Prepared(rid, 0.0))
    (run,) = [c for c in scheduler(BatchDone(1, 0.01, 0.0)) if isinstance(c, Run)]
    assert run.rows == 1


def test_a_policy_that_waits_is_asked_again_at_the_next_beat():
    scheduler = Checked(policy="smooth", max_batch_rows=16, staging_rows=200)
    scheduler(DeviceUp((TABLE_II,)))
    for rid in range(1, 121):  # 120 rows in the first 0.1 s: a rate that asks for batches of 4
        now = rid * 0.0005
        scheduler(arrived(rid), now)
    scheduler(Prepared(1, 0.0), 0.15)
    assert scheduler.scheduler.wakeup_at() == pytest.approx(0.2)
    assert scheduler(Woke(), 0.2) == []
    (run,) = scheduler(Woke(), 1.2)  # the window is empty again: a batch of one will do
    assert run.rows == 1


def test_draining_ends_every_wait():
    scheduler = Checked(policy="greedy", max_batch_rows=16)
    scheduler(DeviceUp())
    scheduler(arrived(1))
    assert scheduler(Prepared(1, 0.0)) == []
    (run,) = scheduler(DrainAsked())
    assert run.rows == 1


def test_a_full_staging_memory_ends_every_wait():
    scheduler = Checked(policy="greedy", max_batch_rows=4, staging_rows=4)
    scheduler(DeviceUp())
    for rid, group in ((1, "x"), (2, "x"), (3, "y")):
        scheduler(arrived(rid, group=group))
        assert scheduler(Prepared(rid, 0.0)) == []
    assert [type(c) for c in scheduler(arrived(4, group="y"))] == [Prepare]
    (run,) = scheduler(Prepared(4, 0.0))
    assert (run.group, run.rows) == ("x", 2)


def test_what_does_not_fit_into_staging_memory_ends_every_wait():
    scheduler = Checked(policy="greedy", max_batch_rows=4, staging_rows=6)
    scheduler(DeviceUp())
    for rid, group in ((1, "x"), (2, "x"), (3, "y")):
        scheduler(arrived(rid, group=group))
        assert scheduler(Prepared(rid, 0.0)) == []
    (run,) = scheduler(arrived(4, group="y", rows=4))
    assert (run.group, run.rows) == ("x", 2)


@pytest.mark.parametrize(("policy", "rows"), [("unbatched", 1), ("static:2", 2), ("greedy", 4)])
def test_no_policy_makes_larger_batches_because_staging_memory_is_full(policy, rows):
    scheduler = Checked(policy=policy, max_batch_rows=4, staging_rows=5)
    scheduler(DeviceUp())
    for rid in range(1, 6):
        scheduler(arrived(rid))
    runs = [c for rid in range(1, 6) for c in scheduler(Prepared(rid, 0.0))]
    assert [run.rows for run in runs] == [rows]


def test_monolithic_has_one_request_on_the_device():
    scheduler = Checked(policy="monolithic")
    scheduler(DeviceUp())
    assert len(scheduler(arrived(1))) == 1
    assert scheduler(arrived(2)) == []
    scheduler(Prepared(1, 0.0))
    assert len(scheduler(BatchDone(1, 0.01, 0.0))) == 2  # the answer, and the next to prepare

"""Transcripts: exact events at exact instants, exact commands."""

from __future__ import annotations

import math

import pytest

from edged.core.events import (
    Answer,
    Arrived,
    BatchDone,
    BatchFailed,
    CancelAsked,
    ClientGone,
    DeviceDown,
    DeviceUp,
    Discard,
    DrainAsked,
    Drained,
    GroupCost,
    Member,
    Part,
    PayloadRoom,
    Prepare,
    Prepared,
    PrepareFailed,
    Refuse,
    Request,
    Run,
    Woke,
)
from edged.errors import Code
from tests.core.helpers import BACKBONE, Checked, arrived


def up(**settings: object) -> Checked:
    scheduler = Checked(**settings)
    assert scheduler(DeviceUp()) == []
    return scheduler


def run(batch: int, *members: tuple[int, str]) -> Run:
    return Run(batch, BACKBONE, tuple(Member(rid, (m,)) for rid, m in members), len(members))


def stage(scheduler: Checked, *rids: int, now: float = 0.0) -> None:
    """Let requests arrive and be prepared while something else keeps the device busy."""
    for rid in rids:
        scheduler(arrived(rid), now)
        scheduler(Prepared(rid, 0.0), now)


def test_a_lone_request_waits_for_nobody():
    scheduler = up()
    assert scheduler(arrived(1), 0.0) == [Prepare(1)]
    assert scheduler(Prepared(1, 0.001), 0.001) == [run(1, (1, "a"))]
    assert scheduler(BatchDone(1, 0.010, 0.0005), 0.012) == [
        Answer(1, pytest.approx(0.0005), 0.001, 0.010, 0.0005, 1)
    ]


def test_a_light_request_is_prepared_and_run_in_one_go():
    scheduler = up()
    assert scheduler(arrived(1, inline=True), 0.0) == [Prepare(1), run(1, (1, "a"))]
    assert scheduler(arrived(2, inline=True), 0.001) == [Prepare(2)]
    assert scheduler(arrived(3, inline=True), 0.002) == [Prepare(3)]
    assert scheduler(BatchDone(1, 0.010, 0.0005), 0.012) == [
        Answer(1, pytest.approx(0.0015), 0.0, 0.010, 0.0005, 1),
        run(2, (2, "a"), (3, "a")),
    ]


def test_a_light_request_that_fails_is_refused_at_once_and_forgotten_with_its_batch():
    scheduler = up()
    for rid in (1, 2, 3, 4):
        scheduler(arrived(rid, inline=True))
    failed = Refuse(2, Code.INVALID_ARG, "no such input")
    assert scheduler(PrepareFailed(2, Code.INVALID_ARG, "no such input")) == [failed, Discard(2)]
    assert scheduler(BatchDone(1, 0.01, 0.0))[1:] == [run(2, (3, "a"), (4, "a"))]
    failed = Refuse(3, Code.INVALID_ARG, "no such input")
    assert scheduler(PrepareFailed(3, Code.INVALID_ARG, "no such input")) == [failed]
    assert [answer.rid for answer in scheduler(BatchDone(2, 0.01, 0.0))] == [4]
    assert scheduler.scheduler.staged_rows == 0


def test_a_light_request_may_fail_after_it_was_cancelled():
    scheduler = up()
    for rid in (1, 2):
        scheduler(arrived(rid, inline=True))
    assert scheduler(CancelAsked(2)) == [
        Refuse(2, Code.CANCELLED, "cancelled by the client"),
        Discard(2),
    ]
    assert scheduler(PrepareFailed(2, Code.INVALID_ARG, "no such input")) == []


def test_rows_of_different_tasks_run_in_one_batch_when_the_device_becomes_idle():
    scheduler = up()
    stage(scheduler, 1)
    for rid, task in ((2, "flowers"), (3, "food"), (4, "faces")):
        assert scheduler(arrived(rid, task)) == [Prepare(rid)]
        assert scheduler(Prepared(rid, 0.0)) == []
    assert scheduler(BatchDone(1, 0.01, 0.0))[-1] == run(
        2, (2, "flowers"), (3, "food"), (4, "faces")
    )


def test_a_batch_holds_no_more_rows_than_allowed_and_never_part_of_a_request():
    scheduler = up(max_batch_rows=4)
    stage(scheduler, 1)
    for rid, rows in ((2, 2), (3, 3), (4, 1)):
        scheduler(arrived(rid, rows=rows))
        scheduler(Prepared(rid, 0.0))
    (second,) = [c for c in scheduler(BatchDone(1, 0.01, 0.0)) if isinstance(c, Run)]
    assert [m.rid for m in second.members] == [2]
    (third,) = [c for c in scheduler(BatchDone(2, 0.01, 0.0)) if isinstance(c, Run)]
    assert [m.rid for m in third.members] == [3, 4]


def test_tasks_of_two_backbones_are_answered_together():
    scheduler = up()
    parts = (Part("one", ("a", "b")), Part("two", ("c",)))
    assert scheduler(Arrived(Request(1, 1, parts, rows=1, staging_rows=2))) == [Prepare(1)]
    assert scheduler(Prepared(1, 0.0)) == [Run(1, "one", (Member(1, ("a", "b")),), 1)]
    assert scheduler(BatchDone(1, 0.01, 0.0)) == [Run(2, "two", (Member(1, ("c",)),), 1)]
    (answer,) = scheduler(BatchDone(2, 0.02, 0.0), 0.03)
    assert isinstance(answer, Answer)
    assert answer.infer_s == pytest.approx(0.03)


def test_staging_memory_bounds_what_is_prepared():
    scheduler = up(staging_rows=2)
    assert scheduler(arrived(1)) == [Prepare(1)]
    assert scheduler(arrived(2)) == [Prepare(2)]
    assert scheduler(arrived(3)) == []
    scheduler(Prepared(1, 0.0))
    assert scheduler(BatchDone(1, 0.01, 0.0))[-1] == Prepare(3)


def test_large_payloads_are_prepared_a_few_at_a_time_and_one_of_any_size_alone():
    scheduler = up(staging_bytes=100)
    assert scheduler(arrived(1, payload_bytes=60)) == [Prepare(1)]
    assert scheduler(arrived(2, payload_bytes=60)) == []
    assert scheduler(arrived(3, payload_bytes=200)) == []
    scheduler(Prepared(1, 0.0))
    assert scheduler(BatchDone(1, 0.01, 0.0))[-1] == Prepare(2)
    scheduler(Prepared(2, 0.0))
    assert scheduler(BatchDone(2, 0.01, 0.0))[-1] == Prepare(3)
    assert scheduler(arrived(4, payload_bytes=1)) == []


def test_a_full_queue_refuses_and_says_when_to_come_back():
    scheduler = up(staging_rows=1, queue_rows=2)
    stage(scheduler, 1)
    scheduler(BatchDone(1, 0.01, 0.0))
    stage(scheduler, 2)
    assert scheduler(arrived(3)) == []
    assert scheduler(arrived(4)) == []
    (refusal,) = scheduler(arrived(5))
    assert isinstance(refusal, Refuse)
    assert refusal.code is Code.UNAVAILABLE
    assert refusal.retry_after_s == pytest.approx(3 * 0.01)


def test_a_client_that_floods_makes_room_for_one_that_does_not():
    scheduler = Checked(queue_rows=4)  # the device is not up: everything waits
    for rid in range(1, 5):
        scheduler(arrived(rid, client=1))
    (pushed_out,) = scheduler(arrived(5, client=2))
    assert pushed_out.rid == 4
    assert pushed_out.code is Code.UNAVAILABLE
    (refused,) = scheduler(arrived(6, client=1))
    assert refused.rid == 6
    assert [c.rid for c in scheduler(DeviceUp())] == [1, 5, 2, 3]


def test_a_newcomer_that_finds_no_room_in_the_end_pushes_nobody_out():
    """One row of the first client could leave for it, and no more: it would be lost for nothing."""
    scheduler = Checked(queue_rows=10)
    for rid in range(1, 7):
        scheduler(arrived(rid, client=1))
    scheduler(arrived(7, client=2, rows=4))
    (refused,) = scheduler(arrived(8, client=3, rows=5))
    assert (refused.rid, refused.code) == (8, Code.UNAVAILABLE)
    assert [c.rid for c in scheduler(DeviceUp())] == [1, 7, 2, 3, 4, 5, 6]


def test_a_frame_that_finds_no_room_leaves_the_older_one_in_its_place():
    scheduler = Checked(queue_rows=4)
    scheduler(arrived(1, stream="door"))
    scheduler(arrived(2))
    scheduler(arrived(3, client=2, rows=2))
    (refused,) = scheduler(arrived(4, stream="door", rows=3))
    assert refused.rid == 4
    (superseded,) = scheduler(arrived(5, stream="door"))
    assert (superseded.rid, superseded.code) == (1, Code.CANCELLED)
    assert [c.rid for c in scheduler(DeviceUp())] == [2, 3, 5]


def test_what_leaves_for_a_more_urgent_request_is_told_so():
    scheduler = Checked(queue_rows=1)
    scheduler(arrived(1, level=1))
    (pushed_out,) = scheduler(arrived(2, client=2, level=0))
    assert (pushed_out.rid, pushed_out.code) == (1, Code.UNAVAILABLE)
    assert "more urgent" in pushed_out.message


def test_the_queue_is_bounded_in_bytes_too():
    scheduler = Checked(queue_bytes=10)
    assert scheduler(arrived(1, payload_bytes=10)) == []
    (refusal,) = scheduler(arrived(2, payload_bytes=1))
    assert (refusal.rid, refusal.code) == (2, Code.UNAVAILABLE)
    assert scheduler(arrived(3)) == []
    assert len(scheduler(CancelAsked(1))) == 1
    assert scheduler(arrived(4, payload_bytes=10)) == []


def test_the_queue_is_as_large_as_the_memory_that_is_left_and_one_request_always_fits():
    scheduler = Checked(queue_bytes=100)
    scheduler(PayloadRoom(10))
    assert scheduler(arrived(1, payload_bytes=30)) == []
    (refusal,) = scheduler(arrived(2, payload_bytes=1))
    assert (refusal.rid, refusal.code) == (2, Code.UNAVAILABLE)
    scheduler(PayloadRoom(1_000))  # never more than the settings say
    assert scheduler(arrived(3, payload_bytes=70)) == []
    assert len(scheduler(arrived(4, payload_bytes=1))) == 1


def test_who_fills_the_queue_with_few_large_payloads_makes_room_for_others():
    scheduler = Checked(queue_rows=10, queue_bytes=10)
    for rid in (1, 2):
        scheduler(arrived(rid, client=1, payload_bytes=4))
    for rid in (3, 4, 5):
        scheduler(arrived(rid, client=2))  # more rows, but less of the queue
    (pushed_out,) = scheduler(arrived(6, client=2, payload_bytes=3))
    assert (pushed_out.rid, pushed_out.code) == (2, Code.UNAVAILABLE)


def test_clients_take_turns_by_rows():
    scheduler = Checked(staging_rows=9, max_batch_rows=3)
    for rid in (1, 2, 3):
        scheduler(arrived(rid, client=1, rows=3))
    for rid in (4, 5, 6, 7):
        scheduler(arrived(rid, client=2))
    order = [c.rid for c in scheduler(DeviceUp()) if isinstance(c, Prepare)]
    assert order == [1, 4, 5, 6, 2]  # three rows against three rows


def test_drop_oldest_keeps_the_newest():
    scheduler = Checked(queue_rows=2, when_full="drop-oldest")
    for rid in (1, 2):
        scheduler(arrived(rid))
    (dropped,) = scheduler(arrived(3))
    assert dropped.rid == 1
    assert [c.rid for c in scheduler(DeviceUp())] == [2, 3]


def test_a_newer_frame_of_a_stream_supersedes_the_waiting_one():
    scheduler = Checked()
    scheduler(arrived(1, stream="door"))
    scheduler(arrived(2, stream="yard"))
    (superseded,) = scheduler(arrived(3, stream="door"))
    assert (superseded.rid, superseded.code) == (1, Code.CANCELLED)
    scheduler(arrived(4, stream="door", client=2))  # another client's stream of that name
    assert {c.rid for c in scheduler(DeviceUp())} == {2, 3, 4}


def test_streams_can_be_kept_whole():
    scheduler = Checked(streams="fifo")
    assert scheduler(arrived(1, stream="door")) == []
    assert scheduler(arrived(2, stream="door")) == []


def test_higher_levels_go_first():
    scheduler = up()
    stage(scheduler, 1)
    for rid, level in ((2, 2), (3, 0), (4, 1)):
        scheduler(arrived(rid, level=level))
        scheduler(Prepared(rid, 0.0))
    (second,) = [c for c in scheduler(BatchDone(1, 0.01, 0.0)) if isinstance(c, Run)]
    assert [m.rid for m in second.members] == [3, 4, 2]


def test_a_request_that_expires_in_the_queue_never_reaches_the_device():
    scheduler = Checked()
    scheduler(arrived(1, deadline_s=0.5), 0.0)
    assert scheduler.scheduler.wakeup_at() == 0.5
    (refusal,) = scheduler(Woke(), 0.5)
    assert (refusal.rid, refusal.code) == (1, Code.DEADLINE_EXCEEDED)
    assert scheduler(DeviceUp(), 0.6) == []
    assert scheduler.scheduler.wakeup_at() == math.inf


def test_a_request_that_expires_in_staging_frees_its_rows():
    scheduler = up()
    stage(scheduler, 1)
    scheduler(arrived(2, deadline_s=0.5))
    scheduler(Prepared(2, 0.0))
    assert [type(c) for c in scheduler(Woke(), 0.5)] == [Refuse, Discard]
    assert scheduler.scheduler.staged_rows == 1


def test_a_request_that_expires_while_it_is_prepared_is_taken_back_at_once():
    scheduler = up()
    scheduler(arrived(1, deadline_s=0.5))
    refusal, discard = scheduler(Woke(), 0.5)
    assert (refusal.rid, refusal.code) == (1, Code.DEADLINE_EXCEEDED)
    assert discard == Discard(1)
    assert scheduler.scheduler.staged_rows == 1  # the device works on it until it says otherwise
    assert scheduler(PrepareFailed(1, Code.CANCELLED, "cancelled"), 0.6) == []
    assert scheduler.scheduler.staged_rows == 0


def test_an_answer_that_comes_too_late_is_an_error():
    scheduler = up()
    scheduler(arrived(1, deadline_s=0.5))
    scheduler(Prepared(1, 0.0))
    (refusal,) = scheduler(Woke(), 0.5)
    assert refusal.code is Code.DEADLINE_EXCEEDED
    assert scheduler(BatchDone(1, 0.6, 0.0), 0.6) == []
    assert scheduler.scheduler.staged_rows == 0


@pytest.mark.parametrize("when", ["waiting", "preparing", "ready", "running"])
def test_cancel_is_answered_at_once_and_frees_everything(when):
    scheduler = Checked()
    if when != "waiting":
        scheduler(DeviceUp())
    stage(scheduler, 1) if when == "ready" else None
    scheduler(arrived(2))
    if when in ("ready", "running"):
        scheduler(Prepared(2, 0.0))
    refusal, *rest = scheduler(CancelAsked(2))
    assert (refusal.rid, refusal.code) == (2, Code.CANCELLED)
    assert scheduler(CancelAsked(2)) == []
    if when == "preparing":
        rest += scheduler(Prepared(2, 0.0))
    if when == "running":
        rest += scheduler(BatchDone(1, 0.01, 0.0))
    assert rest == ([Discard(2)] if when in ("preparing", "ready") else [])
    assert scheduler.scheduler.staged_rows == (1 if when == "ready" else 0)


def test_what_a_lost_client_asked_for_is_dropped():
    scheduler = Checked()
    scheduler(arrived(1, client=1))
    scheduler(arrived(2, client=2))
    assert [c.rid for c in scheduler(ClientGone(1))] == [1]
    assert scheduler(DeviceUp()) == [Prepare(2)]


def test_a_bad_payload_fails_alone():
    scheduler = up()
    scheduler(arrived(1))
    scheduler(arrived(2))
    (refusal,) = scheduler(PrepareFailed(1, Code.INVALID_ARG, "not an image"))
    assert refusal == Refuse(1, Code.INVALID_ARG, "not an image")
    assert scheduler(Prepared(2, 0.0)) == [run(1, (2, "a"))]


def test_a_failed_batch_is_taken_apart_so_that_only_the_culprit_fails():
    scheduler = up()
    stage(scheduler, 1, 2, 3)
    scheduler(BatchDone(1, 0.01, 0.0))
    assert scheduler(BatchFailed(2, Code.INTERNAL, "boom")) == [run(3, (2, "a"))]
    assert scheduler(BatchFailed(3, Code.INTERNAL, "boom"))[:1] == [
        Refuse(2, Code.INTERNAL, "boom")
    ]
    answer, *_ = scheduler(BatchDone(4, 0.01, 0.0))
    assert (type(answer), answer.rid) == (Answer, 3)


def test_when_the_device_dies_its_requests_run_again():
    scheduler = up()
    stage(scheduler, 1, 2)
    assert scheduler(DeviceDown("killed")) == []
    assert scheduler(DeviceUp()) == [Prepare(1), Prepare(2)]
    assert scheduler(Prepared(2, 0.0)) == [run(2, (2, "a"))]
    assert scheduler(Prepared(1, 0.0)) == []
    assert [type(c) for c in scheduler(BatchDone(2, 0.01, 0.0))] == [Answer, Run]


def test_a_request_that_kills_the_device_twice_is_refused_and_the_others_live():
    scheduler = up()
    stage(scheduler, 1, 2, 3)
    scheduler(BatchDone(1, 0.01, 0.0))  # 2 and 3 run together
    scheduler(DeviceDown("killed"))
    scheduler(DeviceUp())
    scheduler(Prepared(2, 0.0))  # alone now
    scheduler(Prepared(3, 0.0))
    (refusal,) = scheduler(DeviceDown("killed"))
    assert (refusal.rid, refusal.code) == (2, Code.INTERNAL)
    assert scheduler(DeviceUp()) == [Prepare(3)]


def test_draining_answers_what_was_accepted_and_refuses_the_rest():
    scheduler = up()
    stage(scheduler, 1)
    scheduler(arrived(2))
    assert scheduler(DrainAsked()) == []
    (refusal,) = scheduler(arrived(3))
    assert (refusal.rid, refusal.code) == (3, Code.UNAVAILABLE)
    scheduler(Prepared(2, 0.0))
    scheduler(BatchDone(1, 0.01, 0.0))
    answer, drained = scheduler(BatchDone(2, 0.01, 0.0))
    assert (answer.rid, drained) == (2, Drained())
    assert scheduler(Woke()) == []


def test_draining_an_idle_scheduler_ends_at_once():
    assert up()(DrainAsked()) == [Drained()]


def test_a_request_with_more_rows_than_a_batch_is_refused_before_it_waits():
    (refusal,) = up(max_batch_rows=4)(arrived(1, rows=5))
    assert refusal.code is Code.RESOURCE_EXHAUSTED
    assert "at most 4" in refusal.message


def test_lanes_run_side_by_side_and_a_lone_batch_has_the_whole_device():
    scheduler = Checked(max_batch_rows=1)
    scheduler(DeviceUp(lanes=2))
    scheduler(arrived(1))
    (lone,) = scheduler(Prepared(1, 0.0))
    assert lone.wide
    for rid in (2, 3, 4):
        scheduler(arrived(rid))
    (second,) = scheduler(Prepared(2, 0.0))
    assert not second.wide
    assert scheduler(Prepared(3, 0.0)) == []
    third = scheduler(BatchDone(1, 0.01, 0.0))[-1]
    assert (third.members[0].rid, third.wide) == (3, False)
    scheduler(BatchDone(2, 0.01, 0.0))
    scheduler(BatchDone(3, 0.01, 0.0))
    (last,) = scheduler(Prepared(4, 0.0))
    assert last.wide


def test_what_a_batch_prepared_itself_counts_as_preparation():
    scheduler = up()
    scheduler(arrived(1, inline=True))
    (answer,) = scheduler(BatchDone(1, 0.010, 0.001, prepare_s=0.002), 0.02)
    assert (answer.prepare_s, answer.infer_s) == (0.002, 0.010)
    assert answer.queue_s == pytest.approx(0.007)


def test_rows_of_a_request_that_is_too_late_to_run_go_to_the_next_one():
    scheduler = up(staging_rows=1)
    stage(scheduler, 1)
    scheduler(BatchDone(1, 0.01, 0.0))
    scheduler(arrived(2, deadline_s=0.02), 0.0)
    scheduler(arrived(3), 0.0)
    refusal, _, prepare = scheduler(Prepared(2, 0.0), 0.015)  # and a Discard
    assert (refusal.rid, refusal.code) == (2, Code.DEADLINE_EXCEEDED)
    assert prepare == Prepare(3)


@pytest.mark.parametrize(("at_s", "fits"), [(0.11, False), (0.19, True), (0.5, True)])
def test_a_batch_that_is_nearly_done_is_hardly_in_the_way(at_s, fits):
    scheduler = up()
    stage(scheduler, 1)
    scheduler(BatchDone(1, 0.1, 0.0), 0.1)  # so a batch takes 100 ms
    stage(scheduler, 2, now=0.1)
    commands = scheduler(arrived(3, deadline_s=at_s + 0.15), at_s)
    assert [type(c) for c in commands] == [Prepare if fits else Refuse]


def test_a_batch_costs_what_passes_around_it_as_well():
    for done_at, expected in ((0.0, 0.01), (0.03, 0.03)):
        scheduler = up(staging_rows=1, queue_rows=1)
        stage(scheduler, 1)
        scheduler(BatchDone(1, 0.009, 0.001), done_at)
        stage(scheduler, 2)
        scheduler(arrived(3))
        (refusal,) = scheduler(arrived(4))
        assert refusal.retry_after_s == pytest.approx(2 * expected)


def test_few_batches_take_turns_on_all_lanes_and_many_run_side_by_side():
    scheduler = Checked(max_batch_rows=1)
    scheduler(DeviceUp((GroupCost(BACKBONE, (1,), (0.01,), speed_up=3.5),), lanes=8))
    scheduler(arrived(1))
    (first,) = scheduler(Prepared(1, 0.0))
    scheduler(arrived(2))
    assert scheduler(Prepared(2, 0.0)) == []  # sooner done on all lanes, after the first
    *_, second = scheduler(BatchDone(1, 0.01, 0.0))
    assert (first.wide, second.wide) == (True, True)
    for rid in (3, 4, 5):
        scheduler(arrived(rid))
    assert [run.wide for run in scheduler(Prepared(3, 0.0))] == [False]
    assert [run.wide for run in scheduler(Prepared(4, 0.0))] == [False]


def test_a_batch_that_is_alone_has_all_lanes_whatever_the_warm_up_says():
    scheduler = Checked(max_batch_rows=1)
    scheduler(DeviceUp((GroupCost(BACKBONE, (1,), (0.01,), speed_up=0.9),), lanes=2))
    scheduler(arrived(1))
    assert [run.wide for run in scheduler(Prepared(1, 0.0))] == [True]
    scheduler(arrived(2))
    assert [run.wide for run in scheduler(Prepared(2, 0.0))] == [False]


def test_the_configuration_can_hold_lanes_down():
    scheduler = Checked(max_batch_rows=1, lanes=1)
    scheduler(DeviceUp(lanes=4))
    stage(scheduler, 1)
    scheduler(arrived(2))
    assert scheduler(Prepared(2, 0.0)) == []


def test_what_has_become_too_late_leaves_its_place_in_the_batch_to_others():
    scheduler = Checked(max_batch_rows=4)
    scheduler(DeviceUp((GroupCost(BACKBONE, (1, 4), (0.1, 0.1)),)))
    scheduler(arrived(1, inline=True))
    for rid, deadline_s in ((2, 0.15), (3, 0.9), (4, 0.15), (5, 0.9), (6, 0.9), (7, 0.9)):
        assert scheduler(arrived(rid, inline=True, deadline_s=deadline_s)) == [Prepare(rid)]
    orders = scheduler(BatchDone(1, 0.1, 0.0), 0.1)
    assert [order.rid for order in orders if isinstance(order, Refuse)] == [2, 4]
    members = [(rid, "a") for rid in (3, 5, 6, 7)]
    assert [order for order in orders if isinstance(order, Run)] == [run(2, *members)]

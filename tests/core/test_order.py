"""Answers in the order of arrival, where requests ask for it."""

from __future__ import annotations

import pytest

from edged.core.events import (
    Answer,
    BatchDone,
    CancelAsked,
    ClientGone,
    Command,
    DeviceDown,
    DeviceUp,
    DrainAsked,
    Drained,
    Prepared,
    PrepareFailed,
    Refuse,
    Run,
    Woke,
)
from edged.errors import Code
from tests.core.helpers import Checked, arrived


def told(commands: list[Command]) -> list[tuple[int, str]]:
    """Who hears what, in order: "ok" or a code."""
    return [
        (c.rid, "ok" if isinstance(c, Answer) else c.code.value)
        for c in commands
        if isinstance(c, Answer | Refuse)
    ]


def two_groups(**second: object) -> Checked:
    """Requests 1 and 2 of one client run on two lanes, in batches 1 and 2."""
    scheduler = Checked(useful_batches=False)
    scheduler(DeviceUp(lanes=2))
    scheduler(arrived(1, ordered=True, group="x"))
    scheduler(arrived(2, group="y", **{"ordered": True, **second}))
    scheduler(Prepared(1, 0.0))
    scheduler(Prepared(2, 0.0))
    assert len(scheduler.scheduler._device.lanes.batches) == 2
    return scheduler


def test_an_answer_waits_for_those_of_earlier_requests():
    scheduler = two_groups()
    assert told(scheduler(BatchDone(2, 0.010, 0.0), 0.010)) == []
    assert scheduler.scheduler.open_requests == 2
    first, second = scheduler(BatchDone(1, 0.030, 0.0), 0.030)
    assert (first.rid, second.rid) == (1, 2)
    assert second.queue_s == pytest.approx(0.020)  # the times add up to when it was sent
    assert scheduler.scheduler.open_requests == 0


@pytest.mark.parametrize("other", [{"client": 2}, {"stream": "door"}, {"ordered": False}])
def test_nobody_waits_for_another_sequence(other):
    scheduler = two_groups(**other)
    assert told(scheduler(BatchDone(2, 0.010, 0.0), 0.010)) == [(2, "ok")]


def test_refusals_and_failures_keep_their_place():
    scheduler = two_groups()
    scheduler(arrived(3, ordered=True))
    assert told(scheduler(PrepareFailed(3, Code.INVALID_ARG, "no image"))) == []
    assert told(scheduler(arrived(4, ordered=True, rows=99))) == []
    scheduler(DrainAsked())
    assert told(scheduler(arrived(5, ordered=True))) == []
    assert told(scheduler(BatchDone(1, 0.010, 0.0))) == [(1, "ok")]
    commands = scheduler(BatchDone(2, 0.010, 0.0))
    assert told(commands) == [
        (2, "ok"),
        (3, "INVALID_ARG"),
        (4, "RESOURCE_EXHAUSTED"),
        (5, "UNAVAILABLE"),
    ]
    assert commands[-1] == Drained()


def test_what_its_client_takes_back_waits_for_nobody_and_nobody_for_it():
    scheduler = two_groups()
    scheduler(arrived(3, ordered=True))
    assert told(scheduler(CancelAsked(3))) == [(3, "CANCELLED")]
    scheduler(BatchDone(2, 0.010, 0.0))
    assert told(scheduler(CancelAsked(1))) == [(1, "CANCELLED"), (2, "ok")]
    assert told(scheduler(BatchDone(1, 0.010, 0.0))) == []


def test_an_answer_that_waits_can_still_be_taken_back():
    scheduler = two_groups()
    scheduler(BatchDone(2, 0.010, 0.0))
    assert told(scheduler(CancelAsked(2))) == [(2, "CANCELLED")]
    assert told(scheduler(BatchDone(1, 0.010, 0.0))) == [(1, "ok")]


def test_an_answer_whose_turn_comes_too_late_is_none():
    scheduler = two_groups(deadline_s=1.0)
    assert told(scheduler(BatchDone(2, 0.010, 0.0), 0.9)) == []
    assert told(scheduler(Woke(), 1.0)) == []
    assert told(scheduler(BatchDone(1, 0.010, 0.0), 1.1)) == [(1, "ok"), (2, "DEADLINE_EXCEEDED")]


def test_a_first_request_that_runs_again_holds_the_others_up():
    scheduler = two_groups()
    scheduler(BatchDone(2, 0.010, 0.0))
    assert told(scheduler(DeviceDown("killed"))) == []
    scheduler(DeviceUp())
    (run,) = scheduler(Prepared(1, 0.0))
    assert isinstance(run, Run)
    assert told(scheduler(BatchDone(run.batch, 0.010, 0.0))) == [(1, "ok"), (2, "ok")]


def test_nothing_of_a_client_that_is_gone_is_kept():
    scheduler = two_groups()
    scheduler(BatchDone(2, 0.010, 0.0))
    assert told(scheduler(ClientGone(1))) == [(1, "CANCELLED"), (2, "ok")]

"""The states of a request: one table, one place that changes them, and what tests are told."""

from __future__ import annotations

import pytest

from edged.core.events import (
    BatchDone,
    CancelAsked,
    DeviceDown,
    DeviceUp,
    Discard,
    Prepared,
    PrepareFailed,
    Run,
)
from edged.core.requests.job import TRANSITIONS, State
from edged.errors import Code
from tests.core.helpers import Checked, arrived
from tools.diagrams import PAGE, with_diagram


def told(scheduler: Checked) -> Checked:
    """A scheduler that remembers what becomes of each request."""
    scheduler.scheduler.keep_stories()
    return scheduler


def states(scheduler: Checked, rid: int) -> list[str]:
    """Those that a request went through."""
    return [line.split(": ")[1] for line in scheduler.scheduler.story(rid).splitlines()]


def test_every_state_can_be_reached_and_left_but_the_last():
    reached = {State.WAITING}
    while more := {t.after for t in TRANSITIONS if t.before in reached} - reached:
        reached |= more
    assert reached == set(State)
    assert set(State) - {t.before for t in TRANSITIONS} == {State.GONE}
    assert len({(t.before, t.after) for t in TRANSITIONS}) == len(TRANSITIONS)


def test_the_story_of_a_request_says_when_it_went_where():
    scheduler = told(Checked())
    scheduler(DeviceUp(), 1.0)
    scheduler(arrived(7), 2.0)
    scheduler(Prepared(7, 0.1), 2.5)
    scheduler(BatchDone(1, 0.1, 0.0), 3.0)
    assert scheduler.scheduler.story(7).splitlines() == [
        "2.000000 s: accepted",
        "2.000000 s: PREPARING",
        "2.500000 s: STAGED",
        "2.500000 s: RUNNING",
        "3.000000 s: GONE",
    ]
    assert scheduler.scheduler.story(8) == ""


def test_no_story_is_kept_unless_it_is_asked_for():
    scheduler = Checked()
    scheduler(DeviceUp())
    scheduler(arrived(7))
    assert scheduler.scheduler.story(7) == ""


def test_a_request_that_is_refused_while_it_is_prepared_is_gone_when_its_rows_are_free():
    scheduler = told(Checked())
    scheduler(DeviceUp())
    scheduler(arrived(1))
    assert Discard(1) in scheduler(CancelAsked(1))
    assert scheduler.scheduler.staged_rows == 1
    scheduler(PrepareFailed(1, Code.INVALID_ARG, "no image"))
    assert scheduler.scheduler.staged_rows == 0
    assert states(scheduler, 1) == ["accepted", "PREPARING", "DISCARDED", "GONE"]


def test_a_request_that_is_refused_while_it_runs_leaves_with_its_batch():
    scheduler = told(Checked())
    scheduler(DeviceUp())
    scheduler(arrived(1, inline=True))
    scheduler(CancelAsked(1))
    assert scheduler.scheduler.staged_rows == 1
    assert scheduler(BatchDone(1, 0.1, 0.0)) == []
    assert scheduler.scheduler.staged_rows == 0
    assert states(scheduler, 1) == ["accepted", "STAGED", "RUNNING", "LEAVING", "GONE"]


def test_what_a_lost_device_held_waits_again():
    scheduler = told(Checked())
    scheduler(DeviceUp())
    scheduler(arrived(1, inline=True))
    scheduler(DeviceDown("killed"))
    assert states(scheduler, 1)[-1] == "WAITING"
    assert [type(command) for command in scheduler(DeviceUp())][-1] is Run


@pytest.mark.parametrize("event", [DeviceUp(device=1), DeviceDown("killed", device=1)])
def test_a_device_that_does_not_exist_is_a_bug_that_is_named(event):
    with pytest.raises(ValueError, match="no device 1: this is a bug"):
        Checked()(event)


def test_a_change_that_is_not_in_the_table_is_a_bug_that_is_named():
    scheduler = Checked().scheduler
    scheduler.handle(arrived(1), 0.0)
    (job,) = scheduler._jobs.by_rid.values()
    with pytest.raises(ValueError, match=r"request 1 cannot go from WAITING to RUNNING: .*a bug"):
        scheduler._jobs.move(job, State.RUNNING, 0.0)


@pytest.mark.parametrize(
    "owner",
    [
        lambda scheduler: scheduler._jobs.waiting,
        lambda scheduler: scheduler._jobs.staging,
        lambda scheduler: scheduler._device.lanes,
    ],
    ids=["waiting", "staging", "running"],
)
def test_a_count_that_is_wrong_is_found(owner):
    scheduler = Checked().scheduler
    scheduler.handle(DeviceUp(), 0.0)
    scheduler.handle(arrived(1, inline=True), 0.0)
    scheduler.validate()
    owner(scheduler).rows += 1
    with pytest.raises(AssertionError, match="rows"):
        scheduler.validate()


def test_a_job_whose_state_was_changed_by_hand_is_found():
    scheduler = Checked().scheduler
    scheduler.handle(arrived(1), 0.0)
    (job,) = scheduler._jobs.by_rid.values()
    job.state = State.STAGED
    with pytest.raises(AssertionError, match="WAITING"):
        scheduler.validate()


def test_the_diagram_in_the_pages_is_that_of_the_table():
    text = PAGE.read_text(encoding="utf-8")
    assert with_diagram(text) == text, "run python -m tools.diagrams"

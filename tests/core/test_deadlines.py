"""Deadlines of requests, most of which end long before."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from edged.core.events import Answer, BatchDone, DeviceUp, Run
from edged.core.requests.deadlines import Deadlines
from tests.core.helpers import Checked, arrived


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.booleans()), max_size=400))
def test_each_is_told_once_in_turn_unless_it_has_ended(given_: list[tuple[float, bool]]) -> None:
    ended: set[int] = set()
    deadlines = Deadlines(ended.__contains__)
    for rid, (at_s, ends) in enumerate(given_):
        deadlines.add(at_s, rid)
        if ends:
            ended.add(rid)
        assert len(deadlines) <= 2 * (rid + 1 - len(ended)) + 66
    due = sorted((at_s, rid) for rid, (at_s, ends) in enumerate(given_) if not ends)
    told = []
    while (at_s := deadlines.next_s()) < math.inf:
        assert deadlines.pop(at_s - 0.001) is None
        told.append((at_s, deadlines.pop(at_s)))
    assert told == due


def test_answered_requests_leave_nothing_behind() -> None:
    """However long their time-outs are."""
    tell = Checked()
    tell(DeviceUp())
    for rid in range(1, 2001):
        (_, run) = tell(arrived(rid, inline=True, deadline_s=3600.0), rid * 0.001)
        assert isinstance(run, Run)
        (answer,) = tell(BatchDone(run.batch, 0.0001, 0.0), rid * 0.001)
        assert isinstance(answer, Answer)
    assert len(tell.scheduler._jobs.deadlines) <= 65
    assert not tell.scheduler._jobs.by_rid

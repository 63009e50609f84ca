"""When a worker that does not get on is given up, in virtual time."""

from __future__ import annotations

import pytest

from edged.core.events import Member, Run
from edged.daemon.outstanding import (
    BATCH_TIMES,
    FIRST_TIMES,
    IMAGE_S,
    LOAD_TIMES,
    Outstanding,
    Preparation,
)
from edged.link import messages as link

START_S, HANG_S = 300.0, 10.0
BLOCK = "b" * 64


def run(batch: int, rows: int = 1, group: str = "g") -> Run:
    return Run(batch, group, (Member(batch, ("m",)),), rows)


def ready(**known: int) -> link.Ready:
    """A worker that has just started; `known`: microseconds of loads."""
    blocks = tuple(link.BlockInfo(id, 1, load_us) for id, load_us in known.items())
    return link.Ready("fake", "none", 1, False, ("m",), blocks, (), {}, 0, 0)


class Watched:
    """A worker that is checked each second, as the daemon does; worker and front both live.

    It has run one and eight rows of group g.
    """

    def __init__(self, **known: int) -> None:
        self.now = 1000.0
        self.expected_s: dict[int, float | None] = {}
        self.outstanding = Outstanding(START_S, HANG_S, self.expected_s.__getitem__)
        self.outstanding.begin(self.now)
        assert self.outstanding.verdict(self.now) is None
        assert self.outstanding.ready(ready(**known))
        for batch, rows in ((-1, 1), (-2, 8)):
            self.runs(run(batch, rows), 0.001)
            self.ends(batch)

    def runs(self, ordered: Run, expected_s: float | None, *, images: int = 0) -> None:
        self.expected_s[ordered.batch] = expected_s
        self.outstanding.run(ordered, images, self.now)

    def ends(self, batch: int) -> None:
        self.outstanding.batch_done(self.outstanding.batches.orders[batch].run, self.now)

    def is_well_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            assert self.outstanding.verdict(self.now) is None, (
                f"given up {end - self.now:g} s too early"
            )
            assert self.outstanding.progress_at(self.now) == self.now

    def is_given_up(self) -> str:
        self.now += 0.5
        reason = self.outstanding.verdict(self.now)
        assert reason is not None
        assert "hung" in reason
        assert self.outstanding.progress_at(self.now) < self.now
        return reason


def test_it_has_its_time_to_start():
    outstanding = Outstanding(START_S, HANG_S, lambda batch: None)
    outstanding.begin(1000.0)
    for second in range(301):
        assert outstanding.verdict(1000.0 + second) is None
    assert outstanding.verdict(1301.0) == "the device worker was not ready within 300 s"
    outstanding.begin(1301.0)
    assert outstanding.verdict(1302.0) is None


def test_a_batch_that_does_not_end_is_found_whatever_else_is_heard():
    watched = Watched()
    watched.runs(run(1), 0.002)
    for _ in range(5):
        watched.is_well_for(2.0)
        watched.outstanding.measure()
        assert watched.outstanding.measured()
        watched.outstanding.requests.begin(7, Preparation(1, 0), watched.now)
        assert watched.outstanding.requests.end(7, watched.now)
    assert watched.is_given_up() == "the device worker hung: a batch did not end within 10 s"


def test_a_lane_that_hangs_is_found_while_others_go_on():
    watched = Watched()
    watched.runs(run(1), 0.002)
    watched.runs(run(2), 0.002)  # beside it, on another lane
    watched.is_well_for(0.1)
    watched.ends(1)
    for batch in range(3, 13):
        watched.runs(run(batch), 0.002)
        watched.is_well_for(1.0)
        watched.ends(batch)
        assert watched.outstanding.late_batch(watched.now) is None
    watched.runs(run(13), 0.002)
    assert "a batch did not end" in watched.is_given_up()
    assert watched.outstanding.late_batch(watched.now) == 2  # it alone is suspected


def test_a_batch_has_its_time_from_when_those_ahead_of_it_have_ended():
    watched = Watched()
    watched.runs(run(1), 0.002)
    watched.runs(run(2), 0.002)
    watched.is_well_for(9.0)
    watched.ends(1)
    watched.is_well_for(10.0)
    assert "a batch did not end" in watched.is_given_up()
    assert watched.outstanding.late_batch(watched.now) == 2


def test_a_slow_model_has_a_multiple_of_what_its_batches_take():
    watched = Watched()
    watched.runs(run(1), 4.0)
    watched.is_well_for(BATCH_TIMES * 4.0)
    watched.is_given_up()


@pytest.mark.parametrize(("rows", "times"), [(8, 1.0), (3, FIRST_TIMES)])
def test_a_number_of_rows_that_never_ran_has_more_time(rows, times):
    watched = Watched()
    watched.runs(run(1, rows), None)
    watched.is_well_for(times * HANG_S)
    watched.ends(1)
    watched.runs(run(2, rows), None)
    watched.is_well_for(HANG_S)
    watched.is_given_up()


def test_a_number_of_rows_that_only_failed_has_more_time_again():
    watched = Watched()
    watched.runs(run(1, 3), None)
    assert watched.outstanding.batches.end(1, watched.now)
    watched.runs(run(2, 3), None)
    watched.is_well_for(FIRST_TIMES * HANG_S)
    watched.is_given_up()


def test_images_that_a_batch_decodes_have_their_time():
    watched = Watched()
    watched.runs(run(1, 8), 0.01, images=8)
    watched.is_well_for(HANG_S + 8 * IMAGE_S)
    watched.is_given_up()


def test_a_thread_that_decodes_for_ever_is_found_while_others_go_on():
    watched = Watched()
    watched.outstanding.requests.begin(1, Preparation(2, 0), watched.now)
    for rid in range(2, 16):
        watched.outstanding.requests.begin(rid, Preparation(1, 0), watched.now)
        watched.is_well_for((HANG_S + 2 * IMAGE_S) / 14)
        assert watched.outstanding.requests.end(rid, watched.now)
    assert "not prepared within 14 s" in watched.is_given_up()


def test_what_waits_while_more_urgent_requests_are_prepared_is_not_late():
    watched = Watched()
    watched.outstanding.requests.begin(1, Preparation(1, 1), watched.now)
    for rid in range(2, 16):
        watched.outstanding.requests.begin(rid, Preparation(1, 0), watched.now)
        watched.is_well_for(1.0)
        assert watched.outstanding.requests.end(rid, watched.now)
    watched.is_well_for(HANG_S + IMAGE_S - 1.0)
    watched.now += 1.0
    assert "not prepared" in watched.is_given_up()


def test_a_batch_that_waits_for_a_run_of_the_calibration_is_not_late():
    watched = Watched()
    watched.outstanding.calibrations.begin("m", 16, watched.now)
    watched.runs(run(1, 1), 0.001)
    watched.is_well_for(2 * HANG_S)
    assert watched.outstanding.late_batch(watched.now) is None
    assert watched.outstanding.calibrated("m", watched.now)
    watched.is_well_for(HANG_S)
    watched.is_given_up()
    assert watched.outstanding.late_batch(watched.now) == 1


def test_a_block_that_does_not_come_is_found():
    watched = Watched(**{BLOCK: 3_000_000})
    watched.outstanding.load(BLOCK, watched.now)
    watched.is_well_for(BATCH_TIMES * 3.0)
    assert "bbbbbbbbbbbb was not loaded within 60 s" in watched.is_given_up()


def test_a_quick_block_may_still_come_from_a_slow_disk():
    watched = Watched(**{BLOCK: 1000})
    watched.outstanding.load(BLOCK, watched.now)
    watched.is_well_for(LOAD_TIMES * HANG_S)
    assert watched.outstanding.loaded(BLOCK, 1e-3, watched.now)
    watched.outstanding.unloads.begin(BLOCK, None, watched.now)
    watched.is_well_for(LOAD_TIMES * HANG_S)
    watched.is_given_up()


def test_a_block_that_never_came_before_may_have_to_be_made_first():
    watched = Watched()
    watched.outstanding.load(BLOCK, watched.now)
    watched.is_well_for(START_S)
    assert watched.outstanding.loaded(BLOCK, 250.0, watched.now)
    watched.runs(run(1), None)  # which may be the first with this block
    watched.is_well_for(FIRST_TIMES * HANG_S)
    watched.is_given_up()


def test_a_load_waits_for_models_that_are_prepared_before_it():
    watched = Watched(**{BLOCK: 1000})
    watched.outstanding.define(("new",))
    watched.outstanding.load(BLOCK, watched.now)
    watched.is_well_for(START_S - 1.0)
    assert watched.outstanding.loads.end(("new",), watched.now)
    watched.is_well_for(LOAD_TIMES * HANG_S)
    watched.is_given_up()


def test_engines_of_new_models_may_take_as_long_as_they_are_told_of():
    watched = Watched(**{BLOCK: 1000})
    watched.outstanding.define(("new",))
    for _ in range(3):
        watched.is_well_for(START_S - 1.0)
        watched.outstanding.building(watched.now)
    watched.is_well_for(START_S)
    watched.is_given_up()


def test_engines_that_are_built_do_not_excuse_a_load_that_hangs():
    watched = Watched(**{BLOCK: 1000})
    watched.outstanding.load(BLOCK, watched.now)
    watched.is_well_for(LOAD_TIMES * HANG_S)
    watched.outstanding.building(watched.now)
    watched.is_given_up()


def test_one_that_owes_nothing_may_be_silent_for_ever():
    watched = Watched()
    watched.is_well_for(40_000)
    assert not watched.outstanding.is_any
    watched.runs(run(1), 0.002)
    assert watched.outstanding.is_any
    watched.is_well_for(HANG_S)
    watched.is_given_up()


def test_the_time_in_which_the_front_stood_still_as_well_does_not_count():
    watched = Watched()
    watched.runs(run(1), 0.002)
    watched.is_well_for(9.0)
    watched.now += 3600.0  # the machine slept, or the whole service was frozen
    assert watched.outstanding.verdict(watched.now) is None
    watched.is_well_for(1.0)
    watched.is_given_up()


def test_the_next_worker_owes_nothing_of_what_the_last_one_owed():
    watched = Watched()
    watched.runs(run(1), 0.002)
    watched.is_well_for(9.0)
    watched.outstanding.begin(watched.now)
    assert not watched.outstanding.is_any
    assert watched.outstanding.ready(ready())
    watched.is_well_for(60.0)


def test_a_run_of_the_calibration_that_does_not_end_is_found():
    watched = Watched()
    watched.outstanding.calibrations.begin("m", 8, watched.now)
    watched.is_well_for(2 * FIRST_TIMES * HANG_S)
    assert "model m was not measured within 60 s" in watched.is_given_up()
    assert watched.outstanding.calibrations.end("m", watched.now)
    watched.is_well_for(100 * HANG_S)

"""When a worker that does not get on is given up, in virtual time."""

from __future__ import annotations

import pytest

from edged.core.events import Member, Run
from edged.daemon.vigil import FIRST, IMAGE_S, LOAD, TIMES, Vigil
from edged.errors import Code
from edged.link import messages as link

START_S, HANG_S = 300.0, 10.0
BLOCK = "b" * 64


def run(batch: int, rows: int = 1, group: str = "g") -> Run:
    return Run(batch, group, (Member(batch, ("m",)),), rows)


def done(batch: int) -> link.BatchDone:
    return link.BatchDone(batch, 1000, 0, (), ())


def ready(**known: int) -> link.Ready:
    """A worker that has just started; `known`: microseconds of loads."""
    blocks = tuple(link.BlockInfo(id, 1, load_us) for id, load_us in known.items())
    return link.Ready("fake", "none", 1, False, ("m",), blocks, (), {}, 0, 0)


class Watched:
    """A vigil that is asked each second, as the daemon does; worker and front both live.

    The worker has run one and eight rows of group g.
    """

    def __init__(self, **known: int) -> None:
        self.now = 1000.0
        self.vigil = Vigil(START_S, HANG_S)
        self.vigil.begin(self.now)
        assert self.vigil.verdict(self.now) is None
        self.hear(ready(**known))
        for batch, rows in ((-1, 1), (-2, 8)):
            self.vigil.run(run(batch, rows), 0.001, 0, self.now)
            self.hear(done(batch))

    def hear(self, message: link.FromWorker) -> None:
        self.vigil.heard(message, self.now)

    def is_well_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            assert self.vigil.verdict(self.now) is None, f"given up {end - self.now:g} s too early"
            assert self.vigil.progress_at(self.now) == self.now

    def is_given_up(self) -> str:
        self.now += 0.5
        reason = self.vigil.verdict(self.now)
        assert reason is not None
        assert "hung" in reason
        assert self.vigil.progress_at(self.now) < self.now
        return reason


def test_it_has_its_time_to_start():
    vigil = Vigil(START_S, HANG_S)
    vigil.begin(1000.0)
    for second in range(301):
        assert vigil.verdict(1000.0 + second) is None
    assert vigil.verdict(1301.0) == "the device worker was not ready within 300 s"
    vigil.begin(1301.0)
    assert vigil.verdict(1302.0) is None


def test_a_batch_that_does_not_end_is_found_whatever_else_is_heard():
    watched = Watched()
    watched.vigil.run(run(1), 0.002, 0, watched.now)
    for _ in range(5):
        watched.is_well_for(2.0)
        watched.hear(link.Memory(1, 1, 1, 1))
        watched.hear(link.Pong(1))
        watched.vigil.prepare(7, 1, watched.now)
        watched.hear(link.Prepared(7, 100))
    assert watched.is_given_up() == "the device worker hung: a batch did not end within 10 s"


def test_a_lane_that_hangs_is_found_while_others_go_on():
    watched = Watched()
    watched.vigil.run(run(1), 0.002, 0, watched.now)
    watched.vigil.run(run(2), 0.002, 0, watched.now)  # beside it, on another lane
    watched.is_well_for(0.1)
    watched.hear(done(1))
    for batch in range(3, 13):
        watched.vigil.run(run(batch), 0.002, 0, watched.now)
        watched.is_well_for(1.0)
        watched.hear(done(batch))
        assert watched.vigil.late_batch(watched.now) is None
    watched.vigil.run(run(13), 0.002, 0, watched.now)
    assert "a batch did not end" in watched.is_given_up()
    assert watched.vigil.late_batch(watched.now) == 2  # it alone is suspected


def test_a_batch_has_its_time_from_when_those_ahead_of_it_have_ended():
    watched = Watched()
    watched.vigil.run(run(1), 0.002, 0, watched.now)
    watched.vigil.run(run(2), 0.002, 0, watched.now)
    watched.is_well_for(9.0)
    watched.hear(done(1))
    watched.is_well_for(10.0)
    assert "a batch did not end" in watched.is_given_up()
    assert watched.vigil.late_batch(watched.now) == 2


def test_a_slow_model_has_a_multiple_of_what_its_batches_take():
    watched = Watched()
    watched.vigil.run(run(1), 4.0, 0, watched.now)
    watched.is_well_for(TIMES * 4.0)
    watched.is_given_up()


@pytest.mark.parametrize(("rows", "times"), [(8, 1.0), (3, FIRST)])
def test_a_number_of_rows_that_never_ran_has_more_time(rows, times):
    watched = Watched()
    watched.vigil.run(run(1, rows), None, 0, watched.now)
    watched.is_well_for(times * HANG_S)
    watched.hear(done(1))
    watched.vigil.run(run(2, rows), None, 0, watched.now)
    watched.is_well_for(HANG_S)
    watched.is_given_up()


def test_a_number_of_rows_that_only_failed_has_more_time_again():
    watched = Watched()
    watched.vigil.run(run(1, 3), None, 0, watched.now)
    watched.hear(link.BatchFailed(1, Code.INTERNAL, "no"))
    watched.vigil.run(run(2, 3), None, 0, watched.now)
    watched.is_well_for(FIRST * HANG_S)
    watched.is_given_up()


def test_images_that_a_batch_decodes_have_their_time():
    watched = Watched()
    watched.vigil.run(run(1, 8), 0.01, 8, watched.now)
    watched.is_well_for(HANG_S + 8 * IMAGE_S)
    watched.is_given_up()


def test_a_thread_that_decodes_for_ever_is_found_while_others_go_on():
    watched = Watched()
    watched.vigil.prepare(1, 2, watched.now)
    for rid in range(2, 16):
        watched.vigil.prepare(rid, 1, watched.now)
        watched.is_well_for((HANG_S + 2 * IMAGE_S) / 14)
        failed = link.PrepareFailed(rid, Code.INVALID_ARG, "no image")
        watched.hear(link.Prepared(rid, 10) if rid % 2 else failed)
    assert "not prepared within 14 s" in watched.is_given_up()


def test_a_block_that_does_not_come_is_found():
    watched = Watched(**{BLOCK: 3_000_000})
    watched.vigil.load(BLOCK, watched.now)
    watched.is_well_for(TIMES * 3.0)
    assert "bbbbbbbbbbbb was not loaded within 60 s" in watched.is_given_up()


def test_a_quick_block_may_still_come_from_a_slow_disk():
    watched = Watched(**{BLOCK: 1000})
    watched.vigil.load(BLOCK, watched.now)
    watched.is_well_for(LOAD * HANG_S)
    watched.hear(link.Loaded(BLOCK, 1, 1000))
    watched.vigil.unload(BLOCK, watched.now)
    watched.is_well_for(LOAD * HANG_S)
    watched.is_given_up()


def test_a_block_that_never_came_before_may_have_to_be_made_first():
    watched = Watched()
    watched.vigil.load(BLOCK, watched.now)
    watched.is_well_for(START_S)
    watched.hear(link.Loaded(BLOCK, 1, 250_000_000))
    watched.vigil.run(run(1), None, 0, watched.now)  # which may be the first with this block
    watched.is_well_for(FIRST * HANG_S)
    watched.is_given_up()


def test_a_load_waits_for_models_that_are_prepared_before_it():
    watched = Watched(**{BLOCK: 1000})
    watched.vigil.define(("new",))
    watched.vigil.load(BLOCK, watched.now)
    watched.is_well_for(START_S - 1.0)
    watched.hear(link.Defined(("new",)))
    watched.is_well_for(LOAD * HANG_S)
    watched.is_given_up()


def test_one_that_owes_nothing_may_be_silent_for_ever():
    watched = Watched()
    watched.is_well_for(40_000)
    assert not watched.vigil.is_waiting
    watched.vigil.run(run(1), 0.002, 0, watched.now)
    assert watched.vigil.is_waiting
    watched.is_well_for(HANG_S)
    watched.is_given_up()


def test_the_time_in_which_the_front_stood_still_as_well_does_not_count():
    watched = Watched()
    watched.vigil.run(run(1), 0.002, 0, watched.now)
    watched.is_well_for(9.0)
    watched.now += 3600.0  # the machine slept, or the whole service was frozen
    assert watched.vigil.verdict(watched.now) is None
    watched.is_well_for(1.0)
    watched.is_given_up()


def test_the_next_worker_owes_nothing_of_what_the_last_one_owed():
    watched = Watched()
    watched.vigil.run(run(1), 0.002, 0, watched.now)
    watched.is_well_for(9.0)
    watched.vigil.begin(watched.now)
    assert not watched.vigil.is_waiting
    watched.hear(ready())
    watched.is_well_for(60.0)


def test_a_run_of_the_calibration_that_does_not_end_is_found():
    watched = Watched()
    watched.vigil.calibrate("m", 8, watched.now)
    watched.is_well_for(2 * FIRST * HANG_S)
    assert "model m was not measured within 60 s" in watched.is_given_up()
    watched.hear(link.Calibrated("m", False))
    watched.is_well_for(100 * HANG_S)

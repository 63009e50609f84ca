"""What is learnt of times: noise at warm-up, and on a machine whose pace changes."""

from __future__ import annotations

import random

import pytest

from edged.core.costs import CostModel, Curve
from edged.core.events import (
    BatchDone,
    DeviceUp,
    GroupCost,
    PaceChanged,
    Prepared,
    Refuse,
    Run,
)
from edged.errors import Code
from tests.core.helpers import BACKBONE, Checked, arrived

SIZES = (1, 2, 4, 8)
PAYS = {
    rows: 0.008 + 0.002 * rows for rows in range(1, 17)
}  # eight rows: 3.3 times the rate of one
DOES_NOT = {rows: 0.010 * rows for rows in range(1, 17)}


def saturated(curve: Curve, truth: dict[int, float], batches: int, seed: int = 0) -> list[int]:
    """The sizes that run while there are always rows enough; a run is 0 to 40 % slower than ideal,
    and the machine takes up to half as long again for some seconds at a time."""
    rng = random.Random(seed)
    sizes, pace = [], 1.0
    for number in range(batches):
        if number % 50 == 0:
            pace = rng.uniform(1.0, 1.5)
        rows = curve.useful_rows(8)
        sizes.append(rows)
        curve.observe(rows, truth[rows] * pace * rng.choice([1.0, 1.0, 1.02, 1.05, 1.4]))
    return sizes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slow", SIZES)
@pytest.mark.parametrize("truth", [PAYS, DOES_NOT])
def test_a_wrong_figure_of_the_warm_up_mends_itself(truth, slow, seed):
    times = [truth[rows] * (1.6 if rows == slow else 1.0) for rows in SIZES]
    sizes = saturated(Curve(SIZES, times), truth, 1500, seed)[-300:]
    wanted = {8} if truth is PAYS else {1, 2}
    assert sum(rows in wanted for rows in sizes) >= 0.9 * len(sizes)


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_make_the_size_jump(seed):
    sizes = saturated(Curve(SIZES, [PAYS[rows] for rows in SIZES]), PAYS, 1000, seed)
    assert sum(rows == 8 for rows in sizes) >= 0.95 * len(sizes)


def test_other_sizes_have_their_turn_now_and_then():
    sizes = saturated(Curve(SIZES, [DOES_NOT[rows] for rows in SIZES]), DOES_NOT, 330)
    assert 3 <= sum(rows == 2 for rows in sizes) <= 12
    assert set(sizes) == {1, 2}


def test_a_busy_machine_slows_all_sizes_alike():
    curve = Curve(SIZES, [DOES_NOT[rows] for rows in SIZES])
    for _ in range(40):
        curve.observe(1, 0.02)
    assert curve.batch_s(1) == pytest.approx(0.02, rel=0.02)
    assert curve.batch_s(8) == pytest.approx(0.16, rel=0.25)


def test_sizes_between_the_measured_ones_are_learnt_as_well():
    curve = Curve((1, 8), (0.010, 0.080))
    truth = dict(DOES_NOT) | {5: 0.030}  # as where a kernel fits five rows very well
    for _ in range(100):
        for rows in (1, 5, 8):
            curve.observe(rows, truth[rows])
    assert curve.useful_rows(8) == 5
    assert curve.useful_rows(4) == 1


def test_what_any_batch_costs_besides_makes_larger_ones_of_use():
    curve = Curve(SIZES, [DOES_NOT[rows] for rows in SIZES])
    assert curve.useful_rows(8) == 1
    assert curve.useful_rows(8, around_s=0.0001) == 1
    assert curve.useful_rows(8, around_s=0.01) == 8


def test_only_what_ran_on_one_lane_teaches_about_lanes():
    costs = CostModel([GroupCost("g", (1,), (0.010,))], lanes=2)
    costs.observe("g", 1, 0.006, wide=True)
    assert costs.batch_s("g", 1) == pytest.approx(0.010)
    assert costs.pace_s == pytest.approx(0.006)
    costs.observe("g", 1, 0.012, wide=False)
    assert costs.batch_s("g", 1) > 0.010
    assert costs.pace_s == pytest.approx(0.006)


def test_a_batch_costs_what_the_size_does_that_it_is_padded_to():
    costs = CostModel([GroupCost("g", (1, 8), (1.0, 8.0))], sizes=(1, 4, 8))
    assert [costs.batch_s("g", rows) for rows in (1, 2, 4, 5, 8)] == [1.0, 4.0, 4.0, 8.0, 8.0]
    assert costs.batch_s("g", 10) == 10.0  # above all sizes it runs as it is
    for _ in range(20):
        costs.observe("g", 3, 2.0, wide=True)
        costs.observe("g", 8, 8.0, wide=True)
    assert costs.batch_s("g", 2) == pytest.approx(costs.batch_s("g", 4))
    assert costs.batch_s("g", 4) < 3.0


def test_a_whole_size_runs_first_where_padding_costs_more_than_a_second_batch():
    sizes = (1, 2, 4, 8, 16)
    steep = CostModel([GroupCost("g", sizes, tuple(map(float, sizes)))], sizes=sizes)
    assert [steep.unpadded_rows("g", rows) for rows in (1, 3, 8, 9, 13, 15)] == [1, 2, 8, 8, 8, 8]
    flat = CostModel([GroupCost("g", sizes, (5.0, 5.1, 5.2, 5.4, 6.0))], sizes=sizes)
    assert [flat.unpadded_rows("g", rows) for rows in (3, 9, 15)] == [3, 9, 15]
    assert CostModel(sizes=sizes).unpadded_rows("unknown", 9) == 9


def test_slower_clocks_are_expected_at_once_and_then_corrected_by_what_runs():
    curve = Curve(SIZES, [PAYS[rows] for rows in SIZES])
    for _ in range(20):
        curve.observe(4, PAYS[4] * 1.3)  # others use the machine, too
    curve.change_pace(2.0)
    assert [curve.batch_s(rows) for rows in SIZES] == pytest.approx(
        [2.0 * PAYS[rows] for rows in SIZES]
    )
    for _ in range(3):
        curve.observe(4, PAYS[4] * 2.6)
    assert curve.batch_s(4) == pytest.approx(2.6 * PAYS[4])
    curve.change_pace(1.0)
    assert curve.batch_s(4) == pytest.approx(PAYS[4])


def test_batches_that_showed_it_first_do_not_make_it_count_twice():
    curve = Curve(SIZES, [PAYS[rows] for rows in SIZES])
    for _ in range(9):
        curve.observe(4, PAYS[4] * 2.0)
    curve.change_pace(2.0)
    assert curve.batch_s(4) == pytest.approx(2.0 * PAYS[4])


def in_time(run: Checked, rid: int, now: float) -> bool:
    """Whether a request that must be answered within 15 ms runs; else it is refused at once."""
    (command,) = run(arrived(rid, deadline_s=now + 0.015), now)
    if isinstance(command, Refuse):
        assert command.code is Code.DEADLINE_EXCEEDED
        return False
    (batch,) = run(Prepared(rid, 0.0), now)
    assert isinstance(batch, Run)
    run(BatchDone(batch.batch, 0.010, 0.0), now + 0.010)
    return True


def test_what_a_throttled_device_cannot_answer_in_time_is_refused():
    run = Checked()
    run(DeviceUp((GroupCost(BACKBONE, (1,), (0.010,)),)))
    assert in_time(run, 1, 1.0)
    run(PaceChanged(2.0), 2.0)
    assert not in_time(run, 2, 2.0)
    run(PaceChanged(1.0), 3.0)
    assert in_time(run, 3, 3.0)

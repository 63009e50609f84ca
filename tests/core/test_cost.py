"""What is learnt of times: noise at warm-up, and on a machine whose pace changes."""

from __future__ import annotations

import random

import pytest

from edged.core.costs import CostModel, Curve
from edged.core.events import GroupCost

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

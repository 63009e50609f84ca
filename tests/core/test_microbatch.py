"""How many rows of a batch a block runs at once."""

from __future__ import annotations

import pytest

from edged.profiles.microbatch import CALL_S, is_enough, pieces, quickest

ROWS = (1, 2, 4, 8)


def test_what_shares_the_reading_of_weights_runs_all_rows_at_once() -> None:
    assert quickest(ROWS, (0.010, 0.015, 0.025, 0.045)) is None
    assert quickest(ROWS, (0.010, 0.020, 0.040, 0.080)) is None
    assert quickest((1,), (0.010,)) is None


def test_what_falls_out_of_the_caches_runs_in_micro_batches() -> None:
    assert quickest(ROWS, (0.010, 0.022, 0.046, 0.100)) == 1
    assert quickest(ROWS, (0.010, 0.016, 0.036, 0.080)) == 2


def test_a_hundredth_is_noise_and_calls_are_not_free() -> None:
    assert quickest(ROWS, (0.00990, 0.020, 0.040, 0.080)) is None
    assert quickest(ROWS, (2e-6, 4e-6, 10e-6, 30e-6)) is None
    assert quickest(ROWS, (CALL_S, 3 * CALL_S, 9 * CALL_S, 27 * CALL_S)) == 1


def test_small_runs_are_enough_unless_larger_ones_are_clearly_quicker() -> None:
    assert is_enough(1, 0.010, 2, 0.022)
    assert is_enough(1, 0.010, 2, 0.0198)
    assert not is_enough(1, 0.010, 2, 0.019)
    assert not is_enough(1, 10e-6, 2, 20e-6), "half the calls"


@pytest.mark.parametrize(
    ("rows", "most", "found"),
    [
        (5, None, [(0, 5)]),
        (5, 8, [(0, 5)]),
        (5, 2, [(0, 2), (2, 2), (4, 1)]),
        (4, 2, [(0, 2), (2, 2)]),
        (3, 1, [(0, 1), (1, 1), (2, 1)]),
    ],
)
def test_pieces_are_in_order_and_leave_no_row_out(rows, most, found) -> None:
    assert list(pieces(rows, most)) == found

"""What is wanting for the moment is answered with a time, and what can never be had without one."""

from __future__ import annotations

import pytest

from edged.core.events import (
    BatchFailed,
    BlockCost,
    BlockLoadFailed,
    DeviceUp,
    HeldBlock,
    Library,
    LoadAsked,
    MemoryMeasured,
    Model,
    Overhead,
    Prepared,
    PrepareFailed,
    Refuse,
    Settled,
    UnloadAsked,
)
from edged.errors import Code
from tests.core.helpers import Checked, arrived

LIBRARY = Library(
    (Model("a", ("a1",)), Model("huge", ("h1",))),
    (BlockCost("a1", 50, 0.5), BlockCost("h1", 500, 5.0)),
)


def refusal(commands: list[object]) -> Refuse:
    (refuse,) = [command for command in commands if isinstance(command, Refuse)]
    return refuse


def scheduler(budget: int, ceiling: int, **settings: object) -> Checked:
    tell = Checked(**settings)
    tell(LIBRARY)
    tell(MemoryMeasured(budget, ceiling_bytes=ceiling))
    tell(DeviceUp())
    return tell


def test_a_model_for_which_others_have_left_no_memory_is_refused_for_now() -> None:
    tell = scheduler(budget=40, ceiling=100)
    refuse = refusal(tell(arrived(1, "a")))
    assert (refuse.code, refuse.retry_after_s) == (Code.UNAVAILABLE, 5.0)
    assert "50 bytes of blocks do not fit the 40 bytes" in refuse.message
    tell(MemoryMeasured(100, ceiling_bytes=100))
    assert not [c for c in tell(arrived(2, "a")) if isinstance(c, Refuse)]


def test_a_model_that_never_fits_is_refused_for_good() -> None:
    tell = scheduler(budget=40, ceiling=100)
    refuse = refusal(tell(arrived(1, "huge")))
    assert (refuse.code, refuse.retry_after_s) == (Code.RESOURCE_EXHAUSTED, None)


def test_who_waits_for_a_model_when_memory_goes_is_refused_for_now() -> None:
    tell = scheduler(budget=100, ceiling=100)
    tell(arrived(1, "a"))
    tell(arrived(2, "a"))
    commands = tell(MemoryMeasured(40, ceiling_bytes=100))
    refused = [c for c in commands if isinstance(c, Refuse)]
    assert [(r.rid, r.code, r.retry_after_s) for r in refused] == [
        (1, Code.UNAVAILABLE, 5.0),
        (2, Code.UNAVAILABLE, 5.0),
    ]


def test_an_administrator_is_told_the_difference() -> None:
    tell = scheduler(budget=40, ceiling=100)
    passing, final = (
        next(c for c in tell(LoadAsked(ask, model)) if isinstance(c, Settled))
        for ask, model in ((1, "a"), (2, "huge"))
    )
    assert (passing.code, passing.retry_after_s) == (Code.UNAVAILABLE, 5.0)
    assert (final.code, final.retry_after_s) == (Code.RESOURCE_EXHAUSTED, None)


def test_memory_that_is_measured_above_the_account_may_go_again() -> None:
    """As of payloads of many clients at once."""
    tell = scheduler(budget=100, ceiling=100)
    tell(MemoryMeasured(100, used_bytes=70, ceiling_bytes=100))
    assert refusal(tell(arrived(1, "a"))).code is Code.UNAVAILABLE


def test_rows_that_do_not_fit_now_are_refused_for_now() -> None:
    tell = Checked(max_batch_rows=8)
    tell(LIBRARY)
    tell(MemoryMeasured(70, ceiling_bytes=100))
    tell(DeviceUp(resident=(HeldBlock("a1", 50),), overhead=Overhead(row_bytes=5)))
    assert tell.scheduler._memory.ledger.batch_rows == 4
    now = refusal(tell(arrived(1, "a", rows=8)))
    assert (now.code, now.retry_after_s) == (Code.UNAVAILABLE, 5.0)
    assert "at most 4 rows" in now.message
    never = refusal(tell(arrived(2, "a", rows=9)))
    assert (never.code, never.retry_after_s) == (Code.RESOURCE_EXHAUSTED, None)
    assert "at most 8" in never.message


def test_rows_that_wait_when_memory_goes_are_refused_for_now() -> None:
    tell = Checked(max_batch_rows=8, staging_rows=8)
    tell(LIBRARY)
    tell(MemoryMeasured(100, ceiling_bytes=100))
    tell(DeviceUp(resident=(HeldBlock("a1", 50),), overhead=Overhead(row_bytes=5)))
    tell(arrived(1, "a", rows=8))
    tell(arrived(2, "a", rows=8))
    refuse = refusal(tell(MemoryMeasured(70, ceiling_bytes=100)))
    assert (refuse.rid, refuse.code, refuse.retry_after_s) == (2, Code.UNAVAILABLE, 5.0)


@pytest.mark.parametrize(
    ("code", "retry_after_s"), [(Code.UNAVAILABLE, 1.0), (Code.INVALID_ARG, None)]
)
def test_what_the_device_could_not_do_for_the_moment_is_tried_again(
    code: Code, retry_after_s: float | None
) -> None:
    tell = Checked()
    tell(DeviceUp())
    tell(arrived(1))
    assert refusal(tell(PrepareFailed(1, code, "no"))).retry_after_s == retry_after_s
    tell(arrived(2, inline=True))
    assert refusal(tell(PrepareFailed(2, code, "no"))).retry_after_s == retry_after_s
    tell(BatchFailed(1, code, "no"))
    tell(arrived(3))
    tell(Prepared(3, 0.0))
    assert refusal(tell(BatchFailed(2, code, "no"))).retry_after_s == retry_after_s


def test_a_full_queue_names_a_time_though_nothing_has_run_yet() -> None:
    tell = Checked(queue_rows=1)
    tell(arrived(1, client=1))
    refuse = refusal(tell(arrived(2, client=2)))
    assert (refuse.code, refuse.retry_after_s) == (Code.UNAVAILABLE, 1.0)


def test_a_damaged_block_refuses_its_models_and_is_tried_again() -> None:
    tell = scheduler(budget=1000, ceiling=1000)
    tell(arrived(1, "huge"))
    commands = tell(BlockLoadFailed("h1", Code.INTERNAL, "h1 is damaged"), 1.0)
    assert refusal(commands) == Refuse(1, Code.INTERNAL, "h1 is damaged")
    assert refusal(tell(arrived(2, "huge"), 1.5)).retry_after_s is None
    assert not [c for c in tell(arrived(3, "a"), 1.5) if isinstance(c, Refuse)]
    assert tell.scheduler.failing_models() == {"huge": "h1 is damaged"}
    assert [type(c).__name__ for c in tell(arrived(4, "huge"), 2.5)] == ["Load"]


def test_a_load_that_failed_for_want_of_something_names_the_time_of_the_next() -> None:
    tell = scheduler(budget=100, ceiling=100)
    tell(arrived(1, "a"))
    refuse = refusal(tell(BlockLoadFailed("a1", Code.UNAVAILABLE, "the disk is full"), 1.0))
    assert (refuse.rid, refuse.code, refuse.retry_after_s) == (1, Code.UNAVAILABLE, 1.0)
    assert refusal(tell(arrived(2, "a"), 1.5)).retry_after_s == 0.5
    assert [type(c).__name__ for c in tell(arrived(3, "a"), 2.0)] == ["Load"]


def test_an_unloaded_model_is_for_an_administrator_to_bring_back() -> None:
    tell = scheduler(budget=100, ceiling=100)
    tell(UnloadAsked(1, "a"))
    refuse = refusal(tell(arrived(1, "a")))
    assert (refuse.code, refuse.retry_after_s) == (Code.UNAVAILABLE, None)

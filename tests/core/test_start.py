"""A start: what is loaded first, when batches are measured, and how large they are until then."""

from __future__ import annotations

import math

import pytest

from edged.core.costs import RUNS, SAFE_ROWS
from edged.core.events import (
    Arrived,
    BatchDone,
    BlockCost,
    BlockLoaded,
    BlockLoadFailed,
    Calibrate,
    Calibrated,
    Command,
    DeviceDown,
    DeviceUp,
    DrainAsked,
    Event,
    GroupCost,
    Library,
    Load,
    MemoryMeasured,
    Model,
    Overhead,
    Part,
    Prepare,
    Prepared,
    Refuse,
    Request,
    Run,
    Unload,
    UnloadAsked,
    Woke,
)
from edged.core.idle_calibration import QUIET_S
from edged.core.settings import MemorySettings
from edged.errors import Code
from tests.core.helpers import Checked
from tests.core.test_memory_properties import check_memory

PATHS = {"a": ("trunk", "a1"), "b": ("trunk", "b1"), "c": ("c1",), "huge": ("h1",)}
SIZES = {"trunk": 60, "a1": 20, "b1": 20, "c1": 50, "h1": 500}
ALL = tuple(PATHS)


def library(*measured: str) -> Library:
    return Library(
        tuple(Model(name, path, name in measured) for name, path in PATHS.items()),
        tuple(BlockCost(block, size, size / 100) for block, size in SIZES.items()),
    )


class Start:
    """A device that comes up without a block, and whose loads end when they are told to."""

    def __init__(
        self,
        budget: int,
        *first: str,
        measured: tuple[str, ...] = ALL,
        most_rows: int = 16,
        **memory: object,
    ) -> None:
        self._checked = Checked(memory=MemorySettings(**memory), max_batch_rows=most_rows)  # type: ignore[arg-type]
        self.scheduler = self._checked.scheduler
        self.tell(library(*measured))
        self.tell(MemoryMeasured(budget))
        self.ordered = self.tell(DeviceUp(first=first or ALL))

    def tell(self, event: Event, now: float = 0.0) -> list[Command]:
        commands = self._checked(event, now)
        check_memory(self.scheduler)
        return commands

    def ask(
        self,
        rid: int,
        model: str,
        now: float = 0.0,
        rows: int = 1,
        deadline_s: float | None = None,
    ) -> list[Command]:
        part = Part(PATHS[model][0], (model,))
        asked = Request(rid, 1, (part,), rows, rows, deadline_s=deadline_s, inline=True)
        return self.tell(Arrived(asked), now)

    def load_all(self) -> list[str]:
        """Have all blocks loaded that are ordered: their names, in order."""
        loaded = []
        while loads := [command for command in self.ordered if isinstance(command, Load)]:
            self.ordered = []
            for load in loads:
                loaded.append(load.block)
                size = SIZES[load.block]
                self.ordered += self.tell(BlockLoaded(load.block, size, size / 100))
        return loaded

    @property
    def loading(self) -> tuple[int, int] | None:
        return self.scheduler.memory().loading


def test_all_models_are_loaded_in_the_order_of_the_start() -> None:
    start = Start(1000, "c", "b", "huge", "a")
    assert start.loading == (1, 4)
    assert start.load_all() == ["c1", "trunk", "b1", "h1", "a1"]
    assert start.loading is None


def test_what_does_not_fit_is_left_out_and_nothing_leaves_for_it() -> None:
    start = Start(130, "a", "huge", "c", "b")
    assert start.load_all() == ["trunk", "a1", "c1"]
    assert start.loading is None
    assert start.tell(Woke(), 60.0) == []  # nobody waits for b


def test_each_model_is_served_as_soon_as_its_blocks_are_there() -> None:
    start = Start(1000, "a", "c")
    assert start.ask(1, "a") == [Load("c1")]  # as the loader has room for another order
    assert start.tell(BlockLoaded("trunk", 60, 0.6)) == []
    commands = start.tell(BlockLoaded("a1", 20, 0.2))
    assert Prepare(1) in commands
    assert start.loading == (2, 2)


def test_a_model_that_somebody_waits_for_goes_before_those_that_nobody_does() -> None:
    start = Start(1000, "a", "c", "huge", "b")
    assert start.ordered == [Load("trunk"), Load("a1")]
    assert start.ask(1, "b") == [Load("b1")]


def test_what_the_start_loads_and_nobody_asks_for_leaves_before_what_was_used() -> None:
    start = Start(130, "a", "c", policy="lru")
    start.tell(BlockLoaded("trunk", 60, 0.6), 0.6)
    start.tell(BlockLoaded("a1", 20, 0.2), 0.8)
    (_, run) = start.ask(1, "a", 1.0)
    assert isinstance(run, Run)
    start.tell(BatchDone(run.batch, 0.01, 0.0), 1.1)
    start.tell(BlockLoaded("c1", 50, 0.5), 2.0)
    assert start.ask(2, "b", 3.0) == [Unload("c1")]


def test_a_model_whose_load_fails_holds_up_no_other() -> None:
    start = Start(1000, "c", "a")
    start.ordered = start.tell(BlockLoadFailed("c1", Code.INTERNAL, "damaged"))
    assert start.load_all() == ["trunk", "a1"]
    assert start.loading is None
    (refused,) = start.ask(1, "c", 0.5)
    assert isinstance(refused, Refuse)
    assert refused.message == "damaged"


def test_a_pinned_model_that_cannot_fit_keeps_no_room_from_others() -> None:
    start = Start(130, "huge", "a", "c", pinned=("huge",))
    assert start.load_all() == ["trunk", "a1", "c1"]
    (refused,) = start.ask(1, "huge")
    assert isinstance(refused, Refuse)
    assert refused.code is Code.RESOURCE_EXHAUSTED
    state = {model.model: model.excess_bytes for model in start.scheduler.memory().models}
    assert state == {"a": 0, "b": 0, "c": 0, "huge": 370}


def test_pinned_models_that_fit_together_stay_and_one_too_many_does_not_evict_them() -> None:
    start = Start(130, "c", "a", "b", pinned=("c", "a", "b"))
    assert start.load_all() == ["c1", "trunk", "a1"]
    (refused,) = start.ask(1, "b")
    assert isinstance(refused, Refuse)
    assert not any(isinstance(command, Unload) for command in start.tell(Woke(), 60.0))


def test_a_device_that_comes_back_loads_all_again_and_what_is_waited_for_first() -> None:
    start = Start(1000, "a", "c")
    start.load_all()
    start.tell(DeviceDown("killed"), 1.0)
    assert start.ask(1, "c", 1.1) == []
    assert start.tell(DeviceUp(first=("a", "c")), 1.2)[0] == Load("c1")
    assert start.loading == (1, 2)


# --- measuring ------------------------------------------------------------------------------------


def idle(start: Start, after_s: float) -> float:
    """The time at which the scheduler wants to be woken, as it does nothing else."""
    at = start.scheduler.wakeup_at()
    assert at == pytest.approx(after_s + QUIET_S)
    return at


def test_models_are_measured_one_run_at_a_time_when_nothing_else_is_to_be_done() -> None:
    start = Start(1000, "a", "c", measured=("b", "huge"))
    assert not any(isinstance(command, Calibrate) for command in start.ordered)
    start.load_all()
    at = idle(start, 0.0)
    assert start.tell(Woke(), at) == [Calibrate("a", 16)]
    assert start.tell(Woke(), at + 1.0) == []
    assert start.tell(Calibrated("a", False), at + 2.0) == [Calibrate("a", 16)]
    cost = GroupCost("trunk", (1, 16), (0.01, 0.1))
    assert start.tell(Calibrated("a", True, (cost,)), at + 3.0) == [Calibrate("c", 16)]
    assert start.tell(Calibrated("c", True), at + 4.0) == []
    assert start.scheduler.wakeup_at() == float("inf")


def test_a_request_goes_first_and_measuring_waits_until_it_has_been_quiet() -> None:
    start = Start(1000, "a", measured=("b", "c", "huge"))
    start.load_all()
    (_, run) = start.ask(1, "a", 0.1)
    assert isinstance(run, Run)
    assert start.tell(Woke(), 5.0) == []
    start.tell(BatchDone(run.batch, 0.01, 0.0), 5.1)
    assert start.tell(Woke(), 5.2) == []
    assert start.tell(Woke(), idle(start, 5.1)) == [Calibrate("a", 16)]
    start.ask(2, "a", 6.0)
    assert start.tell(Calibrated("a", False), 6.1) == []


def test_nothing_is_measured_of_what_is_not_there_nor_of_what_is_known() -> None:
    start = Start(130, "a", "c", measured=("a", "c"))
    start.load_all()
    assert start.tell(Woke(), 10.0) == []
    start.tell(library("a"), 11.0)  # another library: c is new
    assert start.tell(Woke(), 11.0 + QUIET_S) == [Calibrate("c", 16)]
    start.tell(DeviceDown("killed"), 12.0)
    assert start.tell(Woke(), 20.0) == []


def test_without_a_device_and_at_the_end_no_time_is_due_for_measuring() -> None:
    """A time in the past would have the driver call again and again."""
    start = Start(1000, "c", measured=("a", "b", "huge"))
    start.load_all()
    assert start.tell(Woke(), QUIET_S) == [Calibrate("c", 16)]
    start.tell(DeviceDown("killed"), 2.0)
    assert start.scheduler.wakeup_at() == math.inf
    other = Start(1000, "c", measured=("a", "b", "huge"))
    other.load_all()
    other.tell(Woke(), 0.1)
    other.ask(1, "c", 0.2)
    other.tell(DrainAsked(), 0.3)
    assert other.scheduler.wakeup_at() == math.inf


def test_measured_memory_bounds_the_next_run() -> None:
    start = Start(300, "c", measured=("a", "b", "huge"))
    start.load_all()
    assert start.tell(Woke(), QUIET_S) == [Calibrate("c", 16)]
    told = Calibrated("c", False, (), Overhead(row_bytes=50))
    assert start.tell(told, 2.0) == [Calibrate("c", 4)]  # beside the largest model that fits


def keep_busy(start: Start, model: str) -> list[int]:
    """Ask for a model so often that a batch is always full: the rows of each batch."""
    sizes, now = [], 1.0
    rids = iter(range(1, 1000))
    running = [c for _ in range(1, 41) for c in start.ask(next(rids), model, now)]
    while runs := [command for command in running if isinstance(command, Run)]:
        running = []
        for run in runs:
            now += 0.01 + 0.001 * run.rows
            sizes.append(run.rows)
            running += start.tell(BatchDone(run.batch, 0.01 + 0.001 * run.rows, 0.0), now)
            if len(sizes) < 30:
                for _ in range(run.rows):
                    running += start.ask(next(rids), model, now)
    return sizes


def test_batches_of_what_is_not_measured_begin_small_and_grow_while_they_run() -> None:
    start = Start(1000, "c", measured=("a", "b", "huge"))
    start.load_all()
    sizes = keep_busy(start, "c")
    assert max(sizes[:RUNS]) <= SAFE_ROWS
    assert max(sizes) == 16
    assert sizes.index(16) < 5 * RUNS


def calibrating(budget: int, model: str) -> Start:
    """A device on which a run of this model's calibration is made."""
    start = Start(budget, model, measured=tuple({*ALL} - {model}))
    start.load_all()
    assert start.tell(Woke(), QUIET_S) == [Calibrate(model, 16)]
    return start


def unloaded(commands: list[Command]) -> list[str]:
    return [command.block for command in commands if isinstance(command, Unload)]


def test_a_model_that_is_to_leave_stays_until_the_run_that_measures_it_has_ended() -> None:
    start = calibrating(1000, "c")
    assert start.tell(UnloadAsked(1, "c"), 1.0) == []
    commands = start.tell(Calibrated("c", False), 2.0)
    assert unloaded(commands) == ["c1"]
    assert not any(isinstance(command, Calibrate) for command in commands)


def test_a_model_makes_room_for_another_when_the_run_that_measures_it_has_ended() -> None:
    start = calibrating(100, "c")
    assert start.ask(1, "a", 1.0) == []
    assert unloaded(start.tell(Calibrated("c", False), 2.0)) == ["c1"]


def test_a_smaller_budget_evicts_a_model_when_the_run_that_measures_it_has_ended() -> None:
    start = calibrating(100, "c")
    assert start.tell(MemoryMeasured(40), 1.0) == []
    assert unloaded(start.tell(Calibrated("c", False), 2.0)) == ["c1"]


def test_a_run_that_ended_with_the_device_holds_no_model() -> None:
    start = calibrating(1000, "c")
    start.tell(DeviceDown("killed"), 1.0)
    start.ordered = start.tell(DeviceUp(first=("c",)), 1.0)
    start.load_all()
    assert unloaded(start.tell(UnloadAsked(1, "c"), 1.1)) == ["c1"]


def test_a_model_that_vanishes_is_kept_until_the_run_that_measures_it_has_ended() -> None:
    start = calibrating(1000, "a")
    known = library("b", "c", "huge")
    others = tuple(model for model in known.models if model.name not in ("a", "b"))
    start.tell(Library(others, known.blocks), 1.0)
    assert "a" in {model.model for model in start.scheduler.memory().models}
    assert unloaded(start.tell(Calibrated("a", False), 2.0)) == ["trunk", "a1"]


def test_blocks_that_a_vanished_model_is_measured_with_stay_though_others_share_them() -> None:
    start = calibrating(1000, "a")
    start.tell(Library((Model("twin", PATHS["a"]),), library().blocks), 1.0)
    assert start.tell(MemoryMeasured(10), 1.1) == []
    assert unloaded(start.tell(Calibrated("a", False), 2.0)) == ["trunk", "a1"]


def test_batches_of_a_model_that_could_not_be_measured_begin_small_and_grow() -> None:
    start = calibrating(1000, "c")
    start.tell(Calibrated("c", True), 0.9)
    start.tell(library(*ALL), 0.9)  # as when the store changes
    sizes = keep_busy(start, "c")
    assert max(sizes[:RUNS]) <= SAFE_ROWS
    assert max(sizes) == 16


def test_batches_of_a_model_that_is_not_to_be_measured_any_more_begin_small_and_grow() -> None:
    start = Start(1000, "c", measured=ALL)
    start.load_all()
    sizes = keep_busy(start, "c")
    assert max(sizes[:RUNS]) <= SAFE_ROWS
    assert max(sizes) == 16


def test_batches_of_what_is_measured_are_as_large_as_is_of_use_at_once() -> None:
    start = calibrating(1000, "c")
    start.tell(Calibrated("c", True, (GroupCost("c1", (1, 16), (0.011, 0.026)),)), 0.9)
    assert keep_busy(start, "c")[:3] == [1, 16, 16]


def asked_after_a_held_up_batch(start: Start, model: str) -> object:
    """What becomes of a request with little time, after a run that measures c took 20 s and held up
    a batch so long."""
    (_, run) = start.ask(1, model, 1.0)
    assert isinstance(run, Run)
    start.tell(Calibrated("c", False), 21.0)
    start.tell(BatchDone(run.batch, 0.010, 0.0), 21.0)
    (_, outcome) = start.ask(2, model, 21.1, deadline_s=21.2)
    return outcome


def test_a_batch_that_a_run_of_the_calibration_held_up_shortens_no_time_out() -> None:
    start = Start(1000, "c", "a", measured=("b", "huge"))
    start.load_all()
    assert start.tell(Woke(), QUIET_S) == [Calibrate("a", 16)]
    cost = GroupCost("trunk", (1, 16), (0.010, 0.160))
    assert start.tell(Calibrated("a", True, (cost,)), 1.0) == [Calibrate("c", 16)]
    assert isinstance(asked_after_a_held_up_batch(start, "a"), Run)


def test_times_are_not_learnt_from_a_batch_that_a_run_of_the_calibration_held_up() -> None:
    assert isinstance(asked_after_a_held_up_batch(calibrating(1000, "c"), "c"), Run)


def test_times_that_vary_much_leave_a_time_out_of_several_batches_alone() -> None:
    start = calibrating(1000, "c")
    start.tell(Calibrated("c", True, (GroupCost("c1", (1, 16), (0.010, 0.160)),)), 1.0)
    now = 1.0
    for rid in range(1, 10):
        (_, run) = start.ask(rid, "c", now)
        assert isinstance(run, Run)
        now += 60.0 if rid == 5 else 0.010  # as of a machine that was suspended
        start.tell(BatchDone(run.batch, 0.010, 0.0), now)
    (_, last) = start.ask(10, "c", now, deadline_s=now + 0.1)
    assert isinstance(last, Run)


@pytest.mark.parametrize("most_rows", [1, 2, 3])
def test_where_few_rows_are_allowed_batches_of_what_is_not_measured_have_as_many(
    most_rows: int,
) -> None:
    start = Start(1000, "c", measured=("a", "b", "huge"), most_rows=most_rows)
    start.load_all()
    assert max(keep_busy(start, "c")) == most_rows


def test_where_memory_allows_few_rows_batches_of_what_is_not_measured_have_as_many() -> None:
    start = Start(1000, "c", measured=("a", "b", "huge"))
    start.tell(DeviceDown("killed"))
    start.ordered = start.tell(DeviceUp(first=("c",), overhead=Overhead(row_bytes=250)))
    start.load_all()
    assert max(keep_busy(start, "c")) == 2


def test_prepared_requests_are_answered_while_models_are_measured() -> None:
    start = Start(1000, "a", measured=())
    start.load_all()
    assert start.tell(Woke(), 1.0) == [Calibrate("a", 16)]
    part = Part("trunk", ("a",))
    assert start.tell(Arrived(Request(7, 1, (part,))), 2.1) == [Prepare(7)]
    (run,) = start.tell(Prepared(7, 0.01), 2.2)
    assert isinstance(run, Run)

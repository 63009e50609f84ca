"""More models than memory holds: what is loaded, what leaves, who waits, who is told why not."""

from __future__ import annotations

import pytest

from edged.core.events import Arrived as ArrivedEvent
from edged.core.events import (
    BatchDone,
    BlockCost,
    BlockLoaded,
    BlockLoadFailed,
    BlockUnloaded,
    DeviceUp,
    HeldBlock,
    Library,
    Load,
    LoadAsked,
    MemoryMeasured,
    Model,
    Overhead,
    Part,
    PinAsked,
    Prepare,
    Prepared,
    Refuse,
    Request,
    Run,
    Settled,
    Unload,
    UnloadAsked,
    Woke,
)
from edged.core.residency.needs import Use
from edged.core.residency.policies import Candidate, fewest_late, greedy
from edged.core.settings import MemorySettings
from edged.errors import Code
from tests.core.helpers import Checked
from tests.core.test_memory_properties import check_memory

# Two models on one trunk, one beside them, one that is larger than all of these.
PATHS = {"a": ("trunk", "a1"), "b": ("trunk", "b1"), "c": ("c1",), "huge": ("h1",)}
SIZES = {"trunk": 60, "a1": 20, "b1": 20, "c1": 50, "h1": 500}
LIBRARY = Library(
    tuple(Model(name, path) for name, path in PATHS.items()),
    tuple(BlockCost(block, size, size / 100) for block, size in SIZES.items()),
)


def arrived(rid: int, model: str, deadline_s: float | None = None, rows: int = 1) -> ArrivedEvent:
    part = Part(PATHS[model][0], (model,))
    return ArrivedEvent(Request(rid, 1, (part,), rows, rows, deadline_s=deadline_s))


class Tell:
    """A scheduler on a device that holds `resident`, with 100 bytes for blocks unless told."""

    def __init__(self, *resident: str, budget: int = 100, **memory: object) -> None:
        self._tell = Checked(memory=MemorySettings(**memory))  # type: ignore[arg-type]
        self.scheduler = self._tell.scheduler
        self(LIBRARY)
        self(MemoryMeasured(budget))
        self.first = self(
            DeviceUp(resident=tuple(HeldBlock(block, SIZES[block]) for block in resident))
        )

    def __call__(self, event: object, now: float = 0.0) -> list[object]:
        commands = self._tell(event, now)  # type: ignore[arg-type]
        check_memory(self.scheduler)
        return list(commands)

    def serve(self, event: object, now: float) -> list[object]:
        """Tell it, and have the device prepare and run at once whatever it is ordered to."""
        commands = self(event, now)
        for command in commands:  # it grows meanwhile
            if isinstance(command, Prepare):
                commands += self(Prepared(command.rid, 0.0), now)
            elif isinstance(command, Run):
                commands += self(BatchDone(command.batch, 0.001, 0.0), now)
        return commands

    def load(self, *blocks: str, now: float = 0.0) -> list[object]:
        """The device reports these as loaded; all that is ordered meanwhile."""
        ordered = []
        for block in blocks:
            ordered += self(BlockLoaded(block, SIZES[block], SIZES[block] / 100), now)
        return ordered


def test_a_request_waits_for_its_blocks_and_only_the_missing_ones_are_loaded() -> None:
    tell = Tell("trunk", "a1")
    assert tell(arrived(1, "b")) == [Load("b1")]
    assert tell.load("b1") == [Prepare(1)]


def test_requests_for_what_is_there_keep_flowing_while_others_wait_for_a_load() -> None:
    tell = Tell("trunk", "a1")
    tell(arrived(1, "b"))
    assert tell(arrived(2, "a")) == [Prepare(2)]
    (run,) = tell(Prepared(2, 0.0))
    assert isinstance(run, Run)


def test_room_is_made_before_a_block_is_read_and_never_by_what_a_request_uses() -> None:
    tell = Tell("trunk", "a1", "b1")
    assert tell(arrived(1, "a")) == [Prepare(1)]
    assert tell(arrived(2, "c")) == []  # the trunk has to leave: it is in use
    (run,) = tell(Prepared(1, 0.0))
    assert isinstance(run, Run)
    assert Unload("trunk") in tell(BatchDone(run.batch, 0.01, 0.0))
    assert tell(BlockUnloaded("trunk")) == [Load("c1")]


def test_what_nobody_uses_leaves_before_what_a_request_uses() -> None:
    """Though it is asked for more often: the loader would have to wait for that request."""
    tell = Tell("trunk", "a1", "c1", budget=130)
    for rid in (1, 2):
        tell.serve(arrived(rid, "c"), 0.1 * rid)
    assert tell(arrived(3, "a"), 0.3) == [Prepare(3)]
    assert tell(arrived(4, "b"), 0.3) == [Unload("c1")]


def test_room_for_the_next_model_is_made_while_one_is_loaded() -> None:
    tell = Tell("trunk", "c1", budget=130)
    assert tell(arrived(1, "a", deadline_s=5.0)) == [Load("a1")]
    assert tell(arrived(2, "b", deadline_s=9.0)) == [Unload("c1")]
    assert tell(BlockUnloaded("c1")) == [Load("b1")]  # the loader need not wait for anything
    assert tell.load("a1") == [Prepare(1)]
    assert tell.load("b1") == [Prepare(2)]


def test_while_blocks_wait_to_leave_no_new_request_starts_with_them() -> None:
    tell = Tell("trunk", "a1", "b1")
    tell(arrived(1, "a"))
    tell(arrived(2, "c"))
    assert tell(arrived(3, "a")) == []
    assert tell.scheduler.waiting_requests == 2


def test_what_can_never_fit_is_refused_at_once_with_the_bytes() -> None:
    tell = Tell("trunk")
    (refusal,) = tell(arrived(1, "huge"))
    assert isinstance(refusal, Refuse)
    assert refusal.code is Code.RESOURCE_EXHAUSTED
    assert "500 bytes" in refusal.message
    assert "100 bytes" in refusal.message


def test_a_deadline_that_the_load_alone_misses_is_refused_at_arrival() -> None:
    tell = Tell("trunk")
    (refusal,) = tell(arrived(1, "c", deadline_s=0.4))
    assert isinstance(refusal, Refuse)
    assert refusal.code is Code.DEADLINE_EXCEEDED
    assert tell(arrived(2, "c", deadline_s=0.6)) != []


def test_a_failed_load_refuses_those_who_wait_for_it_and_is_tried_again_after_a_while() -> None:
    tell = Tell("trunk")
    tell(arrived(1, "b"))
    tell(arrived(2, "c"))
    commands = tell(BlockLoadFailed("b1", Code.INTERNAL, "b1: a flipped bit"), 1.0)
    assert commands[0] == Refuse(1, Code.INTERNAL, "b1: a flipped bit")
    assert Unload("trunk") in commands  # the others go on
    assert tell.scheduler.account().blocks == 60
    (refusal,) = tell(arrived(3, "b"), 1.5)
    assert refusal == Refuse(3, Code.INTERNAL, "b1: a flipped bit")
    tell(BlockUnloaded("trunk"), 2.0)
    assert tell.load("c1", now=2.0) == [Prepare(2)]
    tell(arrived(4, "b"), 2.5)
    assert tell.scheduler.waiting_requests == 1


def test_a_smaller_budget_sends_blocks_away_until_it_holds() -> None:
    tell = Tell("trunk", "a1", "b1")
    commands = tell(MemoryMeasured(85))
    assert commands == [Unload("a1")]
    tell(BlockUnloaded("a1"))
    assert tell.scheduler.account().total == 80


def test_what_is_measured_above_all_that_is_counted_takes_room_from_blocks() -> None:
    tell = Tell("trunk", "a1", "b1")
    assert tell(MemoryMeasured(100, used_bytes=110)) == [Unload("a1")]
    account = tell.scheduler.account()
    assert (account.unexplained, account.total) == (10, 110)


def test_the_largest_batch_shrinks_before_a_model_is_refused() -> None:
    tell = Checked(max_batch_rows=8)
    tell(LIBRARY)
    tell(MemoryMeasured(100))
    tell(DeviceUp(overhead=Overhead(fixed_bytes=5, row_bytes=5)))
    assert tell.scheduler._memory.ledger.batch_rows == 3  # beside the 80 bytes of a or b
    (refusal,) = tell(arrived(1, "a", rows=4))
    assert isinstance(refusal, Refuse)
    assert "at most 3" in refusal.message
    assert tell(arrived(2, "a", rows=3)) == [Load("trunk"), Load("a1")]


def test_a_pinned_model_is_loaded_and_stays() -> None:
    tell = Tell("c1", pinned=("b",))
    assert tell.first == [Unload("c1")]  # 50 of 100 bytes, and b needs 80
    tell(BlockUnloaded("c1"))
    tell.load("trunk", "b1")
    (refusal,) = tell(arrived(1, "c"))
    assert isinstance(refusal, Refuse)
    assert "pinned" in refusal.message


def test_an_ask_is_settled_when_it_has_come_about() -> None:
    tell = Tell("trunk")
    assert tell(LoadAsked(1, "b")) == [Load("b1")]
    assert tell.load("b1") == [Settled(1)]
    assert tell(UnloadAsked(2, "b")) == [Unload("b1")]
    assert tell(BlockUnloaded("b1")) == [Settled(2)]


def test_unloading_a_model_serves_the_accepted_requests_first() -> None:
    tell = Tell("trunk", "a1")
    tell(arrived(1, "a"))
    assert tell(UnloadAsked(1, "a")) == []
    (run,) = tell(Prepared(1, 0.0))
    assert isinstance(run, Run)
    *_, unload = tell(BatchDone(run.batch, 0.01, 0.0))
    assert unload == Unload("a1")  # the trunk is b's as well
    assert tell(BlockUnloaded("a1")) == [Settled(1)]


def test_loading_and_pinning_what_cannot_fit_is_settled_with_why() -> None:
    tell = Tell("trunk")
    for ask in (LoadAsked(1, "huge"), PinAsked(2, "huge", True)):
        (settled,) = tell(ask)
        assert isinstance(settled, Settled)
        assert settled.code is Code.RESOURCE_EXHAUSTED


def test_what_is_pinned_while_others_take_the_memory_is_loaded_when_it_is_there_again() -> None:
    tell = Tell("trunk")
    tell(MemoryMeasured(60, ceiling_bytes=100))
    (settled,) = tell(PinAsked(1, "b", True))
    assert isinstance(settled, Settled)
    assert settled.code is Code.UNAVAILABLE
    assert tell(MemoryMeasured(100)) == [Load("b1")]


def test_an_unload_takes_back_a_load_that_is_under_way() -> None:
    tell = Tell("trunk")
    tell(LoadAsked(1, "b"))
    (settled, *_) = tell(UnloadAsked(2, "b"))
    assert isinstance(settled, Settled)
    assert (settled.ask, settled.code) == (1, Code.CANCELLED)


def test_a_request_that_has_waited_too_long_goes_before_all_that_would_bring_more() -> None:
    tell = Tell("trunk", "a1", "b1", max_wait_s=5.0)
    rids = iter(range(1, 1000))
    # a and b are asked for by impatient clients all the time: c would cost more than it brings.
    for step in range(100):
        now = step * 0.1
        if step == 20:
            tell(arrived(next(rids), "c"), now)
        for model in ("a", "b"):
            commands = tell.serve(arrived(next(rids), model, deadline_s=now + 0.15), now)
            if Unload("trunk") in commands:
                assert 7.0 <= now <= 7.2
                return
    pytest.fail("the oldest request starves")


def test_a_model_whose_load_takes_longer_than_anybody_waits_is_loaded_all_the_same() -> None:
    """Each request for c is refused at once, so none ever waits for it."""
    tell = Tell("trunk", "a1", "b1", max_wait_s=5.0)
    rids = iter(range(1, 1000))
    for step in range(100):
        now = step * 0.1
        tell.serve(arrived(next(rids), "a"), now)
        commands = tell(arrived(next(rids), "c", deadline_s=now + 0.2), now)
        refused = [command for command in commands if isinstance(command, Refuse)]
        assert [refusal.code for refusal in refused] == [Code.DEADLINE_EXCEEDED]
        if Unload("trunk") in commands:
            assert 5.0 <= now <= 5.2
            break
    else:
        pytest.fail("no request for c will ever be answered")
    assert tell(BlockUnloaded("trunk"), now) == [Load("c1")]
    tell.load("c1", now=now + 0.5)
    assert tell(arrived(1000, "c", deadline_s=now + 0.7), now + 0.5) == [Prepare(1000)]


def test_an_urgent_request_that_cannot_be_in_time_does_not_keep_others_from_loading() -> None:
    tell = Tell(budget=200)
    assert tell(arrived(1, "c")) == [Load("c1")]  # takes half a second
    tell(ArrivedEvent(Request(2, 1, (Part("trunk", ("a",)),), level=0, deadline_s=0.9)))
    tell(ArrivedEvent(Request(3, 1, (Part("trunk", ("b",)),), level=1)))
    assert tell.load("c1", now=0.5) == [Prepare(1), Load("trunk"), Load("b1")]


def test_a_load_is_abandoned_when_nobody_waits_for_it_any_more() -> None:
    tell = Tell(budget=200)
    assert tell(arrived(1, "a", deadline_s=1.0)) == [Load("trunk"), Load("a1")]
    tell(Woke(), 1.0)  # its time-out passes
    tell.load("trunk", "a1", now=1.1)
    assert tell.scheduler.account().blocks == 80  # both had been ordered: they stay


def test_loads_that_nobody_waits_for_any_more_do_not_pile_up() -> None:
    tell = Tell(budget=1000, policy="lru")
    ordered = []
    for rid, model in enumerate(("a", "c", "huge"), 1):  # the device reports none of it
        ordered += tell(arrived(rid, model, deadline_s=10.0 * rid), 10.0 * (rid - 1))
        ordered += tell(Woke(), 10.0 * rid)  # its time-out passes
    assert [c for c in ordered if isinstance(c, Load)] == [Load("trunk"), Load("a1"), Load("c1")]


# --- policies -------------------------------------------------------------------------------------


def candidate(requests: int, load_s: float, due_s: float, lost: float = 0.0) -> Candidate:
    return Candidate(requests, due_s, waited_s=0.0, load_s=load_s, run_s=0.0, lost=lost)


def test_fewest_late_takes_the_earliest_deadline_while_all_can_be_met() -> None:
    assert fewest_late([candidate(9, 1.0, 5.0), candidate(1, 1.0, 2.0)]) == [1, 0]


def test_fewest_late_puts_off_what_brings_the_least_when_not_all_can_be_met() -> None:
    assert fewest_late([candidate(9, 1.0, 2.0), candidate(1, 1.5, 1.9)]) == [0, 1]


def test_fewest_late_leaves_what_would_cost_more_answers_than_it_brings() -> None:
    assert fewest_late([candidate(2, 1.0, 9.0, lost=3.0)]) == []


def test_under_one_deadline_fewest_late_is_algorithm_3() -> None:
    same = [candidate(3, 0.3, 1.0), candidate(5, 0.4, 1.0), candidate(1, 0.05, 1.0)]
    assert fewest_late(same) == greedy(same) == [2, 1, 0]


def test_a_model_of_a_round_robin_is_the_farthest_from_its_next_use_just_after_one() -> None:
    use = Use()
    for turn in range(100):
        use.seen(turn * 10.0, None)
    assert use.next_s(990.0) > 3 * use.next_s(998.0)


def started_with(
    budget: int, *first: str, pinned: tuple[str, ...] = (), overhead: Overhead | None = None
) -> list[str]:
    """The blocks that a start loads, in order; all loads end at once."""
    tell = Checked(memory=MemorySettings(pinned=pinned))
    tell(LIBRARY)
    tell(MemoryMeasured(budget))
    commands = tell(DeviceUp(first=first, overhead=overhead or Overhead()))
    loaded = []
    for load in commands:  # it grows meanwhile
        assert isinstance(load, Load)
        loaded.append(load.block)
        commands += tell(BlockLoaded(load.block, SIZES[load.block], 0.1))
    return loaded


def test_the_device_starts_with_the_pinned_models_and_what_fits_besides() -> None:
    pinned_first = started_with(150, "c", "a", "b", "huge", pinned=("c",))
    assert pinned_first == ["c1", "trunk", "a1", "b1"]
    assert started_with(100, *PATHS) == ["trunk", "a1", "b1"]
    assert started_with(100, *PATHS, overhead=Overhead(fixed_bytes=15)) == ["trunk", "a1"]

"""When a board counts as throttled, and how much slower it is said to be: with times by hand."""

from __future__ import annotations

import pytest

from edged.telemetry.gpu import GpuReading
from edged.telemetry.pace import GPU_CLOCK, HOLD_S, SHOW_S, Pace
from edged.telemetry.reading import BoardReading

FULL = 918_000_000


def reading(hz: int = FULL, *, load: float | None = 1.0, limit: int = FULL, **more) -> BoardReading:
    return BoardReading(gpu=GpuReading(load, hz, None, limit), **more)


def paces(pace: Pace, *readings: BoardReading, start: float = 0.0) -> list[float]:
    return [pace.look(each, start + 0.5 * n).gpu_pace for n, each in enumerate(readings)]


def test_a_board_at_its_clocks_is_as_fast_as_at_the_start():
    state = Pace().look(reading(), 0.0)
    assert (state.gpu_pace, state.throttled) == (1.0, ())


def test_a_busy_gpu_below_its_limit_is_throttled_when_two_looks_agree():
    pace = Pace()
    assert paces(pace, reading(), reading()) == [1.0, 1.0]
    slow = reading(FULL // 2)
    states = [pace.look(slow, 1.0), pace.look(slow, 1.5), pace.look(slow, 2.0)]
    assert [state.throttled for state in states] == [(), (GPU_CLOCK,), (GPU_CLOCK,)]
    assert [state.gpu_pace for state in states] == [1.0, 1.0, 2.0]


def test_a_clock_that_still_rises_is_no_throttling():
    pace, rising = Pace(), (FULL // 3, FULL // 2, FULL, FULL)
    states = [pace.look(reading(hz), n / 2) for n, hz in enumerate(rising)]
    assert [(state.throttled, state.gpu_pace) for state in states] == [((), 1.0)] * 4


def test_a_board_that_never_reaches_its_limit_is_throttled_but_no_slower_than_at_the_start():
    pace, capped = Pace(), reading(FULL // 2)
    states = [pace.look(capped, n / 2) for n in range(5)]
    assert states[-1].throttled == (GPU_CLOCK,)
    assert [state.gpu_pace for state in states] == [1.0] * 5
    assert paces(pace, *[reading(FULL // 4)] * 4, start=2.5)[-1] == 2.0


def test_a_change_of_the_limit_is_told_within_a_second_though_nothing_runs():
    idle = {"load": 0.0}
    before, after = reading(306_000_000, **idle), reading(306_000_000, limit=FULL // 3, **idle)
    assert paces(Pace(), before, before, after, after, after) == [1.0, 1.0, 1.0, 3.0, 3.0]


def test_what_flickers_is_not_told():
    half, full = reading(limit=FULL // 2, load=0.0), reading(load=0.0)
    assert paces(Pace(), full, half, full, half, full, half) == [1.0] * 6


def test_a_small_change_is_not_told():
    assert paces(Pace(), reading(load=0.0), *[reading(load=0.0, limit=FULL * 19 // 20)] * 3) == (
        [1.0] * 4
    )


def test_back_at_the_clocks_of_the_start_it_is_one_again():
    start, slow = reading(load=0.0), reading(limit=FULL // 2, load=0.0)
    nearly = reading(load=0.0, limit=FULL * 98 // 100)
    assert paces(Pace(), start, slow, slow, nearly, nearly)[-3:] == [2.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("first", "then", "told"), [(FULL, FULL // 100, 4.0), (FULL, FULL * 9, 0.5)]
)
def test_it_is_bounded(first, then, told):
    found = paces(Pace(), reading(load=0.0, limit=first), *[reading(load=0.0, limit=then)] * 3)
    assert found[-1] == told


def test_a_pause_of_the_load_does_not_hide_that_the_gpu_was_slow():
    pace = Pace()
    assert paces(pace, *[reading()] * 2, *[reading(FULL // 2)] * 3)[-1] == 2.0
    idle = reading(306_000_000, load=0.0)
    assert paces(pace, *[idle] * 4, start=2.5) == [2.0] * 4
    assert paces(pace, *[idle] * 3, start=2.5 + HOLD_S)[-1] == 1.0


def test_a_gpu_that_tells_no_load_is_judged_by_its_limit():
    thor = reading(315_000_000, load=None, limit=FULL)
    slow = reading(315_000_000, load=None, limit=FULL // 2)
    assert paces(Pace(), thor, slow, slow) == [1.0, 1.0, 2.0]


def test_a_machine_without_a_gpu_has_no_pace():
    state = Pace().look(BoardReading(temperatures_c={"x86": 50.0}), 0.0)
    assert (state.gpu_pace, state.cpu_pace, state.throttled) == (1.0, 1.0, ())


def test_processors_have_a_pace_of_their_own():
    pace, readings = Pace(), [reading(cpu_limit_hz=hz) for hz in (12_000, 12_000, 6_000, 6_000)]
    states = [pace.look(each, n / 2) for n, each in enumerate(readings)]
    assert [state.cpu_pace for state in states] == [1.0, 1.0, 1.0, 2.0]
    assert [state.gpu_pace for state in states] == [1.0] * 4


def test_supply_events_count_from_the_first_look_and_are_shown_for_a_while():
    pace = Pace()
    events = [{"over-current": 27}, {"over-current": 27}, {"over-current": 28}]
    states = [pace.look(reading(supply_events=each), float(n)) for n, each in enumerate(events)]
    assert [state.throttled for state in states] == [(), (), ("over-current",)]
    last = reading(supply_events=events[-1])
    assert pace.look(last, 2.0 + SHOW_S).throttled == ("over-current",)
    assert pace.look(last, 2.1 + SHOW_S).throttled == ()


def test_heat_is_told_at_once():
    state = Pace().look(reading(alerts=("gpu-throttle-alert",)), 0.0)
    assert state.throttled == ("gpu-throttle-alert",)

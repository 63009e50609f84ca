"""Windows of a minute and of ten, in virtual time: they hold all that happened in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.core.events import Answer, Arrived, Part, Refuse, Request, Run, Woke
from edged.errors import Code
from edged.observe.statistics import TaskCounters
from edged.wire import BatchWindow, TaskWindow
from tests.daemon.samples import manifest

STARTED_AT = 1_003.0
MODELS = {name: manifest(name) for name in ("flowers", "food")}


class Days:
    """Requests that arrive, run and end at the same instant."""

    def __init__(self) -> None:
        self.counters = TaskCounters(MODELS, MODELS, STARTED_AT)
        self.rid = 0

    def request(self, now: float, *, ends_well: bool = True, took_s: float = 0.01) -> None:
        self.rid += 1
        part = Part("group", ("flowers",))
        request = Request(self.rid, client=1, parts=(part,), rows=2)
        end = Answer(self.rid, took_s, 0.0, 0.0, 0.0, 2)
        if not ends_well:
            end = Refuse(self.rid, Code.UNAVAILABLE, "full")
        self.counters.turn(now, Arrived(request), [])
        self.counters.turn(now, Woke(), [Run(self.rid, "group", (), 2), end])

    def windows(self, now: float, task: str = "flowers") -> tuple[TaskWindow, ...]:
        return next(t for t in self.counters.tasks(now) if t.name == task).windows


@given(
    st.lists(st.tuples(st.integers(0, 90), st.booleans()), max_size=80),
    st.lists(st.integers(0, 700), min_size=1, max_size=4),
)
def test_a_window_has_what_happened_since_it_began(steps, looks):
    """Looking changes nothing, also in the middle."""
    days, now, ends = Days(), STARTED_AT, []
    for number, (wait_s, well) in enumerate(steps):
        now += wait_s
        if number % 7 == 3:
            days.windows(now)
        days.request(now, ends_well=well)
        ends.append((now, well))
    for look in looks:
        now += look
        for span_s, window in zip((60, 600), days.windows(now), strict=True):
            assert window.span_s == span_s
            assert window.seconds <= span_s * 13 / 12
            assert window.seconds >= min(span_s, now - STARTED_AT)
            inside = [well for at, well in ends if at >= now - window.seconds]
            assert (window.answered, window.failed) == (sum(inside), len(inside) - sum(inside))
            assert window.rows == 2 * sum(inside)
            assert bool(window.latency_us) == (window.answered > 0)


def test_quantiles_are_of_the_window_alone():
    days = Days()
    days.request(STARTED_AT, took_s=5.0)
    for n in range(100):
        days.request(STARTED_AT + 100, took_s=0.2 if n >= 98 else 0.01)
    short, long = days.windows(STARTED_AT + 110)
    assert short.answered == 100
    assert short.latency_us["p50"] == pytest.approx(10_000, rel=0.02)
    assert short.latency_us["p99"] == pytest.approx(200_000, rel=0.02)
    assert long.answered == 101
    (whole,) = (t for t in days.counters.tasks(STARTED_AT + 110) if t.name == "flowers")
    assert whole.latency_us["p50"] == pytest.approx(10_000, rel=0.02)


def test_where_nothing_was_asked_a_window_is_empty():
    days = Days()
    days.request(STARTED_AT + 1)
    short, long = days.windows(STARTED_AT + 300)
    assert short == TaskWindow(60, short.seconds)
    assert long.answered == 1
    assert days.windows(STARTED_AT + 9_000)[1] == TaskWindow(600, pytest.approx(600, abs=50))
    assert days.windows(STARTED_AT + 9_000, "food")[0].latency_us == {}


def test_batches_have_windows_too():
    days = Days()
    for second in (0, 1, 100):
        days.request(STARTED_AT + second)
    short, long = days.counters.batch_windows(STARTED_AT + 101)
    assert short == BatchWindow(60, short.seconds, 1, 2, 0)
    assert (long.count, long.rows, long.mixed) == (3, 6, 0)

"""What the board tells reaches statistics, `edged status` and the scheduler's expectations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace

import msgspec
import pytest

from edged import wire
from edged.cli.status import _parts
from edged.config import Config
from edged.core.events import Answer, BatchDone, Command, Event, PaceChanged, Request
from edged.daemon import worker_settings
from edged.daemon.board import BoardFigures
from edged.daemon.figures import PATIENCE_S
from edged.daemon.loop import SWEEP_S, Loop
from edged.daemon.models.versions import Versions
from edged.observe.statistics import TaskCounters
from edged.systemd import Notifier
from edged.telemetry.gpu import GpuReading
from edged.telemetry.pace import BoardState
from edged.telemetry.reading import BoardReading
from tests.daemon.samples import Bench, manifest

CPU = "cpu, 2 threads"


def state(at_s: float, watts: float | None = 10.0, pace: float = 1.0, **more) -> BoardState:
    reading = BoardReading(
        gpu=GpuReading(0.5, 612_000_000, None, 918_000_000),
        temperatures_c={"gpu": 51.0},
        rails_w={} if watts is None else {"VDD_IN": watts},
        total_w=watts,
        power_mode="25W",
    )
    return BoardState(reading, at_s, cpu_pace=pace, gpu_pace=3.0, **more)


def statistics(bench: Bench) -> wire.StatisticsReply:
    bench.sent.clear()
    bench.ask(wire.StatisticsQuery("s"), ())
    bench.front.on_woke(bench.now + 2 * PATIENCE_S)  # the worker has not told its memory
    return next(reply.header for _, reply in bench.sent if reply.header.id == "s")


def test_statistics_say_what_the_board_tells():
    bench = Bench()
    bench.worker_is_ready(device=CPU)
    bench.front.on_board(state(0.0, pace=2.0, throttled=("gpu-clock",)), 0.0)
    board = statistics(bench).board
    assert (board.power_mode, board.gpu_load, board.gpu_hz) == ("25W", 0.5, 612_000_000)
    assert (board.rails_w, board.total_w) == ({"VDD_IN": 10.0}, 10.0)
    assert (board.throttled, board.pace) == (("gpu-clock",), 2.0)
    assert (board.answers_j, board.answer_j) == (None, None)


def test_a_machine_that_tells_nothing_has_no_board():
    bench = Bench()
    bench.worker_is_ready()
    bench.front.on_board(None, 0.0)
    assert statistics(bench).board is None


def test_an_older_client_reads_the_reply_and_a_newer_one_an_older_reply():
    class Older(msgspec.Struct):
        id: str
        memory: dict[str, int]

    reply = wire.StatisticsReply("s", memory={"a": 1}, board=wire.BoardStatistics("15W"))
    sent = msgspec.msgpack.encode(reply)
    assert msgspec.msgpack.decode(sent, type=Older) == Older("s", {"a": 1})
    older = msgspec.msgpack.encode({"id": "s", "memory": {"a": 1}})
    assert msgspec.msgpack.decode(older, type=wire.StatisticsReply).board is None


class Paces:
    """An observer that keeps the paces which the scheduler is told."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def turn(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        if isinstance(event, PaceChanged):
            self.told.append(event.pace)


def test_the_scheduler_is_told_each_change_once_and_again_after_a_restart():
    paces = Paces()
    bench = Bench(recorder=paces)
    bench.worker_is_ready(device=CPU)
    for at, pace in ((0.0, 1.0), (0.5, 2.0), (1.0, 2.0)):
        bench.front.on_board(state(at, pace=pace), at)
    assert paces.told == [2.0]
    bench.now = 1.5
    bench.front.on_worker_lost("gone", bench.now)
    bench.front.on_board(state(1.6, pace=3.0), 1.6)  # nobody is there to be slow
    assert paces.told == [2.0]
    bench.worker_is_ready(device=CPU)
    assert paces.told == [2.0, 3.0]


@pytest.mark.parametrize(
    ("device", "pace"), [(CPU, 2.0), ("cuda:0, Orin", 3.0), ("board, emulated", 1.0)]
)
def test_the_clocks_of_what_computes_are_those_that_count(device, pace):
    bench = Bench()
    bench.worker_is_ready(device=device)
    bench.front.on_board(state(0.0, pace=2.0), 0.0)
    assert statistics(bench).board.pace == pace


class Served:
    """Counters that are told of batches and answers by hand."""

    def __init__(self) -> None:
        model = manifest("flowers")
        self.counters = TaskCounters(["flowers"], {"flowers": model}, 0.0)
        self.figures = BoardFigures(self.counters)
        self._rid = 0

    def answers(self, count: int, busy_s: float) -> None:
        for _ in range(count):
            self._rid += 1
            self.counters._requests[self._rid] = Request(self._rid, 1, ()), []
            answer = Answer(self._rid, 0.0, 0.0, busy_s / count, 0.0, 1)
            done = BatchDone(self._rid, busy_s / count, 0.0)
            self.counters.turn(0.0, done, [answer])

    def energy(self) -> tuple[float | None, float | None]:
        report = self.figures.report(1.0)
        return report.answers_j, report.answer_j


def test_the_energy_of_an_answer_is_that_of_the_time_in_which_batches_ran():
    served = Served()
    served.figures.take(state(0.0))
    served.answers(5, busy_s=0.25)
    served.figures.take(state(1.0))  # 10 W for a quarter of a second
    assert served.energy() == pytest.approx((2.5, 0.5))
    served.figures.take(state(2.0))  # nothing ran
    assert served.energy() == pytest.approx((2.5, 0.5))


def test_batches_side_by_side_take_no_more_than_all_of_the_time():
    served = Served()
    served.figures.take(state(0.0))
    served.answers(4, busy_s=3.0)
    served.figures.take(state(1.0))
    assert served.energy() == pytest.approx((10.0, 2.5))


def test_what_ran_while_no_power_was_told_is_not_counted():
    served = Served()
    served.figures.take(state(0.0))
    served.answers(5, busy_s=0.25)
    served.figures.take(state(1.0, watts=None))
    assert served.energy() == (None, None)
    served.answers(1, busy_s=0.1)
    served.figures.take(state(2.0))
    assert served.energy() == pytest.approx((1.0, 1.0))


def test_the_same_state_twice_counts_once():
    served = Served()
    served.figures.take(state(0.0))
    served.answers(1, busy_s=0.5)
    later = state(1.0)
    served.figures.take(later)
    served.answers(1, busy_s=0.5)
    served.figures.take(later)
    assert served.energy() == pytest.approx((5.0, 5.0))


def test_status_shows_it_for_people():
    board = wire.BoardStatistics(
        power_mode="15W", gpu_load=0.93, gpu_hz=306_000_000, gpu_limit_hz=612_000_000,
        temperatures_c={"gpu": 71.4}, rails_w={"VDD_IN": 9.87}, total_w=9.87,
        throttled=("gpu-clock",), pace=2.0, answers_j=100.0, answer_j=0.0123,
    )  # fmt: skip
    text = _parts(wire.StatisticsReply("s", board=board))[-1]
    assert text.splitlines() == [
        "board: power mode 15W, GPU load 93%, GPU clock 306 MHz, limit 612 MHz, power 9.9 W, "
        "0.0123 J an answer",
        "board: gpu 71 °C",
        "board: VDD_IN 9.9 W",
        "board: throttled: gpu-clock; batches are expected to take 2 times as long",
    ]
    assert _parts(wire.StatisticsReply("s"))[-1] == ""


def test_the_loop_hands_what_was_seen_to_the_front(monkeypatch, tmp_path):
    watch = SimpleNamespace(latest=state(1.0), close=lambda: None)
    monkeypatch.setattr("edged.daemon.loop.BoardWatch", lambda: watch)
    config = Config(store=str(tmp_path))
    bench = Bench()
    settings = worker_settings(config, ("flowers",))
    loop = Loop(config, Versions(bench.store), bench, settings, notifier=Notifier())
    loop._signals.listen()
    try:
        loop._on_time(time.monotonic() + SWEEP_S)
        assert loop._front._figures.board.report(1.0).power_mode == "25W"
    finally:
        loop._shut_down()

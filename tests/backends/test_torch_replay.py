"""Recordings of repeated runs, with a recorder that is a list."""

from __future__ import annotations

import threading

import pytest
import torch

from edged.backends.torch_replay import NotRecordable, Replays, Work


class Tape:
    """Replays of `y = 2 x`, and how often that was computed, recorded and replayed."""

    def __init__(self, *errors: Exception) -> None:
        """`errors`: of the first recordings."""
        self.errors = list(errors)
        self.computed = self.recorded = self.replayed = self.recorders = 0
        self.replays = Replays(torch.device("cpu"), self.recorder)
        self.memory = torch.zeros(1 << 16)

    def recorder(self):
        self.recorders += 1
        return self.record

    def record(self, work: Work) -> Work:
        if self.errors:
            raise self.errors.pop(0)
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            work()

        return replay

    def compute(self, inputs, outputs) -> None:
        self.computed += 1
        outputs[0].copy_(2 * inputs[0])

    def run(self, rows: int, block: str = "block", *, at: int = 0, width: int = 100) -> None:
        """`at`: where in memory the rows lie."""
        x, y = (
            self.memory[start : start + rows * width].view(rows, width)
            for start in (at, at + rows * width)
        )
        x.uniform_()
        y.zero_()
        self.replays.run(block, self.compute, [x], [y])
        assert torch.equal(y, 2 * x)


def test_a_run_is_recorded_when_it_comes_again_and_again() -> None:
    tape = Tape()
    for _ in range(5):
        tape.run(2)
    assert (tape.recorded, tape.replayed) == (1, 3)
    tape.run(1)
    assert tape.recorded == 1  # other rows are another run


def test_where_rows_stay_in_their_place_nothing_is_copied() -> None:
    tape = Tape()
    for _ in range(5):
        tape.run(2)
    assert tape.replayed == 3
    assert tape.replays.nbytes == 0


def test_rows_that_lie_elsewhere_each_time_are_copied() -> None:
    tape = Tape()
    for at in range(0, 60, 4):
        tape.run(2, at=at)
    assert (tape.recorded, tape.replayed) == (1, 13)
    assert tape.replays.nbytes == 2 * 1024  # two of 800 bytes, aligned


def test_rows_that_often_change_their_place_are_not_recorded_for_ever() -> None:
    tape = Tape()
    for at in range(0, 400, 4):
        for _ in range(3):
            tape.run(2, at=at)
    assert tape.recorded == 1 + 8
    assert tape.replayed == 300 - 2


def test_the_same_rows_of_another_shape_are_another_run() -> None:
    """A block may be used on images of several sizes."""
    tape = Tape()
    for _ in range(4):
        tape.run(2, width=100)
        tape.run(2, width=50)
    assert tape.recorded == 2


def test_what_cannot_be_recorded_is_computed() -> None:
    tape = Tape(*[NotRecordable("operation not permitted when stream is capturing")] * 9)
    for _ in range(5):
        tape.run(2)
    assert (tape.computed, tape.recorded, len(tape.errors)) == (5, 0, 8)  # tried once


def test_memory_that_is_full_once_does_not_end_recording() -> None:
    tape = Tape(torch.OutOfMemoryError("CUDA out of memory"))
    for _ in range(4):
        tape.run(2)
    assert tape.recorded == 0
    for _ in range(4):
        tape.run(2)
    assert tape.recorded == 1


def test_a_lost_device_is_not_taken_for_work_that_cannot_be_recorded() -> None:
    tape = Tape(RuntimeError("CUDA error: unspecified launch failure"))
    tape.run(2)
    tape.run(2)
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        tape.run(2)


def test_a_thread_computes_a_block_before_it_records_it() -> None:
    """Libraries of a GPU have handles for each thread, which they cannot make in a recording."""
    tape = Tape()
    for _ in range(2):
        tape.run(2)
    recorded = []

    def run() -> None:
        for _ in range(2):
            tape.run(2)
            recorded.append(tape.recorded)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert recorded == [0, 1]


def test_recordings_move_when_a_run_needs_more_room() -> None:
    tape = Tape()
    for number, rows in enumerate((1, 1, 1, 1, 8, 8, 8, 1, 1, 1)):
        tape.run(rows, at=4 * number)
    assert tape.recorded == 3
    assert tape.recorders == 2  # nothing was left of the first one's


def test_a_block_that_is_unloaded_is_forgotten() -> None:
    tape = Tape()
    for at in range(0, 16, 4):
        tape.run(1, "one", at=at)
        tape.run(1, "other", at=at)
    tape.replays.forget("one")
    assert tape.replays.nbytes  # of the other
    tape.run(1, "one")
    tape.run(1, "other")
    assert tape.replayed == 2 + 2 + 1
    assert tape.recorders == 1
    tape.replays.forget("other")
    assert tape.replays.nbytes == 0

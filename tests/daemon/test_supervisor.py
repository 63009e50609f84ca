"""When the next worker is started, with processes that are none."""

from __future__ import annotations

import logging
import os
import select
import types
from typing import Any

import pytest

from edged.config import Config
from edged.daemon import supervisor as module
from edged.daemon.supervisor import GONE_S, Supervisor, WorkerChannel
from edged.device.settings import Settings
from edged.systemd import Notifier


class Process:
    """A worker's process, which ends when the test says so."""

    started: list[Process]

    def __init__(self, settings: Settings) -> None:
        self.pid = 100 + len(self.started)
        self.started.append(self)
        self.ended = False
        self.death_fd, self._end = os.pipe()
        self.receiver = types.SimpleNamespace(descriptor=os.dup(self.death_fd))
        self.sender = types.SimpleNamespace(descriptor=os.dup(self._end))

    def alive(self) -> bool:
        return not self.ended

    def kill(self) -> None:
        """A driver holds it."""

    def let_go(self) -> None:
        for descriptor in (
            self.death_fd, self._end, self.receiver.descriptor, self.sender.descriptor
        ):  # fmt: skip
            os.close(descriptor)


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """One whose first worker has hung, at time 0."""
    Process.started = []
    monkeypatch.setattr(module, "WorkerProcess", Process)
    late: list[str] = ["the device worker makes no progress"]
    outstanding = types.SimpleNamespace(
        begin=lambda now: None,
        is_any=False,
        progress_at=lambda now: now,
        verdict=lambda now: late.pop() if late else None,
        late_batch=lambda now: 7,
    )
    front: Any = types.SimpleNamespace(
        outstanding=outstanding,
        worker_budget_bytes=lambda: 0,
        worker_models=dict,
        on_worker_lost=lambda *_, **__: None,
    )
    made = Supervisor(
        Config(), Settings("store", "cache"), front, WorkerChannel(select.poll()), Notifier(),
        lambda: None,
    )  # fmt: skip
    made.start(0.0)
    made._was_ready = True
    made.sweep(0.0, is_serving=False)
    return made


def until(supervisor: Supervisor, now: float) -> int:
    """Let time pass; the workers that have been started by then."""
    while supervisor.wakeup_at <= now:
        supervisor.on_time(supervisor.wakeup_at)
    return len(Process.started)


def test_the_next_worker_waits_until_the_last_one_is_gone(supervisor: Supervisor) -> None:
    """What was killed may be held by a driver, with its memory on the device."""
    assert until(supervisor, 5.0) == 1
    Process.started[0].ended = True
    assert until(supervisor, 5.2) == 2


def test_it_does_not_wait_for_ever(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        assert until(supervisor, GONE_S - 0.2) == 1
        assert until(supervisor, GONE_S + 0.2) == 2
    assert "worker process 100 has not ended in 30 s though it was killed" in caplog.text

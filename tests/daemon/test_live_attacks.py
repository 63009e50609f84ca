"""Clients that keep to no rule, beside one that does: its answers come, each once, and right."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edged.budget import footprint
from edged.client import Client
from edged.errors import EdgedError
from tests.colors import picture
from tests.daemon.live import PATIENCE_S, Daemon, until

SECONDS = 3.0
MIB = 1 << 20


class Innocent(threading.Thread):
    """Asks ten times a second, each time for another colour, and checks each answer."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._is_over = threading.Event()
        self.took_s: list[float] = []
        self.errors: list[EdgedError] = []
        self.wrong = self.asked = 0

    def run(self) -> None:
        with Client(self._endpoint, timeout_s=5.0) as client:
            while not self._is_over.wait(0.1):
                self.asked += 1
                color = (self.asked % 251, 7 * self.asked % 241, 13 * self.asked % 239)
                try:
                    result = client.infer(picture(*color), ["color"])
                except EdgedError as error:
                    self.errors.append(error)
                    continue
                self.took_s.append(result.round_trip_s)
                found = result["color"].tensor[0]
                self.wrong += not np.allclose(found, np.array(color) / 255, atol=1e-5)

    def __enter__(self) -> Innocent:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self.join(PATIENCE_S)


@contextlib.contextmanager
def peak_of(daemon: Daemon) -> Iterator[Callable[[], int]]:
    """The largest memory of the front while it is watched, in bytes."""
    peak, is_over = [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            peak[0] = max(peak[0], footprint(daemon.process.pid).pss_bytes)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield lambda: peak[0]
    finally:
        is_over.set()
        watching.join()


def attack(daemon: Daemon, name: str) -> None:
    command = [sys.executable, "-m", "tools.bench.attackers", name, daemon.endpoint]
    subprocess.run(
        ["nice", "-n", "19", *command, "--task", "color", "--seconds", str(SECONDS)],
        check=True,
        timeout=PATIENCE_S,
    )


@pytest.fixture
def daemon(start: Callable[..., Daemon]) -> Daemon:
    daemon = start(settings=f"[memory]\nbudget_bytes = {600 * MIB}\n")
    daemon.wait_for("ready: ")
    return daemon


@pytest.mark.parametrize(
    "name", ["unfinished", "held", "frames", "unread", "large", "region", "connections"]
)
def test_an_attack_costs_others_no_answer_and_the_front_little_memory(
    daemon: Daemon, name: str
) -> None:
    with Innocent(daemon.endpoint) as innocent, peak_of(daemon) as peak:
        attack(daemon, name)
    assert not innocent.errors
    assert innocent.wrong == 0
    assert len(innocent.took_s) == innocent.asked > 5
    assert max(innocent.took_s) < 2.0
    assert peak() < 300 * MIB
    assert daemon.stop() == 0


def test_a_daemon_short_of_descriptors_lets_nobody_else_in_and_stays(
    start: Callable[..., Daemon],
) -> None:
    daemon = start(under=["prlimit", "--nofile=80:80"])
    daemon.wait_for("ready: ")
    path = daemon.endpoint.removeprefix("ipc://")
    with Innocent(daemon.endpoint) as innocent, contextlib.ExitStack() as held:
        until(lambda: len(innocent.took_s) > 1)
        waiting = 0
        while waiting < 50:
            one = held.enter_context(socket.socket(socket.AF_UNIX))
            one.setblocking(False)
            try:
                one.connect(path)
            except BlockingIOError:
                waiting += 1
                time.sleep(0.001)
        daemon.wait_for("nobody else is let in")
        daemon.worker().kill()  # for another one there are descriptors
        until(lambda: daemon.log().count("ready: ") == 2)
        answered = len(innocent.took_s)
        until(lambda: len(innocent.took_s) > answered)
    with Client(daemon.endpoint) as client:  # there is room again
        assert client.live()
    assert not innocent.errors
    assert innocent.wrong == 0
    assert len(innocent.took_s) == innocent.asked
    assert daemon.stop() == 0

"""Messages to the service manager: real datagrams, and the watchdog in virtual time."""

from __future__ import annotations

import math
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edged.systemd import Notifier, Watchdog, state_directory
from tests.colors import write_store


@pytest.fixture
def manager(tmp_path):
    """The service manager's end of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5.0)
        yield receiver


def told(receiver: socket.socket) -> list[str]:
    return receiver.recv(4096).decode().split("\n")


@pytest.mark.parametrize(
    ("say", "heard"),
    [
        (lambda n: n.ready(), ["READY=1"]),
        (lambda n: n.status("serving 2 models"), ["STATUS=serving 2 models"]),
        (lambda n: n.starting(within_s=300), ["EXTEND_TIMEOUT_USEC=300000000"]),
        (lambda n: n.stopping(within_s=1.5), ["STOPPING=1", "EXTEND_TIMEOUT_USEC=1500000"]),
        (lambda n: n.alive(), ["WATCHDOG=1"]),
    ],
)
def test_each_state_is_one_datagram(manager, say, heard):
    say(Notifier({"NOTIFY_SOCKET": manager.getsockname()}))
    assert told(manager) == heard


def test_a_reason_of_many_lines_cannot_be_taken_for_another_state(manager):
    Notifier({"NOTIFY_SOCKET": manager.getsockname()}).status("it failed:\nREADY=1")
    assert told(manager) == ["STATUS=it failed: READY=1"]


def test_an_abstract_socket_is_reached():
    name = f"edged-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        receiver.settimeout(5.0)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert told(receiver) == ["READY=1"]


@pytest.mark.parametrize(
    "environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/notify"}]
)
def test_without_a_manager_nothing_happens(environment):
    Notifier(environment).ready()


def test_a_manager_that_does_not_read_never_blocks_the_daemon(manager):
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    room = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for _ in range(2 * room + 2):
        notifier.alive()
    assert told(manager) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    ("environment", "period_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "2000000"}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),  # meant for another process
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_only_when_this_process_is_asked_to(environment, period_s):
    assert Notifier(environment).watchdog_s == period_s


class TestWatchdog:
    def test_is_fed_well_within_its_period_while_nobody_waits(self):
        watchdog = Watchdog(period_s=4.0, patience_s=10.0)
        fed = [t for t in range(100) if watchdog.due(t / 4, busy=False, progress_at=-1e9)]
        assert fed == list(range(0, 100, 4))  # each second
        assert watchdog.ask_at == 25.0

    def test_starves_when_work_waits_and_nothing_gets_done(self):
        watchdog = Watchdog(period_s=4.0, patience_s=10.0)
        fed = [t for t in range(20) if watchdog.due(t, busy=True, progress_at=0.0)]
        assert fed == list(range(11))

    def test_a_stall_that_ends_just_in_time_misses_no_deadline(self):
        watchdog = Watchdog(period_s=4.0, patience_s=10.0)
        assert watchdog.due(10.0, busy=True, progress_at=0.0)
        assert not watchdog.due(11.0, busy=True, progress_at=0.0)
        asked_again = watchdog.ask_at
        assert asked_again is not None
        assert asked_again < 10.0 + 4.0
        assert watchdog.due(asked_again, busy=True, progress_at=asked_again)

    def test_asks_for_no_wakeup_while_it_starves_but_the_next_one(self):
        watchdog = Watchdog(period_s=4.0, patience_s=10.0)
        assert not watchdog.due(30.0, busy=True, progress_at=0.0)
        assert watchdog.ask_at == 31.0  # the loop must not spin

    def test_does_nothing_where_there_is_none(self):
        watchdog = Watchdog(period_s=None, patience_s=10.0)
        assert not watchdog.due(0.0, busy=False, progress_at=0.0)
        assert watchdog.ask_at == math.inf


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({}, None),
        ({"STATE_DIRECTORY": ""}, None),
        ({"STATE_DIRECTORY": "/var/lib/edged"}, "/var/lib/edged"),
        ({"STATE_DIRECTORY": "/var/lib/edged:/var/lib/other"}, "/var/lib/edged"),
    ],
)
def test_the_state_directory_is_the_first_one_that_the_unit_names(environment, directory):
    assert state_directory(environment) == directory


@pytest.fixture
def daemon(tmp_path, manager):
    """The real daemon under a service manager that is this test, with a watchdog of 2 s."""
    write_store(tmp_path / "store")
    config = tmp_path / "edged.toml"
    config.write_text(
        f'store = "{tmp_path}/store"\n'
        f'server.endpoints = ["ipc://{tmp_path}/edged.sock"]\n'
        f'device = {{ threads = 1, prepare_threads = 1, cache_dir = "{tmp_path}/cache" }}\n'
    )
    told = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "2000000"}
    manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    process = subprocess.Popen(
        [sys.executable, "-m", "edged", "serve", "--config", config], env=os.environ | told
    )
    yield process
    process.kill()
    process.wait()


def test_the_daemon_is_ready_when_warm_feeds_the_watchdog_and_says_that_it_stops(daemon, manager):
    manager.settimeout(30.0)
    assert next_from(daemon, manager) == ["EXTEND_TIMEOUT_USEC=310000000"]
    serving = "STATUS=serving 2 models on cpu, 1 threads"
    heard = until(daemon, manager, serving)
    on_the_way = ("WATCHDOG=1", "EXTEND_TIMEOUT_USEC=310000000", "STATUS=loading model ")
    assert [s for s in heard if not s.startswith(on_the_way)] == ["READY=1", serving]
    until(daemon, manager, "WATCHDOG=1")
    began_s = time.monotonic()
    until(daemon, manager, "WATCHDOG=1")
    assert time.monotonic() - began_s < 2.0
    daemon.terminate()
    until(daemon, manager, "STOPPING=1")
    assert daemon.wait(30.0) == 0


def until(daemon, manager, state) -> list[str]:
    """The daemon's messages, up to and including `state`."""
    heard: list[str] = []
    while state not in heard:
        heard += next_from(daemon, manager)
    return heard


def next_from(daemon, manager) -> list[str]:
    """The daemon's next datagram; nobody else may send one."""
    data, (credentials,), _, _ = manager.recvmsg(4096, socket.CMSG_SPACE(12))
    pid, _, _ = struct.unpack("3i", credentials[2])
    assert pid == daemon.pid
    return data.decode().split("\n")

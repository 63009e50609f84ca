"""Who may come in: sockets with their permissions, and nothing of another account in the way."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from edged.daemon.endpoint import Endpoint
from edged.daemon.peers.door import Door, allow_descriptors
from edged.daemon.peers.listening import Bind, listen
from edged.endpoints import Ipc, parse
from edged.errors import Unavailable
from edged.wire import Limits


@pytest.fixture
def bind() -> Iterator[Bind]:
    """The daemon's own way of binding."""
    with zmq.Context() as context:
        endpoint = Endpoint(lambda: context.socket(zmq.ROUTER), Limits())
        door = Door(allow_descriptors())
        yield lambda address, mode: door.bind(endpoint, address, mode)
        door.close()
        endpoint.close(linger=0)


def permissions(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
def test_a_socket_has_its_permissions_when_it_is_bound(tmp_path, bind, monkeypatch, mode):
    seen_with = []
    rename = os.rename

    def watched(old, new):  # to where clients look for it
        seen_with.append(permissions(old))
        rename(old, new)

    monkeypatch.setattr(os, "rename", watched)
    before = os.umask(0o022)
    try:
        (lock,) = listen(bind, Ipc(f"{tmp_path}/s.sock"), mode)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    os.close(lock)
    assert seen_with == [mode]
    assert permissions(tmp_path / "s.sock") == mode
    assert permissions(tmp_path / "s.sock.lock") == 0o600


def test_the_last_directory_is_made_and_no_other(tmp_path, bind):
    (lock,) = listen(bind, Ipc(f"{tmp_path}/new/s.sock"), 0o660)
    os.close(lock)
    assert permissions(tmp_path / "new") & 0o777 == 0o755 & ~current_umask()
    with pytest.raises(Unavailable, match="make its directory first"):
        listen(bind, Ipc(f"{tmp_path}/a/b/s.sock"), 0o660)


def current_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_a_second_daemon_is_refused(tmp_path, bind):
    (lock,) = listen(bind, Ipc(f"{tmp_path}/s.sock"), 0o660)
    with pytest.raises(Unavailable, match="another daemon does"):
        listen(bind, Ipc(f"{tmp_path}/s.sock"), 0o660)
    os.close(lock)


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "foreign"])
def test_a_lock_that_is_not_the_daemons_is_not_taken(tmp_path, bind, kind):
    path, elsewhere = tmp_path / "s.sock.lock", tmp_path / "elsewhere"
    if kind == "symlink":
        path.symlink_to(elsewhere)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        if os.geteuid() != 0:
            pytest.skip("only root can make a file of another account")
        path.touch()
        os.chown(path, 65534, 65534)
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Unavailable, match=r"s\.sock\.lock"):
        listen(bind, Ipc(f"{tmp_path}/s.sock"), 0o660)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not elsewhere.exists()
    assert not (tmp_path / "s.sock").exists()


def test_a_directory_that_everybody_may_write_is_told_of(tmp_path, bind, caplog):
    tmp_path.chmod(0o777)
    (lock,) = listen(bind, Ipc(f"{tmp_path}/s.sock"), 0o660)
    os.close(lock)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "every account may write" in caplog.text


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_loopback_is_listened_at_and_says_who_may_connect(bind, caplog, host):
    caplog.set_level(logging.INFO)
    family = socket.AF_INET6 if host == "[::1]" else socket.AF_INET
    with socket.socket(family) as free:
        try:
            free.bind((host.strip("[]"), 0))
        except OSError as error:
            pytest.skip(f"this machine has no {host}: {error}")
        port = free.getsockname()[1]
    assert listen(bind, parse(f"tcp://{host}:{port}"), 0o660) == []
    assert "every account of this machine may connect" in caplog.text
    with socket.create_connection((host.strip("[]"), port), timeout=10):
        pass

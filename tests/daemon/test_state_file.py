"""What administrators said, on the disk: whole at any time, and set aside where it is damaged."""

from __future__ import annotations

import json
import os

import pytest

from edged.config import decode
from edged.daemon.models.instructions import Said
from edged.daemon.models.state_file import NAME, StateFile, state_dir

SAID = Said(frozenset({"flowers", "food"}), frozenset({"birds"}))


def test_what_was_said_is_read_again(tmp_path):
    directory = tmp_path / "state"
    assert StateFile(directory).read() == Said()
    StateFile(directory).write(SAID)
    assert StateFile(directory).read() == SAID
    StateFile(directory).write(Said())
    assert StateFile(directory).read() == Said()
    assert os.listdir(directory) == [NAME]


def test_without_a_directory_nothing_is_kept():
    StateFile(None).write(SAID)
    assert StateFile(None).read() == Said()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"null",
        b'{"schema": 2, "said": {"what": "comes later"}}',
        b'{"schema": 1, "said": {"pinned": [7]}}',
        b'{"schema": 1, "said": {"pinned": ["../x"]}}',
        b'{"schema": 1, "said": {}, "more": 1}',
        b'{"schema": 1, "said": {"pinned": ["a"]}}'.ljust(2 << 20),
    ],
    ids=lambda text: repr(text[:40]),
)
def test_a_damaged_file_is_set_aside_with_a_warning(tmp_path, text, caplog):
    path = tmp_path / NAME
    path.write_bytes(text)
    state = StateFile(tmp_path)
    assert state.read() == Said()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{path} cannot be read" in record.message
    assert (tmp_path / f"{NAME}.unreadable").read_bytes() == text
    state.write(SAID)
    assert state.read() == SAID


def test_a_write_that_fails_leaves_the_file_as_it_was_and_is_logged(tmp_path, monkeypatch, caplog):
    state = StateFile(tmp_path)
    state.write(SAID)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    state.write(Said())
    assert state.read() == SAID
    assert os.listdir(tmp_path) == [NAME]
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "No space left on device" in record.message


def test_a_directory_that_cannot_be_made_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").touch()
    state = StateFile(tmp_path / "file" / "state")
    assert state.read() == Said()
    state.write(SAID)
    assert {record.levelname for record in caplog.records} == {"WARNING", "ERROR"}


def test_the_file_is_plain_json(tmp_path):
    StateFile(tmp_path).write(SAID)
    assert json.loads((tmp_path / NAME).read_bytes()) == {
        "schema": 1,
        "said": {"pinned": ["flowers", "food"], "unloaded": ["birds"]},
    }


def test_the_directory_is_the_configurations_or_the_one_that_systemd_gives(monkeypatch):
    named = decode(b'[server]\nstate_dir = "/srv/state"')
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert (state_dir(named), state_dir(decode(b""))) == ("/srv/state", None)
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/edged")
    assert (state_dir(named), state_dir(decode(b""))) == ("/srv/state", "/var/lib/edged")

"""Log records: lines with times, lines with priorities, and entries with fields for the journal."""

from __future__ import annotations

import io
import logging
import os
import re
import select
import socket
import subprocess
import sys

import pytest

from edged.logs import (
    JournalFormatter,
    JournalHandler,
    PriorityStream,
    TimedFormatter,
    is_journal,
)


def record(level: int, text: str, *args: object, **fields: object) -> logging.LogRecord:
    return logging.getLogger("edged").makeRecord(
        "edged", level, __file__, 1, text, args, None, extra=fields
    )


def test_lines_for_the_journal_begin_with_their_priority():
    def line(level: int, text: str) -> str:
        return JournalFormatter().format(record(level, text))

    assert line(logging.CRITICAL, "it is over") == "<2>it is over"
    assert line(logging.ERROR, "it hung") == "<3>it hung"
    assert line(logging.WARNING, "one\ntwo") == "<4>one\n<4>two"
    assert line(logging.INFO, "ready") == "<6>ready"
    assert line(logging.DEBUG, "tick") == "<7>tick"


def test_lines_without_a_journal_begin_with_the_time_in_utc():
    one = record(logging.ERROR, "it hung")
    one.created, one.msecs = 1_796_070_918.9996, 999.6
    assert TimedFormatter().format(one) == "2026-11-30T20:35:18.999Z edged: ERROR: it hung"


def test_the_journal_is_told_from_a_terminal_a_file_and_a_closed_stream(tmp_path):
    with (tmp_path / "log").open("w") as file:
        status = os.fstat(file.fileno())
        stream = f"{status.st_dev}:{status.st_ino}"
        assert is_journal(file, {"JOURNAL_STREAM": stream})
        assert not is_journal(file, {"JOURNAL_STREAM": "1:2"})
        assert not is_journal(file, {})
    assert not is_journal(file, {"JOURNAL_STREAM": stream})


def test_what_is_printed_gets_a_priority_on_each_line():
    raw = io.StringIO()
    stream = PriorityStream(raw, priority=3)
    for text in ("usage: ed", "ged\nedged: err", "or\n", "", "\n"):
        print(text, end="", file=stream)
    assert raw.getvalue() == "<3>usage: edged\n<3>edged: error\n<3>\n"


# --- entries with fields ------------------------------------------------------------------------


class Journal:
    """The journal's end of its socket, and what a handler sends there."""

    def __init__(self, path):
        self._receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._receiver.bind(str(path))
        self._receiver.settimeout(5.0)
        self.lines = io.StringIO()
        otherwise = logging.StreamHandler(self.lines)
        otherwise.setFormatter(JournalFormatter())
        self.handler = JournalHandler(otherwise, path)
        assert self._receiver.recv(100) == b"\n"  # so that the journal knows the process

    def entry(self) -> dict[str, str]:
        """The next one, as systemd.io/JOURNAL_NATIVE_PROTOCOL says to read it."""
        data, fields = self._receiver.recv(1 << 20), {}
        while data:
            line, _, data = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                size, data = int.from_bytes(data[:8], "little"), data[8:]
                value, data = data[:size], data[size + 1 :]
            fields[name.decode()] = value.decode()
        return fields

    def has_more(self) -> bool:
        return bool(select.select([self._receiver], [], [], 0)[0])

    def close(self) -> None:
        self.handler.close()
        self._receiver.close()


@pytest.fixture
def journal(tmp_path):
    found = Journal(tmp_path / "journal")
    yield found
    found.close()


def test_an_entry_has_the_fields_that_a_record_names(journal):
    fields = {"model": "flowers", "client": 7, "other": "is no field"}
    journal.handler.handle(record(logging.WARNING, "model %s does not fit", "flowers", **fields))
    assert journal.entry() == {
        "MESSAGE": "model flowers does not fit",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "edged",
        "EDGED_MODEL": "flowers",
        "EDGED_CLIENT": "7",
    }


def test_a_traceback_is_one_entry_and_no_text_can_be_taken_for_a_field(journal):
    text = "it failed\nPRIORITY=7\n\nTraceback \udcff"
    journal.handler.handle(record(logging.ERROR, text))
    entry = journal.entry()
    assert entry["MESSAGE"] == text.replace("\udcff", "\\udcff")
    assert entry["PRIORITY"] == "3"


def test_what_the_journal_does_not_take_goes_to_standard_error(journal):
    journal.handler.handle(record(logging.ERROR, "x" * (4 << 20)))
    assert journal.lines.getvalue() == f"<3>{'x' * (4 << 20)}\n"
    journal.close()
    journal.lines.truncate(0)
    journal.handler.handle(record(logging.WARNING, "and when it has gone"))
    assert journal.lines.getvalue().lstrip("\0") == "<4>and when it has gone\n"


def test_a_journal_that_stands_still_holds_up_nobody_and_is_told_later_how_much_was_lost(journal):
    records = 5000  # more than any queue of a socket has
    for number in range(records):
        journal.handler.handle(record(logging.INFO, f"record {number}"))
    assert journal.lines.getvalue() == ""
    received = 0
    while journal.has_more():
        assert journal.entry()["MESSAGE"] == f"record {received}"
        received += 1
    assert received < records
    journal.handler.handle(record(logging.INFO, "it moves again"))
    loss = journal.entry()
    lost = records - received
    assert loss["MESSAGE"] == f"{lost} log records were lost while the journal was busy"
    assert loss["PRIORITY"] == "4"
    assert journal.entry()["MESSAGE"] == "it moves again"


# --- the daemon's own ---------------------------------------------------------------------------

_BEGIN = """
import logging, os, sys
status = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
from edged import logs
from pathlib import Path
logs.JOURNAL = Path("/nonexistent")
"""


def said(script: str) -> str:
    """What a process that takes its standard error for the journal's writes there."""
    command = [sys.executable, "-c", _BEGIN + script]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60).stderr


def test_a_mistake_on_the_command_line_of_serve_has_a_priority_in_the_journal():
    lines = said("from edged.cli import main; main(['serve', '--confg', 'x'])").splitlines()
    assert lines[-1] == "<3>edged: error: unrecognized arguments: --confg x"
    assert all(line.startswith("<3>") for line in lines)


def test_the_last_words_of_a_start_that_fails_have_a_priority_in_the_journal():
    script = "from edged.cli import main; main(['serve', '--config', '/nonexistent'])"
    assert said(script).startswith("<3>/nonexistent: No such file")


def test_a_traceback_has_a_priority_on_each_line():
    lines = said("logs.begin(); 1 / 0").splitlines()
    assert lines[0] == "<3>Traceback (most recent call last):"
    assert all(line.startswith("<3>") for line in lines)


def test_the_level_can_be_changed_after_the_beginning():
    script = "logs.begin(); logs.begin('error'); log = logging.getLogger('edged')"
    assert said(f"{script}; log.warning('no'); log.error('yes')") == "<3>yes\n"


def test_without_a_journal_the_last_words_have_a_time():
    command = [sys.executable, "-m", "edged", "serve", "--config", "/nonexistent"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z edged: ERROR: /nonexistent: No such .*\n",
        done.stderr,
    )
    assert done.returncode == 2

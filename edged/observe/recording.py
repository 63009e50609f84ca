"""A live run as a file: every event with its time and the commands that it led to, one JSON a line.

The scheduler is pure, so a fresh one that is told the same gives the same orders: `replay` checks
that. A bug seen in the field becomes such a file in tests/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from edged.core.events import Command, Event
from edged.core.scheduler import Scheduler
from edged.core.settings import Memory, Settings
from edged.errors import EdgedError, InvalidArgument
from edged.typeinfo import describe

VERSION = 1


class RecordingHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    recording: int
    settings: Settings
    memory: Memory = Memory()


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One call of the scheduler."""

    at: float
    event: Event
    commands: list[Command]


class Mismatch(EdgedError):
    """The scheduler decides otherwise than it did when the recording was made."""


class Recorder:
    """An observer that writes a recording; `file` is the caller's to close."""

    def __init__(self, file: TextIO, settings: Settings, memory: Memory | None = None) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()
        self._write(RecordingHeader(VERSION, settings, memory or Memory()))

    def turn(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        self._write(Turn(now, event, list(commands)))

    def _write(self, line: msgspec.Struct) -> None:
        self._file.write(self._encoder.encode(line).decode() + "\n")


def turns(path: Path) -> Iterator[Turn]:
    """The turns of a recording. Raises InvalidArgument for a file that is none.

    A last line that was cut off by a crash is left out.
    """
    return _read(path)[1]


def replay(path: Path) -> int:
    """Drive a fresh scheduler by the recording; the number of turns, all of them identical.

    Raises Mismatch at the first turn that differs, InvalidArgument for a file that is no recording.
    """
    header, recorded = _read(path)
    scheduler = Scheduler(header.settings, header.memory)
    count = 0
    for count, turn in enumerate(recorded, start=1):
        commands = scheduler.handle(turn.event, turn.at)
        if commands != turn.commands:
            raise Mismatch(
                f"{path}, line {count + 1}: {turn.event} at {turn.at} led to {turn.commands} "
                f"then and to {commands} now"
            )
    return count


def _read(path: Path) -> tuple[RecordingHeader, Iterator[Turn]]:
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read: {error.strerror}") from error
    try:
        header = msgspec.json.decode(lines[0] if lines else b"", type=RecordingHeader)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{path} is not a recording of edged: {error}") from error
    if header.recording != VERSION:
        raise InvalidArgument(
            f"{path} is a recording of version {header.recording}, this edged reads {VERSION}"
        )
    whole = [line for line in lines[1:] if line.endswith(b"\n")]
    return header, (_decode(line, path, number) for number, line in enumerate(whole, start=2))


def _decode(line: bytes, path: Path, number: int) -> Turn:
    try:
        return msgspec.json.decode(line, type=Turn)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{path}, line {number}: {error}") from error


describe(RecordingHeader, Turn)

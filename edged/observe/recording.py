"""A live run as a file: every event with its time and the commands that it led to.

The scheduler is pure, so a fresh one that is told the same gives the same orders: `replay` checks
that. A bug seen in the field becomes such a file in tests/recordings/.

A recording is JSON lines, plain or compressed by gzip. The first line is the header, a map. Every
other line is a Turn, the array `[at, event, commands]`; an event or a command is an array of its
tag and its fields in the order of its class. The names of classes and fields are therefore no part
of the format: renaming them, or adding a field with a default at the end, changes nothing.

Every other change of the header, the events or the commands makes a new version of the format. To
add version 5: raise VERSION, write a function that turns the header or a turn of version 4, as
plain JSON values, into those of version 5, and let `_read` apply it where the header says 4, as the
functions for older versions are applied. The recordings in tests/ stay as they were made, so they
test it.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

import msgspec

from edged.core.events import Command, Event
from edged.core.scheduler import Scheduler
from edged.core.settings import MemorySettings, SchedulerSettings
from edged.errors import EdgedError, InvalidArgument
from edged.policies import find
from edged.typeinfo import describe

log = logging.getLogger("edged")

VERSION = 4
OLDEST = 2  # the oldest version that is read

_GZIP = b"\x1f\x8b"  # the first bytes of a compressed file


class _Version(msgspec.Struct, frozen=True):
    """The part of the header that every version has."""

    recording: int


class RecordingHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    recording: int
    settings: SchedulerSettings
    memory: MemorySettings = MemorySettings()


class Turn(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One call of the scheduler."""

    at: float
    event: Event
    commands: list[Command]


class Mismatch(EdgedError):
    """The scheduler decides otherwise than it did when the recording was made."""


class Recorder:
    """An observer that writes a recording; `file` is the caller's to close.

    A recording that cannot be written on, because the disk is full, ends with a word in the log.
    """

    def __init__(
        self, file: TextIO, settings: SchedulerSettings, memory: MemorySettings | None = None
    ) -> None:
        self._file: TextIO | None = file
        self._encoder = msgspec.json.Encoder()
        self._write(RecordingHeader(VERSION, settings, memory or MemorySettings()))

    def turn(self, now: float, event: Event, commands: Sequence[Command]) -> None:
        self._write(Turn(now, event, list(commands)))

    def _write(self, line: msgspec.Struct) -> None:
        if self._file is None:
            return
        try:
            self._file.write(self._encoder.encode(line).decode() + "\n")
        except OSError as error:
            self._file = None
            log.error("the recording ends here: it cannot be written: %s", error.strerror)


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
    scheduler = Scheduler(header.settings, header.memory, find(header.settings.policy))
    count = 0
    for count, turn in enumerate(recorded, start=1):
        commands = scheduler.handle(turn.event, turn.at)
        if commands != turn.commands:
            raise Mismatch(f"{path}, line {count + 1}: {_difference(turn, commands)}")
    return count


def _difference(turn: Turn, commands: list[Command]) -> str:
    """The first command that is not as it was."""
    pairs = enumerate(zip_longest(turn.commands, commands), start=1)
    number, (then, now) = next((n, pair) for n, pair in pairs if pair[0] != pair[1])
    return (
        f"command {number} of {len(turn.commands)} was {then or 'not there'} "
        f"and is {now or 'not there'} now, after {turn.event} at {turn.at}"
    )


def _read(path: Path) -> tuple[RecordingHeader, Iterator[Turn]]:
    lines = _content(path).splitlines(keepends=True)
    try:
        version = msgspec.json.decode(lines[0] if lines else b"", type=_Version).recording
        if not OLDEST <= version <= VERSION:
            raise InvalidArgument(
                f"{path} is a recording of version {version} and this edged reads versions "
                f"{OLDEST} to {VERSION}: replay it with the edged that made it"
            )
        said = msgspec.json.decode(lines[0])
        header = msgspec.convert(_from_version_2(said) if version == 2 else said, RecordingHeader)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{path} is not a recording of edged: {error}") from error
    whole = enumerate((line for line in lines[1:] if line.endswith(b"\n")), start=2)
    return header, (_decode(line, version, path, number) for number, line in whole)


def _from_version_2(header: Any) -> Any:
    """The same header without the table of what the policies smooth* assume. How they measure the
    load stands behind the policy's name since version 3, and the other times are measured."""
    settings = dict(header["settings"])
    table = settings.pop("smooth", {})
    if settings["policy"].startswith("smooth"):
        load = {key: table[key] for key in ("window_s", "beat_s") if key in table}
        given = ",".join(f"{key}={seconds}" for key, seconds in load.items())
        settings["policy"] += f":{given}" if given else ""
    return {**header, "settings": settings}


def _from_version_3(turn: Any) -> Any:
    """The same turn, where a device that comes up does not say which blocks have failed before: no
    driver has ever said it."""
    match turn:
        case [at, ["device-up", costs, lanes, resident, overhead, _, *rest], commands]:
            return [at, ["device-up", costs, lanes, resident, overhead, *rest], commands]
    return turn


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read: {error.strerror}") from error
    if not content.startswith(_GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidArgument(f"{path}: cannot be decompressed: {error}") from error


def _decode(line: bytes, version: int, path: Path, number: int) -> Turn:
    try:
        if version < 4:
            return msgspec.convert(_from_version_3(msgspec.json.decode(line)), Turn)
        return msgspec.json.decode(line, type=Turn)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"{path}, line {number}: {error}") from error


describe(_Version, RecordingHeader, Turn)

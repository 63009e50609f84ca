"""What administrators said of models, in a file that outlives a restart of the daemon.

The file is replaced by one rename, so it is whole at any time. One that cannot be read is set
aside with a warning, and the daemon starts as if nothing had been said.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path

import msgspec

from edged.config import Config
from edged.daemon.models.instructions import Instructions, Said
from edged.systemd import state_directory
from edged.typeinfo import describe

log = logging.getLogger("edged")

SCHEMA = 1  # raised when an older daemon could misread the file
NAME = "administration.json"
_ASIDE = ".unreadable"
_MAX_BYTES = 1 << 20  # more names than any store has


def state_dir(config: Config) -> str | None:
    """Where what administrators say is kept; None: nowhere."""
    return config.server.state_dir or state_directory()


def instructions_of(config: Config) -> Instructions:
    """The pins of the configuration, and what administrators said before this start."""
    return Instructions(config.memory.pinned, StateFile(state_dir(config)))


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    said: Said


class _Schema(msgspec.Struct, frozen=True):
    schema: int


class StateFile:
    """The file in `directory`; with None as the directory, nothing is kept."""

    def __init__(self, directory: str | os.PathLike[str] | None) -> None:
        self._path = None if directory is None else Path(directory) / NAME

    def read(self) -> Said:
        """What was said before; nothing where no file is, or none that can be read."""
        if self._path is None:
            return Said()
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError:
            return Said()
        except OSError as error:
            self._set_aside(str(error.strerror))
            return Said()
        try:
            return _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
            self._set_aside(str(error))
            return Said()

    def write(self, said: Said) -> None:
        """Make it durable. A failure is logged: what was said is done all the same."""
        if self._path is None:
            return
        try:
            _replace(self._path, msgspec.json.encode(_File(SCHEMA, said), order="deterministic"))
        except OSError as error:
            log.error(
                "%s cannot be written (%s): the next start forgets what administrators said",
                self._path,
                error.strerror,
            )

    def _set_aside(self, why: str) -> None:
        assert self._path is not None
        aside = self._path.with_name(NAME + _ASIDE)
        log.warning(
            "what administrators said before is forgotten: %s cannot be read (%s); it is now %s",
            self._path,
            why,
            aside,
        )
        with contextlib.suppress(OSError):  # the next write says what is wrong with the directory
            os.replace(self._path, aside)


def _decode(data: bytes) -> Said:
    """Raises ValueError, or msgspec.DecodeError which is one."""
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES} bytes")
    schema = msgspec.json.decode(data, type=_Schema).schema
    if schema != SCHEMA:
        raise ValueError(f"it has schema {schema}, and this edged reads {SCHEMA}")
    return msgspec.json.decode(data, type=_File).said


def _replace(path: Path, data: bytes) -> None:
    """Write `path` so that even a power failure leaves it absent, as it was, or complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{NAME}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


describe(_File, _Schema)

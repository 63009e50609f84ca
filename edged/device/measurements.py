"""What was measured of blocks and models on this host, kept beside the prepared blocks.

A file for each block and each path of blocks, named by all that its figures depend on. A file that
is missing, cannot be read or is of another form is something that is not known yet: it is measured
again. Knows no backend and measures nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from edged.backends.prepared import processor
from edged.manifest import Manifest
from edged.typeinfo import describe

log = logging.getLogger("edged.device")

_SCHEMA = 1  # of the files; raised when an older one would be misread
_ENDING = ".measured"
_KEEP_S = 30 * 86_400.0  # a file that no start has read for so long is removed

# What is larger than any device, and any time that somebody would wait, was not measured.
_MOST_BYTES = 2**40
_MOST_US = 3_600_000_000  # an hour
_MOST_ROWS = 65_536

Bytes = Annotated[int, msgspec.Meta(ge=0, le=_MOST_BYTES)]
Rows = Annotated[int, msgspec.Meta(ge=1, le=_MOST_ROWS)]


class BlockFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a block takes."""

    bytes_used: Bytes
    load_us: Annotated[int, msgspec.Meta(ge=0, le=_MOST_US)]
    extra_bytes: Bytes  # that a load takes on top, for a moment
    is_judged: bool = False  # whether micro-batches were compared
    rows_at_once: Rows | None = None  # size of its micro-batches; None: all rows


class MeasuredTime(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of a batch of a model alone."""

    rows: Rows
    wide: bool  # on the whole device; False: on one lane of several
    us: Annotated[int, msgspec.Meta(ge=1, le=_MOST_US)]


class PathFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What batches of a model take, by the path of its blocks. Raises ValueError for figures
    without the time of the largest batch."""

    rows: Annotated[int, msgspec.Meta(ge=0, le=_MOST_ROWS)] = 0  # of the largest measured batch
    times: tuple[MeasuredTime, ...] = ()
    row_bytes: Bytes = 0  # of memory that runs take, for each row of the largest batch
    base_bytes: Bytes = 0  # of memory that the first run takes besides, however many rows it has

    def __post_init__(self) -> None:
        largest = max((one.rows for one in self.times), default=0)
        if largest != self.rows:
            raise ValueError(f"the largest batch has {self.rows} rows, the times end at {largest}")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    figures: msgspec.Raw


T = TypeVar("T")


class Measurements:
    """Reads and keeps figures. May be used by any thread."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """`facts`: all that figures depend on besides the blocks, such as versions and options."""
        known = {**facts, "cpu": processor(), "schema": _SCHEMA}
        body = msgspec.json.encode(known, order="deterministic")
        self._folder = folder
        self._suffix = hashlib.sha256(body).hexdigest()[:16]
        self._known: dict[str, Any] = {}  # figures by name; None: there are none
        self._is_writable = True

    def block(self, block: str) -> BlockFigures | None:
        return self._read(block, BlockFigures)

    def keep_block(self, block: str, figures: BlockFigures) -> None:
        self._keep(block, figures)

    def path(self, manifest: Manifest) -> PathFigures | None:
        return self._read(_name(manifest), PathFigures)

    def keep_path(self, manifest: Manifest, figures: PathFigures) -> None:
        self._keep(_name(manifest), figures)

    def sweep(self) -> None:
        """Remove files of any facts that no start has read for long."""
        oldest_s = time.time() - _KEEP_S
        with contextlib.suppress(OSError):  # there is no folder yet
            for path in self._folder.glob(f"*{_ENDING}"):
                with contextlib.suppress(OSError):  # another process was faster
                    if path.stat().st_mtime < oldest_s:
                        path.unlink()

    def _read(self, name: str, kind: type[T]) -> T | None:
        if name not in self._known:
            self._known[name] = self._decoded(self._file(name), kind)
        known: T | None = self._known[name]
        return known

    def _decoded(self, path: Path, kind: type[T]) -> T | None:
        try:
            file = msgspec.json.decode(path.read_bytes(), type=_File)
            figures = msgspec.json.decode(file.figures, type=kind)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read, and is measured again: %s", path, error)
            return None
        with contextlib.suppress(OSError):  # others may own the folder: it is swept too soon then
            os.utime(path)
        return figures

    def _keep(self, name: str, figures: BlockFigures | PathFigures) -> None:
        """Write it in one step. The daemon goes on without a file that cannot be written."""
        if self._known.get(name) == figures:
            return
        self._known[name] = figures
        if not self._is_writable:
            return
        data = msgspec.json.encode(_File(_SCHEMA, msgspec.Raw(msgspec.json.encode(figures))))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                dir=self._folder, prefix=".tmp-", suffix=_ENDING, delete=False
            ) as file:
                file.write(data)
            os.replace(file.name, self._file(name))
        except OSError as error:
            self._is_writable = False
            log.warning(
                "what is measured cannot be kept in %s (%s): each start measures it again",
                self._folder,
                error.strerror,
            )

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}-{self._suffix}{_ENDING}"


def _name(manifest: Manifest) -> str:
    """The digest of all that says how the blocks of a model are run."""
    body = msgspec.json.encode(
        (
            [(step.block, step.reads, step.writes) for step in manifest.steps],
            manifest.values,
            manifest.inputs,
            manifest.outputs,
            manifest.rows_at_once,
        )
    )
    return hashlib.sha256(body).hexdigest()


describe(_File, BlockFigures, PathFigures)

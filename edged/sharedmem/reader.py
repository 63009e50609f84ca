"""Reads payloads from memory that clients share. Several threads may use it.

The memory is read, not mapped: a client may change it at any time, but what has been read stays as
it is, and a file that was cut short is an error of one request.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from io import FileIO

from edged.errors import InvalidArgument, Unavailable
from edged.link import messages as link


class RegionReader:
    """Owns the open files, until they are forgotten."""

    def __init__(self) -> None:
        self._files: dict[str, FileIO] = {}
        self._lock = threading.Lock()

    def read(
        self, shared: link.PayloadFile, into: Sequence[memoryview] | None = None
    ) -> list[memoryview]:
        """The payload frames, read `into` memory of these sizes if the caller gives it.

        Raises InvalidArgument, or Unavailable when the client that shared it is gone.
        """
        # The file stays open as long as it is used here, also when it is forgotten meanwhile.
        file = self._files.get(shared.path) or self._open(shared.path)
        frames = _new(shared) if into is None else list(into)
        for (offset, _), frame in zip(shared.frames, frames, strict=True):
            while frame.nbytes:
                count = os.preadv(file.fileno(), [frame], offset)
                if not count:
                    raise InvalidArgument(
                        f"the shared memory ends at byte {offset}: do not cut it short"
                    )
                frame, offset = frame[count:], offset + count
        return frames

    def forget(self, path: str) -> None:
        """Close a file, as soon as no thread reads from it any more."""
        with self._lock:
            self._files.pop(path, None)

    def _open(self, path: str) -> FileIO:
        with self._lock:
            file = self._files.get(path)
            if file is None:  # no other thread was sooner
                try:
                    file = self._files[path] = FileIO(path)
                except OSError as error:
                    raise Unavailable(f"shared memory {path}: {error.strerror}") from error
            return file


def _new(shared: link.PayloadFile) -> list[memoryview]:
    return [memoryview(bytearray(size)) for _, size in shared.frames]

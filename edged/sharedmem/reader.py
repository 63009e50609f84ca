"""Reads payloads from memory that clients share. For several threads.

It is read, not mapped: whatever a client does to it meanwhile, what was read stays as it is, and a
file that was cut short is an error of this request.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from io import FileIO

from edged.errors import InvalidArgument, Unavailable
from edged.link import messages as link


class RegionReader:
    """Files that were read from, until they are forgotten."""

    def __init__(self) -> None:
        self._files: dict[str, FileIO] = {}
        self._lock = threading.Lock()

    def read(
        self, shared: link.SharedPayload, into: Sequence[memoryview] | None = None
    ) -> list[memoryview]:
        """The payload frames, `into` memory of these sizes if the caller has it.

        Raises InvalidArgument, or Unavailable when the client that shared it is gone.
        """
        file = self._files.get(shared.path) or self._open(shared.path)  # stays open while used here
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
        """It is closed when nobody reads from it any more."""
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


def _new(shared: link.SharedPayload) -> list[memoryview]:
    return [memoryview(bytearray(size)) for _, size in shared.frames]

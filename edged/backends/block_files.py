"""The files of a block in a store: an ONNX file, and those beside it in which its weights lie."""

from __future__ import annotations

import os
from pathlib import Path

from edged.onnx_file import NoOnnxFile, places_in


def files_of(path: Path) -> tuple[Path, ...]:
    """All files that a load of `path` reads, `path` first. Raises OSError.

    What is no ONNX file has no others; whoever loads it will say what it is.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = dict.fromkeys(place.location for place in places_in(descriptor))
    except NoOnnxFile:
        return (path,)
    finally:
        os.close(descriptor)
    return (path, *(path.parent / location for location in found))


def bytes_of(path: Path) -> int:
    """Bytes of all files of the block. Raises OSError."""
    return sum(file.stat().st_size for file in files_of(path))

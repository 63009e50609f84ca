"""The header of a PNG file (ISO/IEC 15948): its chunks.

Chunks that change no pixel are removed before decoding: texts and profiles, each of which can grow
from a few bytes to megabytes, and the further frames of an animation. The picture of an animated
PNG is its default image.
"""

from __future__ import annotations

import struct

from edged.pictures import exif
from edged.pictures.header import Bytes, PictureHeader, damaged

MAGIC = b"\x89PNG\r\n\x1a\n"

_MAX_CHUNKS = 100_000  # enough for 64 MiB in pieces of 671 bytes; more would take long to read
_DECODED = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_HARMLESS = frozenset((b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs", b"tIME", b"hIST"))


def look(data: Bytes) -> PictureHeader:
    """The header of a whole file. Raises InvalidArgument; the decoder verifies the checksums."""
    if len(data) < 33 or data[8:16] != b"\0\0\0\rIHDR":
        raise damaged("PNG", "its header is cut short")
    width, height = struct.unpack_from(">II", data, 16)
    if not width or not height:
        raise damaged("PNG", "its header says that it has no pixels")
    orientation: int | None = None
    begin, at, kept = 0, len(MAGIC), list[Bytes]()
    for _ in range(_MAX_CHUNKS):
        if at + 12 > len(data):
            raise damaged("PNG", "it ends before its last chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise damaged("PNG", f"it ends within a chunk {kind!r}")
        if kind not in _DECODED and kind not in _HARMLESS:
            kept.append(data[begin:at])
            begin = end
            if kind == b"eXIf" and orientation is None:
                orientation = exif.orientation(bytes(data[at + 8 : end - 4]))
        at = end
        if kind == b"IEND":
            break
    else:
        raise damaged("PNG", f"it has more than {_MAX_CHUNKS} chunks")
    return PictureHeader("PNG", height, width, orientation or 1, (*kept, data[begin:at]))


def pixels(data: Bytes) -> int | None:
    """The pixels of a file, by its beginning; None if that is too short to tell."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return int(width * height)

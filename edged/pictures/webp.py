"""The header of a WebP file (RFC 9649): a RIFF container with one frame, lossy or lossless.

Transparency is dropped, as that of a PNG. A lossy frame has no checksums, so damage inside it shows
only if it breaks the coding.
"""

from __future__ import annotations

import struct

from edged.errors import Unsupported
from edged.pictures import exif
from edged.pictures.header import Bytes, PictureHeader, damaged

MAGIC = b"RIFF"
FORM = b"WEBP"  # after the size of the file

_MAX_CHUNKS = 1000
_ANIMATED = 0x02  # a bit of a VP8X chunk


def look(data: Bytes) -> PictureHeader:
    """The header of a whole file. Raises InvalidArgument, or Unsupported for an animation."""
    if len(data) < 20:
        raise damaged("WebP", "its header is cut short")
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise damaged("WebP", "it ends before its last chunk")
    at, size, canvas, orientation = 12, None, None, None
    for _ in range(_MAX_CHUNKS):
        if at + 8 > end:
            break
        kind, length = bytes(data[at : at + 4]), int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + length]
        if at + 8 + length > end:
            raise damaged("WebP", f"it ends within a chunk {kind!r}")
        if kind == b"VP8X" and length >= 10:
            if body[0] & _ANIMATED:
                raise Unsupported("the WebP is an animation: send one of its pictures")
            width, height = (1 + int.from_bytes(body[i : i + 3], "little") for i in (4, 7))
            canvas = (height, width)
        if kind in (b"VP8 ", b"VP8L"):
            if size is not None:
                raise damaged("WebP", "it has two frames")
            size = _lossy(body) if kind == b"VP8 " else _lossless(body)
        if kind == b"EXIF" and orientation is None:
            orientation = exif.orientation(bytes(body))
        at += 8 + length + length % 2
    else:
        raise damaged("WebP", f"it has more than {_MAX_CHUNKS} chunks")
    if size is None:
        raise damaged("WebP", "it has no frame")
    if canvas not in (None, size):
        raise damaged("WebP", "its frame does not fill its canvas")
    return PictureHeader("WebP", *size, orientation or 1, (data[:end],))


def _lossy(frame: Bytes) -> tuple[int, int]:
    """Height and width of a VP8 key frame (RFC 6386, 9.1)."""
    if len(frame) < 10 or frame[0] & 1 or bytes(frame[3:6]) != b"\x9d\x01\x2a":
        raise damaged("WebP", "its frame begins with no key frame")
    width, height = struct.unpack_from("<HH", frame, 6)
    return _checked(height & 0x3FFF, width & 0x3FFF)


def _lossless(frame: Bytes) -> tuple[int, int]:
    if len(frame) < 5 or frame[0] != 0x2F:
        raise damaged("WebP", "its lossless frame has no signature")
    bits = int.from_bytes(frame[1:5], "little")
    return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)


def _checked(height: int, width: int) -> tuple[int, int]:
    if not height or not width:
        raise damaged("WebP", "its frame has no pixels")
    return height, width

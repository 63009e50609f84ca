"""The orientation in an EXIF block (EXIF 2.32, a TIFF structure).

Nothing here raises: a broken EXIF block says nothing about the picture.
"""

from __future__ import annotations

import struct

_ORIENTATION = 0x0112
# `struct` formats of the TIFF types BYTE, SHORT, LONG, SBYTE, SSHORT and SLONG.
_FORMATS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
_PREFIX = b"Exif\0"  # one byte follows, which some cameras do not set to 0


def orientation(block: bytes) -> int | None:
    """The orientation, 1 to 8 as EXIF numbers them; None if the block has none.

    `block` is the content of a JPEG's APP1 segment, or of a PNG's eXIf chunk.
    """
    tiff = block[len(_PREFIX) + 1 :] if block.startswith(_PREFIX) else block
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        return _in_directory(tiff, order)
    except struct.error:  # the block ends before an orientation was found
        return None


def _in_directory(tiff: bytes, order: str) -> int | None:
    (at,) = struct.unpack_from(order + "I", tiff, 4)
    (entries,) = struct.unpack_from(order + "H", tiff, at)
    for entry in range(entries):
        start = at + 2 + 12 * entry
        tag, kind, count = struct.unpack_from(order + "HHI", tiff, start)
        if tag == _ORIENTATION and kind in _FORMATS and count == 1:
            (value,) = struct.unpack_from(order + _FORMATS[kind], tiff, start + 8)
            return int(value) if 1 <= value <= 8 else None
    return None

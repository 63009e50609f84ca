"""The header of a BMP file (BITMAPINFOHEADER and its kin), uncompressed ones only.

Nothing in such a file is compressed or checked, so a file that has all bytes of its pixels is
whole.
"""

from __future__ import annotations

import struct

from edged.errors import Unsupported
from edged.pictures.header import Bytes, PictureHeader, damaged

MAGIC = b"BM"

_OLD_HEADER = 12  # BITMAPCOREHEADER
_DEPTHS = frozenset((1, 4, 8, 16, 24, 32))
_PLAIN, _MASKED = 0, (3, 6)
# The masks of red, green and blue that mean what they usually do, by bits a pixel.
_MASKS = {
    16: ((0xF800, 0x07E0, 0x001F), (0x7C00, 0x03E0, 0x001F)),
    32: ((0xFF0000, 0x00FF00, 0x0000FF),),
}


def look(data: Bytes) -> PictureHeader:
    """The header of a whole file. Raises InvalidArgument, or Unsupported for compressed ones."""
    size = dimensions(data)
    if size is None:
        raise damaged("BMP", "its header is cut short")
    height, width = size
    first, header = struct.unpack_from("<II", data, 10)
    if header == _OLD_HEADER:
        depth, form = struct.unpack_from("<H", data, 24)[0], _PLAIN
    elif len(data) < 54:
        raise damaged("BMP", "its header is cut short")
    else:
        depth, form = struct.unpack_from("<HI", data, 28)
    if not height or not width or width < 0:
        raise damaged("BMP", "its header says that it has no pixels")
    if depth not in _DEPTHS:
        raise damaged("BMP", f"its header says {depth} bits a pixel")
    if form in _MASKED:
        _check_masks(data, depth)
    elif form != _PLAIN:
        raise Unsupported("the BMP is compressed: save it without compression, or as a PNG")
    row_bytes = (width * depth + 31) // 32 * 4
    if first < 14 + header or len(data) < first + row_bytes * abs(height):
        raise damaged("BMP", "it ends before its last pixel")
    return PictureHeader("BMP", abs(height), width, 1, (data,))


def dimensions(data: Bytes) -> tuple[int, int] | None:
    """Height (negative if the top row comes first) and width; None if the beginning lacks them."""
    if len(data) < 26:
        return None
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == _OLD_HEADER else "<ii", data, 18)
    return height, width


def pixels(data: Bytes) -> int | None:
    """The pixels of a file, by its beginning; None if that is too short to tell."""
    size = dimensions(data)
    return None if size is None else abs(size[0] * size[1])


def _check_masks(data: Bytes, depth: int) -> None:
    if len(data) < 66:
        raise damaged("BMP", "its header is cut short")
    if struct.unpack_from("<III", data, 54) not in _MASKS.get(depth, ()):
        raise Unsupported("the BMP has bits of colours in unusual places: save it with 24 bits")

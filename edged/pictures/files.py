"""The kind of a picture's file, recognised by its first bytes."""

from __future__ import annotations

from collections.abc import Iterable

from edged.errors import InvalidArgument
from edged.pictures import bmp, jpeg, png, webp
from edged.pictures.header import Bytes, PictureHeader

KINDS = "JPEG, PNG, WebP or BMP"
PEEK_BYTES = 4096  # `light_pixels` needs this much of a file, unless long segments come first


def look(data: Bytes) -> PictureHeader:
    """The header of a JPEG, PNG, WebP or BMP file.

    Raises InvalidArgument for any other file and for a damaged one; Unsupported for rare kinds.
    """
    data = memoryview(data)  # slices of it are not copies
    magic = bytes(data[:8])
    if magic.startswith(jpeg.MAGIC):
        return jpeg.look(data)
    if magic == png.MAGIC:
        return png.look(data)
    if magic.startswith(webp.MAGIC) and data[8:12] == webp.FORM:
        return webp.look(data)
    if magic.startswith(bmp.MAGIC):
        return bmp.look(data)
    if not magic:
        raise InvalidArgument(f"the image is empty: send the bytes of a {KINDS} file")
    raise InvalidArgument(
        f"the image begins with {magic!r}, which no {KINDS} file does: send the bytes of one"
    )


def light_pixels(beginnings: Iterable[Bytes]) -> int | None:
    """The pixels of all pictures, if the time to decode them grows with their pixels alone.

    `beginnings` holds the first bytes of each file, or all of it. None if one is a progressive JPEG
    or no picture, or if its first bytes do not tell.
    """
    total = 0
    for data in beginnings:
        pixels = _light_pixels(memoryview(data))
        if pixels is None:
            return None
        total += pixels
    return total


def _light_pixels(data: memoryview) -> int | None:
    magic = bytes(data[:8])
    if magic.startswith(jpeg.MAGIC):
        return jpeg.pixels_at_once(data)
    if magic.startswith(bmp.MAGIC):
        return bmp.pixels(data)
    return png.pixels(data) if magic == png.MAGIC else None  # a WebP takes longer

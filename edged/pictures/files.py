"""The kind of a picture's file, recognised by its first bytes."""

from __future__ import annotations

from collections.abc import Iterable

from edged.errors import InvalidArgument
from edged.pictures import jpeg, png
from edged.pictures.header import Bytes, PictureHeader

PEEK_BYTES = 4096  # `light_pixels` needs this much of a file, unless long segments come first


def look(data: Bytes) -> PictureHeader:
    """The header of a JPEG or PNG file.

    Raises InvalidArgument for any other file and for a damaged one; Unsupported for some JPEGs.
    """
    data = memoryview(data)  # slices of it are not copies
    magic = bytes(data[:8])
    if magic.startswith(jpeg.MAGIC):
        return jpeg.look(data)
    if magic == png.MAGIC:
        return png.look(data)
    if not magic:
        raise InvalidArgument("the image is empty: send the bytes of a JPEG or PNG file")
    raise InvalidArgument(
        f"the image begins with {magic!r}, neither JPEG nor PNG: send the bytes of such a file"
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
    return png.pixels(data) if magic == png.MAGIC else None

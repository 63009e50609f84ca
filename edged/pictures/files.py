"""Which kind of picture a file is, by its first bytes."""

from __future__ import annotations

from collections.abc import Iterable

from edged.errors import InvalidArgument
from edged.pictures import jpeg, png
from edged.pictures.header import Bytes, PictureHeader

PEEK_BYTES = 4096  # of a file: enough for `light_pixels`, unless much else comes first


def look(data: Bytes) -> PictureHeader:
    """The header of a JPEG or PNG file.

    Raises InvalidArgument for anything else and for a damaged one; Unsupported for some JPEGs.
    """
    data = memoryview(data)  # its slices are not copied
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
    """Pixels of all pictures, if decoding each takes a time in proportion to them.

    `beginnings`: of the files, or all of them. None: one is a progressive JPEG, no picture, or its
    beginning does not say.
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

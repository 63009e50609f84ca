"""Which kind of picture a file is, by its first bytes."""

from __future__ import annotations

from edged.errors import InvalidArgument
from edged.pictures import jpeg, png
from edged.pictures.header import Bytes, Header

PEEK_BYTES = 4096  # of a file: enough for `light_pixels`, unless metadata come first


def look(data: Bytes) -> Header:
    """The header of a JPEG or PNG file.

    Raises InvalidArgument for anything else and for a damaged one; Unsupported for some JPEGs.
    """
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


def light_pixels(data: Bytes) -> int | None:
    """Pixels of a picture whose decoding takes a time in proportion to them, by its beginning.

    None: it is a progressive JPEG, not a picture, or its beginning does not say.
    """
    magic = bytes(data[:8])
    if magic.startswith(jpeg.MAGIC):
        return jpeg.pixels_at_once(data)
    return png.pixels(data) if magic == png.MAGIC else None

"""Decodes a picture's file: the picture is whole and upright, or an error is raised.

JPEGs are decoded by libjpeg-turbo in its strict mode: OpenCV fills what it cannot read with grey
and only warns. Decoding releases the GIL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from edged.errors import InvalidArgument
from edged.pictures import files
from edged.pictures.header import MAX_PIXELS, Bytes, PictureHeader, check, damaged

Image: TypeAlias = npt.NDArray[Any]  # (height, width, 3 or 4) uint8: RGB and an unused channel

_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def _transverse(image: Image) -> Image:
    turned = cv2.transpose(image)
    return cv2.flip(turned, -1, turned)


# How to turn a stored picture upright, by its orientation (EXIF 2.32, tag 0x0112). Each function
# makes one copy and no more, which `decode_bytes` relies on.
_UPRIGHT: dict[int, Callable[[Image], Image]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.flip(image, -1),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: _transverse,
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def decode(data: Bytes, *, max_pixels: int = MAX_PIXELS) -> Image:
    """The upright picture, uint8 RGB of shape (height, width, 3).

    Raises ResourceExhausted for a picture that would take too much time or memory, before anything
    is decoded; InvalidArgument for a damaged file; Unsupported for rare kinds of file.
    """
    header = files.look(data)
    check(header, max_pixels)
    return pixels_of(header)


def pixels_of(header: PictureHeader, *, spare: bool = False) -> Image:
    """The upright picture of a file whose header was read and checked.

    spare  the picture may have a fourth, unused channel: a JPEG decodes as fast to four channels,
           and exact resizing is a third faster with them
    """
    image = _decode_jpeg(header, spare) if header.kind == "JPEG" else _decode_other(header)
    turn = _UPRIGHT.get(header.orientation)
    return image if turn is None else turn(image)


def _decode_jpeg(header: PictureHeader, spare: bool) -> Image:
    try:
        image: Image = simplejpeg.decode_jpeg(header.file, colorspace="RGBX" if spare else "RGB")
    except ValueError as error:
        raise damaged("JPEG", error) from error
    return _as_announced(header, image)


def _decode_other(header: PictureHeader) -> Image:
    try:
        image = cv2.imdecode(np.frombuffer(header.file, np.uint8), _STORED)
    except cv2.error as error:
        raise damaged(header.kind, error.err) from error
    if image is None:
        raise damaged(header.kind, "it does not decode")
    return _as_announced(header, cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image))


def _as_announced(header: PictureHeader, image: Image) -> Image:
    """The decoded picture, which must have the size that its header announced."""
    if image.shape[:2] != (header.height, header.width):
        found = f"it decodes to {image.shape[1]} x {image.shape[0]} pixels"
        raise InvalidArgument(
            f"the {header.kind} is ambiguous ({found}, its header says {header.width} x "
            f"{header.height}): save it anew"
        )
    return image

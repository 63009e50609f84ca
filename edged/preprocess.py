"""From an encoded image to a model's input: decode, resize, crop, normalise.

The same code feeds training and serving, and the same bytes always give the same floats.
Knows no models, no threads and no requests. Decoding, resizing and normalising release the GIL.

JPEG goes through libjpeg-turbo in its strict mode: OpenCV fills what it cannot read with grey
and only warns. The normalisation is a table of 256 floats a channel: exact to the last bit on
every processor, and as fast as arithmetic.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from edged.errors import InvalidArgument, ResourceExhausted
from edged.manifest import Preprocess

Bytes: TypeAlias = "bytes | bytearray | memoryview"
Image: TypeAlias = npt.NDArray[Any]  # (height, width, 3) uint8, RGB

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 50_000_000  # of a picture; decoded it takes three bytes a pixel
_MAX_ASPECT = 50  # a strip one pixel wide would grow to gigabytes before its crop
_INTERPOLATION = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
}
# EXIF 2.32, tag 0x0112: what brings the stored picture upright.
_UPRIGHT: dict[int, Callable[[Image], Image]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: lambda image: cv2.transpose(image),
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.transpose(cv2.rotate(image, cv2.ROTATE_180)),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def dimensions(data: Bytes) -> tuple[int, int, str]:
    """Height, width (pixels, as stored) and format (`JPEG` or `PNG`), from the header alone.

    Raises InvalidArgument for anything that is not the beginning of a JPEG or PNG file.
    """
    magic = bytes(data[:8])
    if magic.startswith(_JPEG):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError as error:
            raise _corrupt("JPEG", error) from error
        return height, width, "JPEG"
    if magic == _PNG:
        if len(data) < 33 or bytes(data[12:16]) != b"IHDR":
            raise _corrupt("PNG", "its header is cut short")
        width, height = struct.unpack_from(">II", data, 16)
        return height, width, "PNG"
    if not magic:
        raise InvalidArgument("the image is empty: send the bytes of a JPEG or PNG file")
    raise InvalidArgument(
        f"the image begins with {magic!r}, neither JPEG nor PNG: send the bytes of such a file"
    )


def decode(data: Bytes, *, max_pixels: int = MAX_PIXELS) -> Image:
    """The upright picture, uint8 RGB of shape (height, width, 3).

    Raises ResourceExhausted above `max_pixels`, before anything is decoded, and InvalidArgument
    for a damaged file: a picture is decoded whole or not at all.
    """
    height, width, kind = dimensions(data)
    if height * width > max_pixels:
        raise ResourceExhausted(
            f"the {kind} has {width} x {height} pixels, the limit is {max_pixels}: "
            "send a smaller picture"
        )
    return _decode_jpeg(data) if kind == "JPEG" else _decode_png(data)


def normalise(image: Image, spec: Preprocess, out: npt.NDArray[np.float32]) -> None:
    """Write the model's input for `image` into `out`, one row, shape as the model wants it."""
    _check_out(out, spec)
    height, width = image.shape[:2]
    to_height, to_width = resized(height, width, spec)
    if (to_height, to_width) != (height, width):
        method = _INTERPOLATION[spec.interpolation]
        image = cv2.resize(image, (to_width, to_height), interpolation=method)
    top = round((to_height - spec.height) / 2)
    left = round((to_width - spec.width) / 2)
    image = image[top : top + spec.height, left : left + spec.width]
    tables = _tables(spec)
    if spec.layout == "NHWC":
        if spec.color == "BGR":
            image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        cv2.LUT(image, tables.T[np.newaxis], out)
        return
    planes = cv2.split(image)
    for channel, plane in enumerate(planes if spec.color == "RGB" else planes[::-1]):
        cv2.LUT(plane, tables[channel : channel + 1], out[channel])


def prepare(
    data: Bytes | Image,
    spec: Preprocess,
    out: npt.NDArray[np.float32],
    *,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Write the model's input for a file's bytes, or for a decoded picture, into `out`."""
    image = data if isinstance(data, np.ndarray) else decode(data, max_pixels=max_pixels)
    normalise(image, spec, out)


def resized(height: int, width: int, spec: Preprocess) -> tuple[int, int]:
    """Height and width before the crop. Raises InvalidArgument where `spec` cannot be met."""
    if spec.resize == "stretch":
        scale = spec.resize_to / min(spec.height, spec.width) if spec.resize_to else 1.0
        to_height, to_width = int(spec.height * scale), int(spec.width * scale)
    else:
        if max(height, width) > _MAX_ASPECT * min(height, width):
            raise InvalidArgument(
                f"the picture is {width} x {height}, one side more than {_MAX_ASPECT} times the "
                "other: cut it into pieces"
            )
        cover = max(spec.height / height, spec.width / width)
        scale = max(cover, (spec.resize_to or 0) / min(height, width))
        to_height = max(spec.height, int(height * scale))
        to_width = max(spec.width, int(width * scale))
    exact = (to_height, to_width) == (spec.height, spec.width)
    if to_height < spec.height or to_width < spec.width or (spec.crop == "none" and not exact):
        raise InvalidArgument(
            f"a picture of {width} x {height} becomes {to_width} x {to_height}, the model wants "
            f"{spec.width} x {spec.height} without a crop: send that aspect ratio, or export the "
            "model with resize = stretch or crop = center"
        )
    return to_height, to_width


def _decode_jpeg(data: Bytes) -> Image:
    try:
        image: Image = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError as error:
        raise _corrupt("JPEG", error) from error
    turn = _UPRIGHT.get(_orientation(data))
    return image if turn is None else turn(image)


def _decode_png(data: Bytes) -> Image:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise _corrupt("PNG", error.err) from error
    if image is None:
        raise _corrupt("PNG", "it does not decode")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)


def _orientation(data: Bytes) -> int:
    """The EXIF orientation of a JPEG, 1 (upright) where it has none. Never raises."""
    at = 2
    while at + 18 <= len(data) and data[at] == 0xFF and 0xE0 <= data[at + 1] <= 0xEF:
        (length,) = struct.unpack_from(">H", data, at + 2)
        if data[at + 1] == 0xE1 and bytes(data[at + 4 : at + 10]) == b"Exif\0\0":
            return _orientation_in_tiff(bytes(data[at + 10 : at + 2 + length]))
        at += 2 + length
    return 1


def _orientation_in_tiff(tiff: bytes) -> int:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (ifd,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, ifd)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, ifd + 2 + 12 * entry)
            if (tag, kind, count) == (0x0112, 3, 1):
                return int(value)
    except struct.error:  # a camera's broken EXIF block says nothing about the picture
        pass
    return 1


@functools.lru_cache(maxsize=64)
def _tables(spec: Preprocess) -> npt.NDArray[np.float32]:
    """Shape (3, 256): the float that each byte becomes, by channel in the model's order."""
    byte = np.arange(256, dtype=np.float64)
    return np.array(
        [(byte * spec.scale - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)],
        dtype=np.float32,
    )


def _check_out(out: npt.NDArray[np.float32], spec: Preprocess) -> None:
    # OpenCV would allocate another array, silently, in place of one that does not fit.
    plane = (spec.height, spec.width)
    shape = (3, *plane) if spec.layout == "NCHW" else (*plane, 3)
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise InvalidArgument(
            f"the model's input is {out.dtype} of shape {out.shape}, its preprocessing makes "
            f"float32 of shape {shape}: export the model again"
        )


def _corrupt(kind: str, why: object) -> InvalidArgument:
    return InvalidArgument(f"the {kind} is damaged ({why}): send the file again")

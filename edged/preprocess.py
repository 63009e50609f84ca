"""Turns a picture into a model's input: resizes, crops, normalises.

Training and serving use the same code, and the same bytes give the same floats on every processor.
Decoding (`edged.pictures`), resizing and normalising release the GIL. Knows no models, no threads
and no requests.

The normalisation is a table of 256 floats a channel: exact to the last bit on every processor,
and as fast as arithmetic.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from edged.errors import InvalidArgument
from edged.manifest import Preprocess
from edged.pictures import files, resizing
from edged.pictures.decoding import Image, pixels_of
from edged.pictures.header import MAX_PIXELS, Bytes, check

# Conversion codes by the picture's channels and the model's colours; RGB of three channels stays.
_TO_CHANNELS = {
    (3, "BGR"): cv2.COLOR_RGB2BGR,
    (4, "BGR"): cv2.COLOR_RGBA2BGR,
    (4, "RGB"): cv2.COLOR_RGBA2RGB,
}
_MAX_ASPECT = 50  # a picture one pixel wide would grow to gigabytes before its crop


def normalise(image: Image, spec: Preprocess, out: npt.NDArray[np.float32]) -> None:
    """Write the model's input for `image` into `out`, one row in the shape that the model takes.

    `image` may have a fourth, unused channel if `takes_spare(spec)`.
    """
    _check_out(out, spec)
    height, width = image.shape[:2]
    to_height, to_width = resized(height, width, spec)
    if (to_height, to_width) != (height, width):
        by_version = resizing.resize if spec.resize_version == 2 else resizing.resize_in_version_1
        image = by_version(image, to_height, to_width, spec.interpolation)
    top = round((to_height - spec.height) / 2)
    left = round((to_width - spec.width) / 2)
    image = image[top : top + spec.height, left : left + spec.width]
    tables = _tables(spec)
    if spec.layout == "NHWC":
        code = _TO_CHANNELS.get((image.shape[2], spec.color))
        image = image if code is None else cv2.cvtColor(image, code)
        cv2.LUT(image, tables.T[np.newaxis], out)
        return
    planes = cv2.split(image)[:3]
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
    if not isinstance(data, np.ndarray):
        header = files.look(data)
        check(header, max_pixels)
        data = pixels_of(header, spare=takes_spare(spec))
    normalise(data, spec, out)


def takes_spare(spec: Preprocess) -> bool:
    """Whether a picture may have a fourth, unused channel, which is faster to resize."""
    return spec.resize_version == 2 and spec.interpolation == "linear"


def resize_bytes(height: int, width: int, spec: Preprocess) -> int:
    """The most memory that `normalise` takes for a picture of this size, its output not counted."""
    to = resized(height, width, spec)
    row_bytes = 3 * spec.height * spec.width  # bytes of the three planes
    return resizing.resize_bytes((height, width), to, spec.interpolation) + row_bytes


def resized(height: int, width: int, spec: Preprocess) -> tuple[int, int]:
    """Height and width before the crop. Raises InvalidArgument if `spec` cannot be met."""
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


@functools.lru_cache(maxsize=64)
def _tables(spec: Preprocess) -> npt.NDArray[np.float32]:
    """The float that each byte becomes, (3, 256): one row a channel, in the model's order."""
    byte = np.arange(256, dtype=np.float64)
    return np.array(
        [(byte * spec.scale - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)],
        dtype=np.float32,
    )


def _check_out(out: npt.NDArray[np.float32], spec: Preprocess) -> None:
    # OpenCV would silently write into a new array if the one passed in did not fit.
    plane = (spec.height, spec.width)
    shape = (3, *plane) if spec.layout == "NCHW" else (*plane, 3)
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise InvalidArgument(
            f"the model's input is {out.dtype} of shape {out.shape}, its preprocessing makes "
            f"float32 of shape {shape}: export the model again"
        )

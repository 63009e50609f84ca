"""Turns a picture into a model's input: resizes, crops, normalises.

Training and serving use the same code, and the same bytes give the same floats on every processor.
Decoding (`edged.pictures`), resizing and normalising release the GIL. Knows no models, no threads
and no requests.

The normalisation is a table of 256 values a channel: exact to the last bit on every processor,
and as fast as arithmetic.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edged.errors import InvalidArgument
from edged.manifest import DataType, Preprocess
from edged.pictures import files, resizing
from edged.pictures.decoding import Image, pixels_of
from edged.pictures.header import MAX_PIXELS, Bytes, check

# Conversion codes by the picture's channels and the model's colours; RGB of three channels stays.
_TO_CHANNELS = {
    (3, "BGR"): cv2.COLOR_RGB2BGR,
    (4, "BGR"): cv2.COLOR_RGBA2BGR,
    (4, "RGB"): cv2.COLOR_RGBA2RGB,
}
_TO_GREY = {3: cv2.COLOR_RGB2GRAY, 4: cv2.COLOR_RGBA2GRAY}
DTYPES: dict[DataType, np.dtype[Any]] = {
    "FP32": np.dtype(np.float32), "FP16": np.dtype(np.float16), "UINT8": np.dtype(np.uint8)
}  # fmt: skip
_MAX_ASPECT = 50  # a picture one pixel wide would grow to gigabytes before its crop


def normalise(image: Image, spec: Preprocess, out: npt.NDArray[Any]) -> None:
    """Write the model's input for `image` into `out`, one row in the shape that the model takes.

    `image` may have a fourth, unused channel if `takes_spare(spec)`.
    """
    _check_out(out, spec)
    height, width = image.shape[:2]
    to_height, to_width = resized(height, width, spec)
    if (to_height, to_width) != (height, width):
        by_version = resizing.resize if spec.resize_version == 2 else resizing.resize_in_version_1
        image = by_version(image, to_height, to_width, spec.interpolation)
    if spec.resize == "letterbox":
        image = _on_border(image, spec)
    else:
        top = round((to_height - spec.height) / 2)
        left = round((to_width - spec.width) / 2)
        image = image[top : top + spec.height, left : left + spec.width]
    tables = _tables(spec)
    if out.dtype == np.float16:  # OpenCV copies from tables of 16-bit integers, not of floats
        tables, out = tables.view(np.int16), out.view(np.int16)
    if spec.color == "GRAY":
        grey = cv2.cvtColor(image, _TO_GREY[image.shape[2]])
        cv2.LUT(grey, tables[:1], out.reshape(grey.shape))
        return
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
    out: npt.NDArray[Any],
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
    if spec.resize == "letterbox":
        row_bytes += 4 * spec.height * spec.width
    return resizing.resize_bytes((height, width), to, spec.interpolation) + row_bytes


def resized(height: int, width: int, spec: Preprocess) -> tuple[int, int]:
    """Height and width before the crop. Raises InvalidArgument if `spec` cannot be met."""
    is_long = max(height, width) > _MAX_ASPECT * min(height, width)
    if is_long and (spec.resize != "stretch" or _weighs_each_pixel(spec)):
        raise InvalidArgument(
            f"the picture is {width} x {height}, one side more than {_MAX_ASPECT} times the "
            "other: cut it into pieces"
        )
    if spec.resize == "letterbox":
        scale = min(spec.height / height, spec.width / width)
        return (
            min(spec.height, max(1, round(height * scale))),
            min(spec.width, max(1, round(width * scale))),
        )
    if spec.resize == "stretch":
        scale = spec.resize_to / min(spec.height, spec.width) if spec.resize_to else 1.0
        to_height, to_width = int(spec.height * scale), int(spec.width * scale)
    else:
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


def _weighs_each_pixel(spec: Preprocess) -> bool:
    """Whether resizing makes a table of weights as long as the picture, and keeps it."""
    return spec.resize_version == 2 and spec.interpolation != "linear"


def check_values(spec: Preprocess) -> None:
    """Raise InvalidArgument if the values that pixels become are none of the model's type."""
    with np.errstate(all="ignore"):
        values = _values(spec)
        exact = _tables(spec).astype(np.float64)
    if not np.isfinite(exact).all():
        raise InvalidArgument(
            f"the preprocessing makes values up to {np.abs(values).max():.3g}, which "
            f"{spec.datatype} cannot hold: mend scale, mean and std"
        )
    if spec.datatype == "UINT8" and (exact != values).any():
        raise InvalidArgument(
            "the preprocessing makes fractions or negative values, and the model takes UINT8: set "
            "scale = 1.0 for bytes as they are, and mend mean and std"
        )
    if not all(0 <= level <= 255 for level in spec.border):
        raise InvalidArgument(f"border is {list(spec.border)}: give three values of 0 to 255")


def _values(spec: Preprocess) -> npt.NDArray[np.float64]:
    """The number that each byte becomes, (3, 256): one row a channel, in the model's order."""
    byte = np.arange(256, dtype=np.float64)
    means_and_divisors = zip(spec.mean, spec.std, strict=True)
    return np.array([(byte * spec.scale - mean) / std for mean, std in means_and_divisors])


@functools.lru_cache(maxsize=64)
def _tables(spec: Preprocess) -> npt.NDArray[Any]:
    return _values(spec).astype(DTYPES[spec.datatype])


def _on_border(image: Image, spec: Preprocess) -> Image:
    """The picture on a border of one colour, which fills the rest of the model's input."""
    height, width, channels = image.shape
    if (height, width) == (spec.height, spec.width):
        return image
    whole = np.empty((spec.height, spec.width, channels), np.uint8)
    whole[:] = (*spec.border, 0)[:channels]
    is_centred = spec.align == "center"
    top = (spec.height - height) // 2 if is_centred else 0
    left = (spec.width - width) // 2 if is_centred else 0
    whole[top : top + height, left : left + width] = image
    return whole


def _check_out(out: npt.NDArray[Any], spec: Preprocess) -> None:
    # OpenCV would silently write into a new array if the one passed in did not fit.
    dtype = DTYPES[spec.datatype]
    if out.shape != spec.shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise InvalidArgument(
            f"the model's input is {out.dtype} of shape {out.shape}, its preprocessing makes "
            f"{dtype} of shape {spec.shape}: export the model again"
        )

"""Resizes pictures, with the same bytes as a result on every processor.

OpenCV's usual resizing takes other paths on aarch64 than on x86_64, and differs by up to 2 of 255.
`linear` is its INTER_LINEAR_EXACT, which does not. `area` and `cubic` are sums of whole numbers in
double precision, which are exact in any order, and one rounding at the end: half goes up. They are
matrix products of a few rows at a time, since each pixel depends on few others.

Older stored models were made with `resize_in_version_1`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Image: TypeAlias = npt.NDArray[Any]  # (height, width, 3) uint8; `linear` also takes 4 channels
Sums: TypeAlias = npt.NDArray[np.float64]
Method: TypeAlias = Literal["linear", "area", "cubic"]

_MATRIX_PIXELS = 4  # pixels of the result whose weights are one matrix
_PRODUCT_ROWS = 256  # most rows of one matrix product
_STRIP_SUMS = 2**17  # a picture is cut into strips with about this many sums each
_CUBIC_ONE = 2**14  # the weights of a cubic are multiples of 1 / _CUBIC_ONE
_OF_OPENCV = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA, "cubic": cv2.INTER_CUBIC}


def resize(image: Image, height: int, width: int, method: Method) -> Image:
    """Resize by one of three methods:

    linear  OpenCV's INTER_LINEAR_EXACT
    area    the mean of the pixels that each pixel of the result covers
    cubic   the kernel of Keys with a = -0.75 on four by four pixels, the border repeated
    """
    if method == "linear":
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    down = _axis(image.shape[0], height, method)
    across = _axis(image.shape[1], width, method)
    out = np.empty((height, width, 3), np.uint8)
    for blocks in _strips(across, height):
        left, right = blocks[0].start, blocks[-1].stop
        strip = image[:, left:right].reshape(image.shape[0], -1)
        sums = _weigh(strip, down.blocks).reshape(height, right - left, 3)
        turned = cv2.transpose(sums).reshape(right - left, height * 3)
        sums = _weigh(turned, blocks, left).reshape(-1, height, 3)
        first = blocks[0].first
        out[:, first : first + len(sums)] = _rounded(sums, down.one * across.one)
    return out


def resize_in_version_1(image: Image, height: int, width: int, method: Method) -> Image:
    """Resize by OpenCV's fast methods, which differ between processors by up to 2 of 255."""
    return cv2.resize(image, (width, height), interpolation=_OF_OPENCV[method])


def resize_bytes(size: tuple[int, int], to: tuple[int, int], method: Method) -> int:
    """The most memory that resizing takes, the result included; sizes are (height, width)."""
    result_bytes = 4 * to[0] * to[1]
    if method == "linear":
        return result_bytes
    columns = min(size[1], _STRIP_SUMS // (3 * to[0]) + _MATRIX_PIXELS * size[1] // to[1] + 8)
    # Rows of sums, and rows that one product reads.
    rows = 3 * to[0] + min(_PRODUCT_ROWS, _MATRIX_PIXELS * size[0] // to[0] + 8)
    return 2 * result_bytes + 3 * columns * (size[0] + 8 * rows) + 2**20


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """The weights of pixels `start` to `stop` in the pixels of the result that begin at `first`."""

    first: int
    start: int
    stop: int
    weights: Sums  # (pixels of the result, stop - start), whole numbers


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """How one axis is resized. The weights of each pixel add up to `one`."""

    one: int
    blocks: tuple[_Block, ...]


@functools.lru_cache(maxsize=64)
def _axis(size: int, to: int, method: Method) -> _Axis:
    one, taps = _TAPS[method](size, to)
    blocks = []
    for first in range(0, to, _MATRIX_PIXELS):
        rows = [taps(pixel) for pixel in range(first, min(first + _MATRIX_PIXELS, to))]
        start = min(row[0][0] for row in rows)
        stop = max(row[-1][0] for row in rows) + 1
        weights = np.zeros((len(rows), stop - start))
        for at, row in enumerate(rows):
            for pixel, weight in row:
                weights[at, pixel - start] += weight
        blocks.append(_Block(first, start, stop, weights))
    return _Axis(one, tuple(blocks))


Taps: TypeAlias = "Callable[[int], list[tuple[int, int]]]"  # pixels and weights, ascending


def _area_taps(size: int, to: int) -> tuple[int, Taps]:
    """Pixel j of the result covers [j, j + 1) * size / to; times `to`, all are whole numbers."""

    def taps(j: int) -> list[tuple[int, int]]:
        begin, end = j * size, (j + 1) * size
        return [
            (pixel, min((pixel + 1) * to, end) - max(pixel * to, begin))
            for pixel in range(begin // to, -(-end // to))
        ]

    return size, taps


def _cubic_taps(size: int, to: int) -> tuple[int, Taps]:
    def taps(j: int) -> list[tuple[int, int]]:
        pixel, part = divmod((2 * j + 1) * size - to, 2 * to)  # position of the middle of j
        x = part / (2 * to)
        weights = [round(_keys(abs(x - at)) * _CUBIC_ONE) for at in (-1, 0, 1, 2)]
        weights[1 if x < 0.5 else 2] += _CUBIC_ONE - sum(weights)
        places = [min(max(pixel + at, 0), size - 1) for at in (-1, 0, 1, 2)]
        return list(zip(places, weights, strict=True))

    return _CUBIC_ONE, taps


_TAPS: dict[Method, Callable[[int, int], tuple[int, Taps]]] = {
    "area": _area_taps,
    "cubic": _cubic_taps,
}


def _keys(x: float, a: float = -0.75) -> float:
    """The kernel of Keys, Cubic Convolution Interpolation for Digital Image Processing (1981)."""
    if x <= 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    return ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a


def _strips(across: _Axis, height: int) -> Iterator[list[_Block]]:
    """Groups of blocks that are computed together: few enough that their sums stay in the cache."""
    strip: list[_Block] = []
    for block in across.blocks:
        if strip and (block.stop - strip[0].start) * height * 3 > _STRIP_SUMS:
            yield strip
            strip = []
        strip.append(block)
    yield strip


def _weigh(
    rows: npt.NDArray[Any], blocks: tuple[_Block, ...] | list[_Block], left: int = 0
) -> Sums:
    """Weighted sums of rows. The first row has number `left` in the blocks."""
    first = blocks[0].first
    count = blocks[-1].first + len(blocks[-1].weights) - first
    sums = np.empty((count, rows.shape[1]))
    for block in blocks:
        out = sums[block.first - first : block.first - first + len(block.weights)]
        for start in range(block.start, block.stop, _PRODUCT_ROWS):
            stop = min(start + _PRODUCT_ROWS, block.stop)
            taken = rows[start - left : stop - left].astype(np.float64, copy=False)
            weights = block.weights[:, start - block.start : stop - block.start]
            if start == block.start:
                np.matmul(weights, taken, out=out)
            else:
                out += weights @ taken
    return sums


def _rounded(sums: Sums, one: int) -> Image:
    """The picture of (width, height, 3) weighted sums.

    The quotient is so far from the next whole number that its floor is exact.
    """
    sums += one / 2
    sums /= one
    rounded = np.clip(np.floor(sums, out=sums), 0, 255, out=sums).astype(np.uint8)
    return cv2.transpose(rounded)

"""The header of a picture's file, and the memory and time that decoding it takes. Pure Python.

All decisions about a picture are made from its header, before a library has allocated or decoded
anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from edged.errors import InvalidArgument, ResourceExhausted

Bytes: TypeAlias = "bytes | bytearray | memoryview"

MAX_PIXELS = 50_000_000  # default limit for one picture
MAX_SCANS = 500  # the limit for a JPEG that libjpeg-turbo advises; real ones have about ten scans
MAX_SCANNED_PIXELS = 2**29  # scans times pixels: decoding goes over the whole picture in each scan
_SLACK_BYTES = 1 << 20  # rows, tables and windows of the libraries
# Measured: a PNG at most 6.1, for every colour type, depth and interlacing; a WebP 7.1; a BMP 6.1.
_PIXEL_BYTES = 8  # of files other than JPEGs


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """The facts of a header that decide how a picture is decoded, and what that takes."""

    kind: Literal["JPEG", "PNG", "WebP", "BMP"]
    height: int  # pixels, as stored
    width: int
    orientation: int  # EXIF orientation; 1 is upright
    pieces: tuple[Bytes, ...]  # the file without the parts that mean nothing to a decoder
    components: int = 3
    scans: int = 1  # how often a JPEG decoder goes over the picture
    is_whole: bool = False  # a JPEG decoder keeps all coefficients until the last scan is read

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def file(self) -> Bytes:
        """The pieces for a decoder as one; a copy if there are several."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width of the upright picture."""
        is_on_its_side = self.orientation >= 5
        return (self.width, self.height) if is_on_its_side else (self.height, self.width)


def damaged(kind: str, why: object) -> InvalidArgument:
    return InvalidArgument(f"the {kind} is damaged ({why}): send the file again")


def check(header: PictureHeader, max_pixels: int) -> None:
    """Raise ResourceExhausted for a picture that would take too much time or memory."""
    size = f"{header.width} x {header.height} pixels"
    if header.pixels > max_pixels:
        raise ResourceExhausted(
            f"the {header.kind} has {size}, the limit is {max_pixels}: send a smaller picture"
        )
    most = min(MAX_SCANS, MAX_SCANNED_PIXELS // header.pixels)
    if header.scans > max(1, most):
        raise ResourceExhausted(
            f"the JPEG has more than {most} scans over {size}: save it as a baseline JPEG"
        )


def decode_bytes(header: PictureHeader) -> int:
    """The most memory that decoding takes at one time, the upright picture included."""
    copied_bytes = sum(map(len, header.pieces)) if len(header.pieces) > 1 else 0
    if header.kind != "JPEG":
        return header.pixels * _PIXEL_BYTES + copied_bytes + _SLACK_BYTES
    coefficients = 2 * header.components if header.is_whole else 0
    turned = 4 if header.orientation != 1 else 0
    return header.pixels * (4 + max(coefficients, turned)) + copied_bytes + _SLACK_BYTES


def most_decode_bytes(max_pixels: int) -> int:
    """The most memory that decoding a picture of at most `max_pixels` pixels takes."""
    return max_pixels * 10 + _SLACK_BYTES  # 10 bytes a pixel: a JPEG whose coefficients are kept

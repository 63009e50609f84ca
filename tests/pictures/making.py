"""Picture files, many written byte by byte, since no picture library would write them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import cv2
import numpy as np

# The passes of Adam7: first line and column, steps down and across.
_PASSES = [
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4),
    (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1),
]  # fmt: skip


def picture(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """A smooth random RGB picture, so that JPEG keeps it recognisable."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image: np.ndarray, kind: str = ".jpg", *options: int) -> bytes:
    return cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header announces this size, and which holds almost none of the pixels."""

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def exif(orientation: int, *, order: str = "<", kind: int = 3, before: int = 0) -> bytes:
    """A TIFF whose first directory has `before` other entries and an orientation of TIFF type
    `kind`."""
    form = {1: "BBBB", 3: "HH", 4: "I"}[kind]
    value = struct.pack(order + form, orientation, *[0] * (len(form) - 1))
    others = struct.pack(order + "HHII", 0x0110, 3, 1, 7) * before
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + value
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(order + "IH", 8, before + 1)
    return head + others + entry + struct.pack(order + "I", 0)


def split(jpeg: bytes) -> tuple[list[bytes], bytes]:
    """The segments before the first scan, and the rest of the file."""
    at, segments = 2, []
    while jpeg[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", jpeg, at + 2)
        segments.append(jpeg[at : at + 2 + length])
        at += 2 + length
    return segments, jpeg[at:]


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    pixels: np.ndarray,
    color: int,
    *,
    palette: bytes | None = None,
    interlaced: bool = False,
    chunks: Iterable[bytes] = (),
) -> bytes:
    """A PNG of `pixels` (height, width, channels), uint8 or uint16; `color` is its colour type."""
    height, width = pixels.shape[:2]
    passes = _PASSES if interlaced else [(0, 0, 1, 1)]
    parts = [pixels[y::down, x::across] for y, x, down, across in passes]
    big_endian = pixels.dtype.newbyteorder(">")
    lines = [
        b"\0" + line.astype(big_endian).tobytes() for part in parts for line in part if line.size
    ]
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, color, 0, 0, interlaced)
    body = [chunk(b"IHDR", header), *chunks]
    if palette is not None:
        body.append(chunk(b"PLTE", palette))
    body += [chunk(b"IDAT", zlib.compress(b"".join(lines))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def png_of_zeros(width: int, height: int, chunks: Iterable[bytes] = ()) -> bytes:
    """A black PNG, compressed a thousand to one."""
    compress = zlib.compressobj(9)
    line = bytes(1 + 3 * width)
    data = b"".join(compress.compress(line) for _ in range(height)) + compress.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = (*chunks, chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(rest)


def progressive_of_zeros(side: int, scans: int) -> bytes:
    """A legal grey progressive JPEG of many scans, each of which goes over the whole picture.

    `side` is in pixels, and (side / 8)^2 must be a multiple of 16384. The first scan has the DC
    coefficients, each further one the next bit of one AC coefficient; all of them are 0.
    """
    blocks = (side // 8) ** 2
    assert blocks % 16384 == 0
    dc = segment(0xC4, bytes([0x00, 1, *[0] * 15, 0x00]))  # one code: a difference of 0
    ac = segment(0xC4, bytes([0x10, 1, *[0] * 15, 0xE0]))  # one code: a run of 2^14 empty blocks
    runs = _bits("0" + "0" * 14, blocks // 16384)
    out = [
        b"\xff\xd8",
        segment(0xDB, b"\0" + b"\1" * 64),
        segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])),
        dc + segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0])) + _bits("0", blocks),
        ac,
    ]
    steps = [(at, high) for at in range(1, 64) for high in range(14)]
    for at, high in steps[: scans - 1]:
        bits = 0x0D if high == 0 else (14 - high) << 4 | (13 - high)
        out.append(segment(0xDA, bytes([1, 1, 0x00, at, at, bits])) + runs)
    return b"".join(out) + b"\xff\xd9"


def _bits(code: str, count: int) -> bytes:
    text = code * count
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")

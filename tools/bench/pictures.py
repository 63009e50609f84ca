"""Pictures: the longest time that decoding one can take, and times of resizing and of headers."""

from __future__ import annotations

import argparse
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from edged.pictures import files, resizing
from edged.pictures.decoding import pixels_of
from edged.pictures.header import MAX_SCANNED_PIXELS, check
from edged.wire import Limits
from tools.bench.report import emit

SIDE = 5632  # pixels; the square has 31.7 of at most 33.6 million, and whole runs of empty blocks
METHODS: tuple[resizing.Method, ...] = ("linear", "area", "cubic")


def register(commands: Any) -> None:
    parser = commands.add_parser("pictures", help="worst time of a decode; resizing; headers")
    parser.add_argument("--repeats", type=int, default=3, help="of each decode; the least counts")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    cv2.setNumThreads(1)
    decode_ms, limits = {}, Limits()
    for name, data in _worst():
        header = files.look(data)
        check(header, limits.max_pixels)
        assert len(data) <= limits.max_message_bytes, f"{name} is too large to be sent"
        took_s = _least_s(lambda header=header: pixels_of(header), args.repeats)  # type: ignore[misc]
        decode_ms[name] = round(1000 * took_s)
    image = _noise(480, 640)
    photo = simplejpeg.encode_jpeg(_smooth(480, 640), quality=90)
    emit(
        "pictures",
        "measured",
        seed=0,
        megapixels=round(SIDE**2 / 1e6, 1),
        decode_ms=decode_ms,
        worst_ms=max(decode_ms.values()),
        resize_480_640_to_224_ms={
            method: [
                round(1000 * _least_s(lambda m=method, by=by: by(image, 224, 224, m), 50), 3)  # type: ignore[misc]
                for by in (resizing.resize_in_version_1, resizing.resize)
            ]
            for method in METHODS
        },
        header_us=round(1e6 * _least_s(lambda: files.look(photo), 1000), 1),
        peek_us=round(1e6 * _least_s(lambda: files.light_pixels([photo]), 1000), 1),
    )
    return 0


def _worst() -> Iterator[tuple[str, bytes]]:
    """The file of each kind that takes longest to decode, within the limits of a message."""
    noise = _noise(SIDE, SIDE)
    yield "jpeg, noise, quality 75", simplejpeg.encode_jpeg(noise, quality=75)
    part = noise[: SIDE // 3]
    yield "jpeg, noise, quality 100, a third", simplejpeg.encode_jpeg(part, quality=100)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY]
    for quality in (75, 95):
        data = cv2.imencode(".jpg", noise, [*options, quality])[1].tobytes()
        yield f"progressive, noise, quality {quality}", data
    yield "progressive, empty scans", _empty_scans(5120, MAX_SCANNED_PIXELS // 5120**2)
    for color, channels, depth in ((2, 3, 8), (6, 4, 8), (6, 4, 16)):
        line = b"\1" + bytes(channels * depth // 8 * SIDE)
        yield f"png, type {color}, {depth} bits", _png(SIDE, depth, color, line)
    smooth = _smooth(SIDE, SIDE) // 64 * 64
    yield "png, filtered", cv2.imencode(".png", smooth)[1].tobytes()


def _least_s(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - began_s)
    return min(times)


def _noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def _smooth(height: int, width: int) -> npt.NDArray[Any]:
    return cv2.resize(_noise(height // 16, width // 16), (width, height))


def _png(side: int, depth: int, color: int, line: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", side, side, depth, color, 0, 0, 0)
    packed = zlib.compressobj(1)
    body = b"".join(packed.compress(line) for _ in range(side)) + packed.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def _empty_scans(side: int, scans: int) -> bytes:
    """A grey progressive JPEG whose scans hold nothing: the most scans for the fewest bytes."""

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    blocks = (side // 8) ** 2
    whole, rest = divmod(blocks, 16384)
    assert rest == 0
    frame = struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])
    out = [b"\xff\xd8", segment(0xDB, b"\0" + b"\1" * 64), segment(0xC2, frame)]
    out.append(segment(0xC4, bytes([0x00, 1, *[0] * 15, 0x00])))
    out.append(segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0])) + bytes(blocks // 8))
    out.append(segment(0xC4, bytes([0x10, 1, *[0] * 15, 0xE0])))  # runs of 16384 empty blocks
    bits = "0" * 15 * whole
    runs = int(bits + "1" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big")
    for at in range(1, scans):
        out.append(segment(0xDA, bytes([1, 1, 0x00, at, at, 0])) + runs)
    return b"".join(out) + b"\xff\xd9"

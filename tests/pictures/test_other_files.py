"""BMP and WebP files: whole pictures with the right pixels, or refused."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from edged.errors import EdgedError, InvalidArgument, Unsupported
from edged.pictures import files
from edged.pictures.decoding import decode
from tests.pictures.making import encoded, exif, picture

IMAGE = picture(21, 30)
LOSSLESS = (cv2.IMWRITE_WEBP_QUALITY, 101)


def bmp(
    image: np.ndarray,
    depth: int = 24,
    *,
    form: int = 0,
    top_first: bool = False,
    old: bool = False,
    masks: tuple[int, ...] = (),
    palette: bytes = b"",
) -> bytes:
    """A BMP of RGB pixels, or of bytes as they lie in its lines if `palette` is given."""
    height, width = image.shape[:2]
    lines = image if top_first else image[::-1]
    if depth == 24:
        rows = [line[..., ::-1].tobytes() for line in lines]
    elif depth == 32:
        rows = [np.dstack([line[None, :, ::-1], line[None, :, :1]]).tobytes() for line in lines]
    elif depth == 16:
        red, green, blue = (lines[..., i].astype(np.uint16) for i in range(3))
        packed = (red >> 3 << 11) | (green >> 2 << 5) | (blue >> 3)
        rows = [line.astype("<u2").tobytes() for line in packed]
    else:
        rows = [line.tobytes() for line in lines]
        width = width * 8 // depth
    body = b"".join(row + bytes(-len(row) % 4) for row in rows)
    signed = -height if top_first else height
    if old:
        header = struct.pack("<IHHHH", 12, width, height, 1, depth)
    else:
        header = struct.pack(
            "<IiiHHIIiiII", 40, width, signed, 1, depth, form, len(body), 0, 0, len(palette) // 4, 0
        )
    header += struct.pack(f"<{len(masks)}I", *masks) + palette
    return struct.pack("<2sIHHI", b"BM", 14 + len(header) + len(body), 0, 0, 14 + len(header)) + (
        header + body
    )


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(k + struct.pack("<I", len(b)) + b + bytes(len(b) % 2) for k, b in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def frame(data: bytes) -> tuple[bytes, bytes]:
    """The chunk of the frame of a plain WebP file."""
    length = struct.unpack_from("<I", data, 16)[0]
    return data[12:16], data[20 : 20 + length]


@pytest.mark.parametrize(
    "data",
    [
        bmp(IMAGE),
        bmp(IMAGE, top_first=True),
        bmp(IMAGE, old=True),
        bmp(IMAGE, 32),
        bmp(IMAGE, 32, form=3, masks=(0xFF0000, 0xFF00, 0xFF)),
        encoded(IMAGE, ".bmp"),
        encoded(IMAGE, ".webp", *LOSSLESS),
    ],
)
def test_the_pixels_are_those_that_were_written(data: bytes) -> None:
    np.testing.assert_array_equal(decode(data), IMAGE)
    header = files.look(data)
    assert (header.height, header.width) == (21, 30)


def test_a_bmp_with_a_palette() -> None:
    palette = np.random.default_rng(0).integers(0, 256, (256, 4), dtype=np.uint8)
    places = np.random.default_rng(1).integers(0, 256, (9, 7), dtype=np.uint8)
    found = decode(bmp(places, 8, palette=palette.tobytes()))
    np.testing.assert_array_equal(found, palette[places][..., 2::-1])


def test_a_bmp_of_16_bits() -> None:
    found = decode(bmp(IMAGE, 16, form=3, masks=(0xF800, 0x07E0, 0x001F)))
    assert np.abs(found.astype(int) - IMAGE).max() <= 8


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_orientation_of_a_webp(orientation: int) -> None:
    kind, body = frame(encoded(IMAGE, ".webp", *LOSSLESS))
    size = struct.pack("<I", 29)[:3] + struct.pack("<I", 20)[:3]
    extended = (b"VP8X", bytes([0x08, 0, 0, 0]) + size)
    data = riff(extended, (kind, body), (b"EXIF", exif(orientation)))
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    np.testing.assert_array_equal(decode(data), np.rot90(IMAGE, turns))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (bmp(IMAGE)[:-1], "ends before its last pixel"),
        (bmp(IMAGE)[:30], "header is cut short"),
        (bmp(IMAGE)[:20], "header is cut short"),
        (bmp(IMAGE)[:28] + b"\x07\0" + bmp(IMAGE)[30:], "7 bits a pixel"),
        (bmp(IMAGE[:, :0]), "no pixels"),
        (encoded(IMAGE, ".webp")[:-40], "ends before its last chunk"),
        (encoded(IMAGE, ".webp")[:15], "header is cut short"),
        (riff((b"VP8 ", bytes(30))), "begins with no key frame"),
        (riff((b"VP8L", bytes(30))), "no signature"),
        (riff((b"ICCP", bytes(30))), "has no frame"),
        (
            riff((b"VP8X", bytes(4) + b"\x40" * 6), frame(encoded(IMAGE, ".webp"))),
            "does not fill its canvas",
        ),
        (riff((b"VP8L", b"\x2f" + bytes(30)), (b"VP8L", b"\x2f" + bytes(30))), "two frames"),
        (riff((b"VP8L", b"\x2f" + bytes(30))), "WebP is damaged"),
        (b"RIFF" + bytes(4) + b"WAVE" + bytes(20), "no JPEG, PNG, WebP or BMP file"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        decode(data)


def test_a_webp_whose_frame_is_cut_short_is_refused() -> None:
    for options in ((), LOSSLESS):
        kind, body = frame(encoded(picture(200, 300), ".webp", *options))
        with pytest.raises(InvalidArgument, match="WebP is damaged"):
            decode(riff((kind, body[: len(body) // 2])))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (bmp(IMAGE, form=1), "compressed"),
        (bmp(IMAGE, 32, form=3, masks=(0xFF, 0xFF00, 0xFF0000)), "unusual places"),
        (riff((b"VP8X", bytes([2, *bytes(9)]))), "an animation"),
    ],
)
def test_rare_kinds_are_refused_with_a_way_out(data: bytes, says: str) -> None:
    with pytest.raises(Unsupported, match=says):
        decode(data)


def test_a_size_above_the_limit_is_refused_before_anything_is_decoded() -> None:
    big = struct.pack("<I", (9999 << 14) | 9999)
    for data in (
        struct.pack("<2sIHHI", b"BM", 0, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 24, *[0] * 6),
        riff((b"VP8L", b"\x2f" + big + bytes(20))),
    ):
        with pytest.raises(EdgedError):
            decode(data, max_pixels=1000)


def test_the_beginning_of_a_bmp_tells_its_pixels_and_a_webp_is_not_light() -> None:
    assert files.light_pixels([bmp(IMAGE)[:40]]) == 21 * 30
    assert files.light_pixels([encoded(IMAGE, ".webp")]) is None

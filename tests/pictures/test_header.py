"""The headers of pictures, odd ones included, and the pictures that are refused by their header."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from edged.errors import InvalidArgument, ResourceExhausted, Unsupported
from edged.pictures import files
from edged.pictures.decoding import decode, pixels_of
from edged.pictures.header import check, decode_bytes, most_decode_bytes
from tests.pictures.making import (
    chunk,
    encoded,
    exif,
    picture,
    png,
    png_header,
    png_of_zeros,
    progressive_of_zeros,
    segment,
    split,
)

XMP = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>")
STORED = picture()
UPRIGHT = np.rot90(STORED, -1)  # STORED turned as orientation 6 says


def app1(tiff: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + tiff)


def with_segments(*segments: bytes, after: int = 0) -> bytes:
    """A JPEG with further segments, after the first `after` of its own."""
    own, rest = split(encoded(STORED))
    return b"\xff\xd8" + b"".join((*own[:after], *segments, *own[after:])) + rest


def shown(data: bytes) -> str:
    """The way up in which a picture is decoded."""
    expected = decode(encoded(STORED))
    found = decode(data)
    if found.shape == UPRIGHT.shape and np.array_equal(found, np.rot90(expected, -1)):
        return "turned"
    return "as stored" if np.array_equal(found, expected) else "something else"


@pytest.mark.parametrize(
    "data",
    [
        with_segments(app1(exif(6))),
        with_segments(segment(0xFE, b"a camera"), app1(exif(6))),
        with_segments(app1(exif(6)), after=1),  # follows JFIF
        with_segments(app1(exif(6)), after=4),  # follows tables
        with_segments(XMP, app1(exif(6))),
        with_segments(app1(exif(6)), XMP),
        with_segments(app1(b"II*\0"), app1(exif(6))),  # the first one says nothing
        with_segments(b"\xff\xff\xff" + app1(exif(6))),  # fill bytes
        with_segments(b"\xff\x01" + app1(exif(6))),  # a marker without a length
        with_segments(segment(0xED, b"\xff\xd8\xff\xda\xff\xd9"), app1(exif(6))),  # a thumbnail
        with_segments(b"\0" + app1(exif(6))),  # a stray byte
        with_segments(app1(exif(6, order=">"))),
        with_segments(app1(exif(6, kind=4))),
        with_segments(app1(exif(6, kind=4, order=">"))),
        with_segments(app1(exif(6, kind=1))),
        with_segments(app1(exif(6, before=200))),
        with_segments(app1(exif(6, before=3)[: 8 + 2 + 12 * 4])),  # cut behind it
        with_segments(segment(0xE1, b"Exif\0\xff" + exif(6))),
    ],
)
def test_the_orientation_is_found_wherever_and_however_it_is_written(data: bytes) -> None:
    assert shown(data) == "turned"


@pytest.mark.parametrize(
    "data",
    [
        with_segments(),
        with_segments(app1(exif(0))),
        with_segments(app1(exif(9))),
        with_segments(app1(exif(6, before=3)[: 8 + 2 + 12 * 3 + 6])),  # cut within it
        with_segments(app1(exif(6).replace(b"II*\0\x08", b"II*\0\xf0"))),
        with_segments(app1(b"")),
        with_segments(app1(b"MM")),
        with_segments(segment(0xE1, b"Exif")),
        with_segments(segment(0xE2, b"Exif\0\0" + exif(6))),  # not APP1
        encoded(STORED) + app1(exif(6)),  # follows the picture
    ],
)
def test_a_picture_without_a_readable_orientation_is_shown_as_stored(data: bytes) -> None:
    assert shown(data) == "as stored"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_every_orientation_as_opencv_applies_it(orientation: int, kind: str) -> None:
    data = encoded(STORED, kind)
    if kind == ".jpg":
        data = data[:2] + app1(exif(orientation)) + data[2:]
    else:
        data = data[:33] + chunk(b"eXIf", exif(orientation)) + data[33:]
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(decode(data), expected)


def test_headers_of_cameras_that_libjpeg_warns_of_are_read() -> None:
    """A stray byte between segments (some webcams); a scan that names the wrong coefficients."""
    own, rest = split(encoded(STORED))
    stray = b"\xff\xd8" + b"".join(own[:2]) + b"\0" + b"".join(own[2:]) + rest
    end = 2 + struct.unpack_from(">H", rest, 2)[0]
    odd_scan = b"\xff\xd8" + b"".join(own) + rest[: end - 3] + b"\0\x3e\0" + rest[end:]
    for data in (stray, odd_scan):
        with pytest.raises(ValueError, match=r"extraneous|Invalid SOS"):
            simplejpeg.decode_jpeg(data)
        assert shown(data) == "as stored"


def with_byte(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


def test_marks_of_programs_that_libjpeg_warns_of_are_read() -> None:
    """A revision of JFIF that does not exist, and a transformation that Adobe never had."""
    plain = encoded(STORED)
    own, rest = split(plain)
    jfif = with_byte(plain, plain.index(b"JFIF") + 5, 7)
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0\x02")
    unknown = b"\xff\xd8" + adobe + b"".join(own[1:]) + rest
    for data in (jfif, unknown):
        with pytest.raises(ValueError, match=r"JFIF|Adobe"):
            simplejpeg.decode_jpeg(data)
        assert shown(data) == "as stored"


def scan_for_each_colour(end: bytes) -> bytes:
    """A sequential picture of one grey block; its colours come in scans of their own."""
    parts = b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3))
    tables = b"".join(segment(0xC4, bytes([kind, 1, *[0] * 15, 0])) for kind in (0x00, 0x10))
    scans = [segment(0xDA, bytes([1, i, 0]) + end) + b"\x3f" for i in (1, 2, 3)]
    frame = struct.pack(">BHHB", 8, 8, 8, 3) + parts
    head = segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC0, frame) + tables
    return b"\xff\xd8" + head + b"".join(scans) + b"\xff\xd9"


def test_every_scan_of_a_sequential_picture_may_name_the_wrong_coefficients() -> None:
    right, wrong = (scan_for_each_colour(end) for end in (b"\0\x3f\0", b"\0\0\0"))
    with pytest.raises(ValueError, match="Invalid SOS"):
        simplejpeg.decode_jpeg(wrong)
    np.testing.assert_array_equal(decode(wrong), decode(right))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff\xd8\xff\xd9", "ends before a picture begins"),
        (b"\xff\xd8\xff\xe0\0\1" + bytes(50), "a length that it cannot have"),
        (b"\xff\xd8\xff\xe0\xff\xff" + bytes(50), "a length that it cannot have"),
        (b"\xff\xd8" + segment(0xFE, b"") * 3000, "more than 2000 segments"),
        (with_segments(segment(0xC0, b"\x08\0\1\0\1\1\1\x11\0")), "two frames"),
        (encoded(STORED, ".png")[:-12], "PNG is damaged .it ends before its last chunk"),
        (encoded(STORED, ".png")[:60], "PNG is damaged .it ends within a chunk"),
        (png_of_zeros(8, 8, [chunk(b"tIME", b"")] * 100_000), "more than 100000 chunks"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_wrong(data: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        decode(data)


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [(0, 0xC3, "SOF3"), (0, 0xC9, "SOF9"), (3, 12, "12 bits"), (8, 4, "CMYK")],
)
def test_a_jpeg_of_another_kind_is_refused_with_what_to_do(
    offset: int, value: int, says: str
) -> None:
    data = bytearray(encoded(STORED))
    data[data.index(b"\xff\xc0") + 1 + offset] = value
    with pytest.raises(Unsupported, match=says) as caught:
        decode(bytes(data))
    assert "save it" in str(caught.value)


# --- the memory and time that a picture takes, by its header --------------------------------------


def test_pixels_are_limited_before_decoding() -> None:
    with pytest.raises(ResourceExhausted, match=r"30000 x 30000 pixels, the limit is 50000000"):
        decode(png_header(30_000, 30_000))
    jpeg = encoded(picture(60, 80))
    assert decode(jpeg, max_pixels=4800).shape == (60, 80, 3)
    with pytest.raises(ResourceExhausted, match="the limit is 4799"):
        decode(jpeg, max_pixels=4799)


def test_scans_are_counted_and_limited_before_decoding() -> None:
    """Each scan goes over the whole picture: decoding a file of 1 MB could take minutes."""
    for side, scans, most in (
        (1024, 500, None),
        (1024, 501, 500),
        (5120, 20, None),
        (5120, 21, 20),
    ):
        data = progressive_of_zeros(side, scans)
        if most is None:
            header = files.look(data)
            assert (header.scans, header.is_whole) == (scans, True)
            check(header, 2**25)
            continue
        with pytest.raises(ResourceExhausted, match=f"more than {most} scans .* a baseline JPEG"):
            decode(data)
    assert decode(progressive_of_zeros(1024, 12)).shape == (1024, 1024, 3)  # they are legal


def test_ordinary_files_have_ordinary_scans() -> None:
    own = {path.name: files.look(path.read_bytes()) for path in FILES.glob("*.jpg")}
    assert {name: (h.scans, h.is_whole) for name, h in own.items() if h.scans > 1} == {
        "progressive.jpg": (10, True)
    }


def test_texts_that_unpack_to_megabytes_are_never_unpacked() -> None:
    bomb = zlib.compress(bytes(7_900_000), 9)
    texts = [chunk(b"zTXt", b"k\0\0" + bomb), chunk(b"iTXt", b"k\0\1\0\0\0" + bomb)] * 50
    animation = [chunk(b"acTL", bytes(8)), chunk(b"iCCP", b"k\0\0" + bomb)]
    plain = png(STORED, 2)
    data = plain[:33] + b"".join((*texts, *animation)) + plain[33:]
    before = _resident_bytes("VmHWM")
    began_s = time.perf_counter()
    np.testing.assert_array_equal(decode(data), STORED)
    assert time.perf_counter() - began_s < 1.0  # 4 s if each is unpacked
    assert _resident_bytes("VmHWM") - before < 100_000_000  # 782 MB if each is unpacked
    assert files.look(data).file == plain


@pytest.mark.parametrize(
    ("data", "bytes_per_pixel"),
    [
        (encoded(picture(64, 64)), 4),
        (encoded(picture(64, 64))[:2] + app1(exif(3)) + encoded(picture(64, 64))[2:], 8),
        (encoded(picture(64, 64), ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), 10),
        (encoded(picture(64, 64), ".png"), 8),
    ],
)
def test_memory_by_the_header(data: bytes, bytes_per_pixel: int) -> None:
    assert decode_bytes(files.look(data)) == bytes_per_pixel * 64 * 64 + 2**20
    assert decode_bytes(files.look(data)) <= most_decode_bytes(64 * 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("color", "channels", "depth"),
    [
        *(
            (color, channels, np.uint8)
            for color, channels in ((0, 1), (2, 3), (3, 1), (4, 2), (6, 4))
        ),
        *((color, channels, np.uint16) for color, channels in ((0, 1), (2, 3), (4, 2), (6, 4))),
    ],
)
@pytest.mark.parametrize("interlaced", [False, True])
def test_no_png_takes_more_than_its_header_says(
    color: int, channels: int, depth: type, interlaced: bool
) -> None:
    pixels = np.zeros((2000, 2000, channels), depth)
    palette = bytes(768) if color == 3 else None
    _takes_what_its_header_says(png(pixels, color, palette=palette, interlaced=interlaced))


@pytest.mark.slow
@pytest.mark.parametrize("turn", [1, 3, 5, 6, 7])
@pytest.mark.parametrize("progressive", [0, 1])
def test_no_jpeg_takes_more_than_its_header_says(turn: int, progressive: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    data = encoded(image, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, *sampling)
    _takes_what_its_header_says(data[:2] + app1(exif(turn)) + data[2:])


def _takes_what_its_header_says(data: bytes) -> None:
    header = files.look(data)
    pixels_of(header, spare=True)  # what libraries allocate once
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident_bytes("VmRSS")
    pixels_of(header, spare=True)
    assert _resident_bytes("VmHWM") - before <= decode_bytes(files.look(data))


def _resident_bytes(which: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if which in line)
    return int(line.split()[1]) * 1024


FILES = Path(__file__).parent / "files"

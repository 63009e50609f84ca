"""A picture is decoded whole or not at all, and every machine gets the same pixels."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import EdgedError, InvalidArgument
from edged.pictures.decoding import decode
from tests.pictures.golden import GOLDEN, digests
from tests.pictures.making import encoded, picture, png_header


def test_all_sizes_decoders_and_orientations_are_the_same_on_every_machine() -> None:
    """golden.json was written on x86_64, and holds on aarch64 (tests/pictures/golden.py)."""
    golden = json.loads(GOLDEN.read_text())
    found = dict(digests())
    assert len(golden) == len(found) > 200
    assert {name for name, digest in found.items() if golden[name] != digest} == set()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"hello, this is text", "no JPEG, PNG, WebP or BMP file"),
        (encoded(picture())[:60], "JPEG is damaged"),
        (encoded(picture())[:-200], "JPEG is damaged"),
        (encoded(picture())[:-2], "JPEG is damaged"),
        (encoded(picture(), ".png")[:20], "PNG is damaged"),
        (encoded(picture(), ".png")[:-200], "PNG is damaged"),
        (encoded(picture(), ".png")[:-1], "PNG is damaged"),
        (png_header(300, 300), "PNG is damaged"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(data: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        b"\xff\xd9",  # the picture ends here
        b"\xff\xd9" + bytes(38),
        b"\xff\x00" * 20,  # no code of a JPEG is all ones (T.81, C.2), and these are 160 of them
        b"\xff\xd3" + bytes(38),  # a restart that nothing has announced
    ],
)
def test_a_jpeg_with_damage_that_shows_is_not_half_decoded(wrong: bytes) -> None:
    """Other damage can be a legal picture as well: JPEG has no checksums, and nobody can tell."""
    good = encoded(picture(480, 640, seed=1))
    middle = len(good) // 2
    middle += good[middle - 1] == 0xFF  # avoids the middle of a stuffed byte
    bad = good[:middle] + wrong + good[middle + len(wrong) :]
    assert cv2.imdecode(np.frombuffer(bad, np.uint8), cv2.IMREAD_COLOR) is not None  # the trap
    with pytest.raises(InvalidArgument, match="JPEG is damaged"):
        decode(bad)


def test_any_flipped_bit_of_a_png_s_pixels_is_found_by_its_checksum() -> None:
    good = bytearray(encoded(picture(), ".png"))
    first = good.index(b"IDAT") + 4
    for at in range(first, len(good) - 16, 97):
        good[at] ^= 0x10
        with pytest.raises(InvalidArgument, match="PNG is damaged"):
            decode(bytes(good))
        good[at] ^= 0x10


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\x99\0\0\0WEBP"]),
)
def test_any_bytes_give_a_typed_error(data: bytes, magic: bytes) -> None:
    with pytest.raises(EdgedError):
        decode(magic + data)


@given(st.data())
def test_flipped_bytes_give_a_whole_picture_or_a_typed_error(data: st.DataObject) -> None:
    good = bytearray(
        encoded(picture(), data.draw(st.sampled_from([".jpg", ".png", ".webp", ".bmp"])))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        image = decode(bytes(good), max_pixels=100_000)
    except EdgedError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3

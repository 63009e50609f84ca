from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged import preprocess
from edged.errors import EdgedError, InvalidArgument, ResourceExhausted
from edged.manifest import Preprocess

IMAGENET = Preprocess(
    height=224,
    width=224,
    resize="shorter-side",
    resize_to=256,
    crop="center",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def picture(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """A smooth random RGB picture, so that JPEG keeps it recognisable."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image: np.ndarray, kind: str = ".jpg", *options: int) -> bytes:
    return cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, and holds almost none of them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def with_exif(jpeg: bytes, orientation: int, order: str) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    tiff = mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def reference(image: np.ndarray, spec: Preprocess) -> np.ndarray:
    """(x * scale - mean) / std in double precision, rounded once; the picture has its size."""
    channels = image if spec.color == "RGB" else image[..., ::-1]
    values = (channels.astype(np.float64) * spec.scale - spec.mean) / spec.std
    values = values.astype(np.float32)
    return values if spec.layout == "NHWC" else np.ascontiguousarray(values.transpose(2, 0, 1))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_normalisation_is_exact_to_the_last_bit(layout: str, color: str) -> None:
    spec = Preprocess(
        height=60, width=80, layout=layout, color=color, mean=(0.1, 0.2, 0.3), std=(0.7, 0.8, 0.9)
    )
    image = picture()
    rows = np.full((3, *reference(image, spec).shape), np.nan, np.float32)
    preprocess.normalise(image, spec, rows[1])
    np.testing.assert_array_equal(rows[1], reference(image, spec))
    assert np.isnan(rows[[0, 2]]).all(), "the neighbouring rows were written"


def test_png_and_pixels_are_the_same_input_bit_for_bit() -> None:
    image = picture()
    spec = Preprocess(height=32, width=32, interpolation="area")
    from_png, from_pixels = (np.empty((3, 32, 32), np.float32) for _ in range(2))
    preprocess.prepare(memoryview(encoded(image, ".png")), spec, from_png)
    preprocess.prepare(image, spec, from_pixels)
    np.testing.assert_array_equal(from_png, from_pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_orientation_as_opencv_applies_it(orientation: int, order: str) -> None:
    jpeg = with_exif(encoded(picture()), orientation, order)
    expected = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(preprocess.decode(jpeg), expected)


def test_a_broken_exif_block_does_not_matter() -> None:
    jpeg = with_exif(encoded(picture()), 6, "<").replace(b"II*\0\x08", b"II*\0\xf0")
    assert preprocess.decode(jpeg).shape == (60, 80, 3)


@pytest.mark.parametrize(
    ("height", "width", "spec", "expected"),
    [
        (480, 640, IMAGENET, (256, 341)),
        (640, 480, IMAGENET, (341, 256)),
        (480, 640, Preprocess(height=96, width=64), (96, 64)),
        (480, 640, Preprocess(height=224, width=224, resize_to=256, crop="center"), (256, 256)),
        (100, 400, Preprocess(96, 96, resize="shorter-side", crop="center"), (96, 384)),
        # A wide input of a tall picture: the shorter side alone would not cover the crop.
        (400, 100, Preprocess(50, 200, "shorter-side", 50, crop="center"), (800, 200)),
    ],
)
def test_size_before_the_crop(
    height: int, width: int, spec: Preprocess, expected: tuple[int, int]
) -> None:
    assert preprocess.resized(height, width, spec) == expected


def test_the_crop_is_the_middle() -> None:
    image = np.zeros((256, 512, 3), np.uint8)
    image[16:240, 144:368] = 255
    out = np.empty((3, 224, 224), np.float32)
    preprocess.prepare(image, Preprocess(224, 224, "shorter-side", 256, crop="center"), out)
    assert (out == 1.0).all()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"hello, this is text", "neither JPEG nor PNG"),
        (encoded(picture())[:60], "JPEG is damaged"),
        (encoded(picture())[:-200], "JPEG is damaged"),
        (encoded(picture())[:-2], "JPEG is damaged"),
        (encoded(picture(), ".png")[:20], "PNG is damaged"),
        (encoded(picture(), ".png")[:-200], "PNG is damaged"),
        (png_header(300, 300), "PNG is damaged"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(data: bytes, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        preprocess.decode(data)
    assert "\n" not in str(caught.value)


def test_a_jpeg_damaged_in_the_middle_is_not_half_decoded() -> None:
    good = encoded(picture(480, 640, seed=1))
    middle = len(good) // 2
    bad = good[:middle] + bytes(byte ^ 0xFF for byte in good[middle : middle + 40])
    bad += good[middle + 40 :]
    assert cv2.imdecode(np.frombuffer(bad, np.uint8), cv2.IMREAD_COLOR) is not None  # the trap
    with pytest.raises(InvalidArgument, match="JPEG is damaged"):
        preprocess.decode(bad)


def test_pixels_are_limited_before_decoding() -> None:
    with pytest.raises(ResourceExhausted, match=r"30000 x 30000 pixels, the limit is 50000000"):
        preprocess.decode(png_header(30_000, 30_000))
    jpeg = encoded(picture(60, 80))
    assert preprocess.decode(jpeg, max_pixels=4800).shape == (60, 80, 3)
    with pytest.raises(ResourceExhausted, match="the limit is 4799"):
        preprocess.decode(jpeg, max_pixels=4799)


def test_a_strip_does_not_become_gigabytes() -> None:
    strip = np.zeros((1, 50_000, 3), np.uint8)
    with pytest.raises(InvalidArgument, match="50 times the other"):
        preprocess.prepare(strip, IMAGENET, np.empty((3, 224, 224), np.float32))


def test_an_aspect_ratio_that_nothing_crops_is_refused() -> None:
    spec = Preprocess(height=32, width=32, resize="shorter-side", resize_to=32)
    with pytest.raises(InvalidArgument, match="resize = stretch or crop = center"):
        preprocess.prepare(picture(60, 80), spec, np.empty((3, 32, 32), np.float32))


@pytest.mark.parametrize(
    "out",
    [
        np.empty((3, 32, 33), np.float32),
        np.empty((3, 32, 32), np.float64),
        np.empty((32, 32, 3), np.float32).transpose(2, 0, 1),
    ],
)
def test_an_output_that_opencv_would_replace_is_refused(out: np.ndarray) -> None:
    with pytest.raises(InvalidArgument, match="export the model again"):
        preprocess.prepare(picture(), Preprocess(height=32, width=32), out)


def test_threads_do_not_change_a_bit() -> None:
    files = [encoded(picture(120, 160, seed)) for seed in range(8)]

    def one(data: bytes) -> bytes:
        out = np.empty((3, 224, 224), np.float32)
        preprocess.prepare(data, IMAGENET, out)
        return out.tobytes()

    alone = [one(data) for data in files]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(one, files)) == alone


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
def test_any_bytes_give_a_typed_error(data: bytes, magic: bytes) -> None:
    with pytest.raises(EdgedError):
        preprocess.decode(magic + data)


@given(st.data())
def test_flipped_bytes_give_a_whole_picture_or_a_typed_error(data: st.DataObject) -> None:
    good = bytearray(encoded(picture(), data.draw(st.sampled_from([".jpg", ".png"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        image = preprocess.decode(bytes(good), max_pixels=100_000)
    except EdgedError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3

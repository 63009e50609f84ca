from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import cv2
import msgspec
import numpy as np
import pytest

from edged import manifest, preprocess
from edged.errors import InvalidArgument
from edged.manifest import Preprocess
from edged.pictures import resizing
from edged.pictures.resizing import Method
from tests.pictures.making import encoded, picture

IMAGENET = Preprocess(
    height=224,
    width=224,
    resize="shorter-side",
    resize_to=256,
    crop="center",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def reference(image: np.ndarray, spec: Preprocess) -> np.ndarray:
    """The input of a picture of the right size: (x * scale - mean) / std, rounded once."""
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


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize("size", [(60, 80), (32, 32)])  # resized, and not resized
def test_a_spare_channel_changes_nothing(layout: str, color: str, size: tuple[int, int]) -> None:
    """Decoders may leave a fourth channel, since exact resizing is faster with four."""
    spec = Preprocess(32, 32, layout=layout, color=color)
    shape = (3, 32, 32) if layout == "NCHW" else (32, 32, 3)
    image, (expected, found) = picture(*size), np.empty((2, *shape), np.float32)
    preprocess.normalise(image, spec, expected)
    preprocess.normalise(np.dstack([image, image[..., :1]]), spec, found)
    np.testing.assert_array_equal(found, expected)


# --- versions of resizing -------------------------------------------------------------------------

OLD_MANIFEST = {  # stored before resizing had a version
    "schema": 1,
    "name": "old",
    "task": "old",
    "precision": "fp32",
    "inputs": ["image"],
    "outputs": ["y"],
    "values": [
        {"name": "image", "datatype": "FP32", "shape": [3, 8, 8]},
        {"name": "y", "datatype": "FP32", "shape": [2]},
    ],
    "steps": [{"block": "0" * 64, "reads": ["image"], "writes": ["y"], "layers": []}],
    "whole_bytes": 10,
    "preprocess": {
        "height": 8,
        "width": 8,
        "resize": "shorter-side",
        "resize_to": 10,
        "interpolation": "linear",
        "crop": "center",
        "color": "RGB",
        "scale": 0.00392156862745098,
        "mean": [0.485, 0.456, 0.406],
        "std": [1.0, 1.0, 1.0],
        "layout": "NCHW",
    },
    "max_rows": None,
    "labels": ["no", "yes"],
    "accuracy": None,
    "head_of": None,
}
OLD_FEATURES = "d5dadaeccaa81f13ac6e93cd369cb2541852aff75bb0021cbb278f3998b7546d"


def test_a_model_that_is_stored_keeps_the_resizing_that_it_was_made_with() -> None:
    old = manifest.decode(json.dumps(OLD_MANIFEST).encode())
    spec = old.preprocess
    assert spec is not None
    assert spec.resize_version == 1
    again = json.loads(manifest.encode(old))
    assert again["preprocess"] == OLD_MANIFEST["preprocess"]
    assert list(again["preprocess"]) == list(OLD_MANIFEST["preprocess"])
    assert manifest.features_digest(old, "y") == OLD_FEATURES  # heads are bound to it
    image = picture(48, 64)
    resized = cv2.resize(image, (13, 10), interpolation=cv2.INTER_LINEAR)
    row = np.empty((3, 8, 8), np.float32)
    preprocess.normalise(image, spec, row)
    np.testing.assert_array_equal(row, reference(resized[1:9, 2:10], spec))


def test_the_version_of_a_new_model_is_part_of_what_its_heads_stand_on() -> None:
    old = manifest.decode(json.dumps(OLD_MANIFEST).encode())
    spec = Preprocess(8, 8, "shorter-side", 10, crop="center", mean=(0.485, 0.456, 0.406))
    assert spec.resize_version == 2
    new = msgspec.structs.replace(old, preprocess=spec)
    assert json.loads(manifest.encode(new))["preprocess"]["resize_version"] == 2
    assert manifest.decode(manifest.encode(new)) == new
    assert manifest.features_digest(new, "y") != OLD_FEATURES


@pytest.mark.parametrize(("method", "most"), [("linear", 1), ("area", 1), ("cubic", 1)])
def test_exact_resizing_is_the_resizing_that_is_meant(method: Method, most: int) -> None:
    """OpenCV's own resizing on this machine differs only by its rounding."""
    for size, to in (((480, 640), (224, 224)), ((48, 36), (100, 90)), ((33, 50), (32, 60))):
        image = picture(*size)
        exact = resizing.resize(image, *to, method).astype(int)
        assert np.abs(exact - resizing.resize_in_version_1(image, *to, method)).max() <= most


def test_area_is_the_mean_of_what_a_pixel_covers() -> None:
    """Whole numbers show it: a pixel of the result covers 7/3 by 5/2 pixels, half goes up."""
    image = picture(70, 50)
    rows, columns = (
        np.array(
            [
                [
                    max(0, min((i + 1) * to, (j + 1) * size) - max(i * to, j * size))
                    for i in range(size)
                ]
                for j in range(to)
            ]
        )
        for size, to in ((70, 30), (50, 20))
    )
    sums = np.einsum("jh,hwc,iw->jic", rows, image.astype(np.int64), columns)
    expected = (2 * sums + 70 * 50) // (2 * 70 * 50)
    np.testing.assert_array_equal(resizing.resize(image, 30, 20, "area"), expected)


def test_a_picture_that_is_resized_in_strips_is_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(300, 400)
    whole = {method: resizing.resize(image, 90, 110, method) for method in ("area", "cubic")}
    monkeypatch.setattr(resizing, "_STRIP_SUMS", 5000)
    monkeypatch.setattr(resizing, "_PRODUCT_ROWS", 3)
    for method, expected in whole.items():
        np.testing.assert_array_equal(resizing.resize(image, 90, 110, method), expected)

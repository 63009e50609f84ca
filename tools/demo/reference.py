"""The reference for the daemon's answers: each task's uncut model, run whole in ONNX Runtime.

The uncut model of a trained head is put together from the backbone as torch exported it and the
head as it was trained; neither has been through the cutter. Images go through the same
preprocessing as in the daemon, which is not what is compared. Knows nothing of the daemon.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from edged import preprocess
from edged.manifest import Manifest, Preprocess
from tools.demo.build import Folder
from tools.demo.data import HeldOut

_ROWS = 8  # images run at once; the result does not depend on it


class _Kept(msgspec.Struct, frozen=True):
    """The classes of each image, best first, and a digest of everything that they depend on."""

    key: str
    classes: list[list[str]]


def classify(
    folder: Folder, models: Mapping[str, Manifest], images: Sequence[HeldOut], top: int
) -> dict[HeldOut, tuple[str, ...]]:
    """The best `top` classes of each image by the uncut model of its task, best first.

    They are kept in `folder`, and read from there while everything that they depend on is the same.
    """
    found: dict[HeldOut, tuple[str, ...]] = {}
    for task in dict.fromkeys(image.task for image in images):
        (model,) = (model for model in models.values() if model.task == task)
        mine = [image for image in images if image.task == task]
        path = folder.reference / f"{model.name}.json"
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept) if path.exists() else None
        key = _key(folder.backbone, model, mine, top)
        if kept is None or kept.key != key:
            uncut = _uncut(folder, model)
            kept = _Kept(key, _classify(uncut, model, mine, top))
            path.write_bytes(msgspec.json.encode(kept))
        found |= {image: tuple(best) for image, best in zip(mine, kept.classes, strict=True)}
    return found


def _key(backbone: Path, model: Manifest, images: Sequence[HeldOut], top: int) -> str:
    digest = hashlib.sha256(msgspec.json.encode([model, top]))
    for path in (backbone, *(image.path for image in images)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _uncut(folder: Folder, model: Manifest) -> bytes:
    """The backbone; the head of `model`, if it has one, replaces the classifier."""
    if model.head_of is None:
        return folder.backbone.read_bytes()
    import onnx
    from onnx import compose, utils, version_converter

    whole = onnx.load(folder.backbone)
    (output,) = whole.graph.output
    (classifier,) = (node for node in whole.graph.node if output.name in node.output)
    features = classifier.input[0]
    trunk = utils.Extractor(whole).extract_model([whole.graph.input[0].name], [features])
    head = onnx.load(folder.head(model.task))
    head = version_converter.convert_version(head, trunk.opset_import[0].version)
    head.ir_version = trunk.ir_version
    joined = compose.merge_models(
        compose.add_prefix(trunk, "trunk/"),
        compose.add_prefix(head, "head/"),
        io_map=[(f"trunk/{features}", f"head/{head.graph.input[0].name}")],
    )
    return bytes(joined.SerializeToString())


def _classify(
    uncut: bytes, model: Manifest, images: Sequence[HeldOut], top: int
) -> list[list[str]]:
    import onnxruntime

    assert model.preprocess is not None, "this is a bug: the demo's tasks are all of images"
    session = onnxruntime.InferenceSession(uncut, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    classes = []
    for batch in _batches(images, model.preprocess):
        (scores,) = session.run(None, {feed: batch})  # (rows, classes)
        ranked = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        classes += [[model.labels[index] for index in row] for row in ranked]
    return classes


def _batches(images: Sequence[HeldOut], spec: Preprocess) -> Iterator[npt.NDArray[np.float32]]:
    """Model inputs, (rows, 3, height, width)."""
    for start in range(0, len(images), _ROWS):
        rows = images[start : start + _ROWS]
        batch = np.empty((len(rows), 3, spec.height, spec.width), np.float32)
        for image, row in zip(rows, batch, strict=True):
            preprocess.prepare(image.path.read_bytes(), spec, row)
        yield batch

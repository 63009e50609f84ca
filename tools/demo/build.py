"""The demo's store: the backbone exported and cut into blocks, and a head trained for each task.

Models that are there already are kept. Knows nothing of the daemon.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edged.manifest import Manifest
from edged.store import Store
from tools.demo import data

BACKBONE = "imagenet"  # the model whose features the heads stand on


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of all files of the demo; it writes nowhere else."""

    path: Path

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def store(self) -> Path:
        return self.path / "store"

    @property
    def backbone(self) -> Path:
        """The uncut backbone with its own classifier, as torch exported it."""
        return self.path / "efficientnet-lite0.onnx"

    def head(self, task: str) -> Path:
        """The file of a trained head alone, from features to logits."""
        return self.path / "heads" / f"{task}.onnx"

    @property
    def reference(self) -> Path:
        """The file of the uncut models' answers."""
        return self.path / "reference"


def build(folder: Folder, seed: int) -> dict[str, Manifest]:
    """Make the models that are missing, reporting progress, and return all models by name."""
    store = Store(folder.store).create()
    for path in (folder.images, folder.head("").parent, folder.reference):
        path.mkdir(exist_ok=True)
    for task in data.SOURCES:
        if not data.written(folder.images, task):
            with _step(f"images of {task}"):
                data.write(folder.images, task, seed)
    missing = [task for task in data.SOURCES if task not in store.names()]
    if BACKBONE in missing:
        with _step("EfficientNet-Lite0 from torch to ONNX to blocks, compared with the whole"):
            _export_backbone(folder, store)
    for task in missing:
        if task != BACKBONE:
            with _step(f"a head for {task}"):
                _train_head(folder, store, task, seed)
    if missing:
        store.gc()  # the first head has split the backbone's only block
    return store.models()


def _export_backbone(folder: Folder, store: Store) -> None:
    # These are imported here, because a second run needs no torch.
    from export.add import add_models
    from export.source import Source
    from export.torch_model import export_module
    from tools.demo.backbone import PREPROCESS, efficientnet_lite0, imagenet_labels

    module, example = efficientnet_lite0()
    export_module(module, [example], folder.backbone)
    source = Source(BACKBONE, folder.backbone, preprocess=PREPROCESS, labels=imagenet_labels())
    add_models(store, [source])


def _train_head(folder: Folder, store: Store, task: str, seed: int) -> None:
    from export.heads import train_head

    images = folder.images / task
    train_head(
        store,
        BACKBONE,
        task,
        images / "train",
        test=images / "test",
        seed=seed,
        save=folder.head(task),
    )


@contextmanager
def _step(what: str) -> Iterator[None]:
    print(f"==> {what}", flush=True)
    began_s = time.monotonic()
    yield
    print(f"    {time.monotonic() - began_s:.1f} s", flush=True)

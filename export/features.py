"""Features: the values that a model computes below its last layer, for a folder of images.

A folder holds one folder of images for each class. Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path as File

import numpy as np
import numpy.typing as npt

from edged import manifest as manifests
from edged.errors import InvalidArgument, NotFound
from edged.manifest import Layer, Manifest, Value
from edged.store import Store
from export.assemble import stored_layers, whole_block
from export.labels import check_name
from export.layers import Path
from export.pictures import ENDINGS, prepared
from export.probe import run, session

Floats = npt.NDArray[np.float32]

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Images:
    """Files with the index of their class; `classes` are the names of the folders, sorted."""

    files: tuple[File, ...]
    targets: npt.NDArray[np.int64]
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Features:
    """The part of a model that leads to the value `at`."""

    model: Manifest
    at: Value
    path: Path  # the path whose only output is `at`


def images(folder: File) -> Images:
    """The images of a folder of classes.

    Raises NotFound, or InvalidArgument unless there are two classes, each with an image.
    """
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if len(classes) < 2:
        raise InvalidArgument(
            f"{folder} has {len(classes)} folders: it must have one folder of images for each class"
        )
    files, targets = [], []
    for index, path in enumerate(classes):
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
        if not found:
            raise InvalidArgument(f"{path} has no JPEG, PNG, WebP or BMP files")
        files += found
        targets += [index] * len(found)
    return Images(tuple(files), np.array(targets), tuple(map(check_name, classes)))


def below(store: Store, model: Manifest, at: str | None = None) -> Features:
    """The features of a model: the value `at`, by default the input of its last linear layer.

    Raises InvalidArgument if there is no such value, or if it is not one vector a row.
    """
    uses = manifests.layers(model)
    vectors = [name for use in uses for name in use.writes if len(model.value(name).shape) == 1]
    inner = [name for name in vectors if name not in model.outputs]
    name = at or (inner[-1] if inner else None)
    if name not in vectors:
        raise InvalidArgument(
            f"model {model.name!r} has no vector of features"
            + (f" called {at!r}" if at else "")
            + f": name one with --at; it has {', '.join(vectors) or 'none'}"
        )
    chosen = _leading_to(uses, name)
    named = {n for use in chosen for n in (*use.reads, *use.writes)} | set(model.inputs)
    path = Path(
        model.inputs,
        (name,),
        chosen,
        tuple(value for value in model.values if value.name in named),
        stored_layers(store, (step for step in model.steps if set(step.layers) & set(chosen))),
    )
    return Features(model, model.value(name), path)


def compute(features: Features, files: Sequence[File]) -> Floats:
    """The features of image files, of shape (files, width of the features).

    Raises InvalidArgument for a model without preprocessing and for a damaged image; Unsupported
    and ResourceExhausted for an image that cannot be decoded.
    """
    model = features.model
    spec = model.preprocess
    if spec is None:
        raise InvalidArgument(
            f"model {model.name!r} does not say how an image becomes its input: export it again "
            "with --preprocess"
        )
    block = whole_block(features.path)
    runner = session(block.data)
    output = f"y{block.writes.index(features.at.name)}"
    rows = model.rows_at_once or _BATCH
    parts = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), rows):
            batch = np.stack([*pool.map(prepared, files[start : start + rows], repeat(spec))])
            parts += run(runner, [output], {"x0": batch})
    found: Floats = np.concatenate(parts).astype(np.float32)
    return found


def _leading_to(uses: Sequence[Layer], value: str) -> tuple[Layer, ...]:
    """The layers that `value` depends on, in order."""
    wanted, chosen = {value}, []
    for use in reversed(uses):
        if wanted & set(use.writes):
            wanted |= set(use.reads)
            chosen.append(use)
    return tuple(reversed(chosen))

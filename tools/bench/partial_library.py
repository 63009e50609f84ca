"""The library of `partial` as real models: ONNX files with random weights, cut by the exporter.

The exporter cuts where only one value crosses, at the borders of residual units, so a unit that is
shared in part is not shared at all. Knows no policy and serves nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from edged.planner.loading.resnet import layer_bytes
from edged.store import Store
from export.add import add_models
from export.source import Source
from tools.bench.convnets import resnet
from tools.bench.partial import Tuned

SIDE = 64  # pixels
CLASSES = 10
_PRETRAINED, _TUNED = 0, 1  # seeds of pre-trained and of fine-tuned weights


def export(folder: Path, models: Sequence[Tuned], *, shares: bool, seed: int) -> Store:
    """A store of the models in `folder`; models that are there already stay as they are.

    If not `shares`, each model has the same layers, and all of them are its own.
    """
    store = Store(folder).create()
    there = store.names()
    for group in _groups(models, shares=shares):
        if group[0].name in there:
            continue
        with tempfile.TemporaryDirectory(prefix="edged-bench-") as name:
            add_models(store, [_source(Path(name), model, shares, seed) for model in group])
    return store


def _groups(models: Sequence[Tuned], *, shares: bool) -> Iterator[list[Tuned]]:
    """Groups of models that are exported together, since they decide each other's cuts."""
    if not shares:
        yield from ([model] for model in models)
        return
    for depth in dict.fromkeys(model.depth for model in models):
        yield [model for model in models if model.depth == depth]


def _source(folder: Path, model: Tuned, shares: bool, seed: int) -> Source:
    kept = model.frozen if shares else 0
    seeds = [
        (seed, model.depth, layer, *((_PRETRAINED,) if layer < kept else (_TUNED, model.number)))
        for layer in range(len(layer_bytes(model.depth)))
    ]
    path = folder / f"{model.name}.onnx"
    resnet(path, model.depth, seeds, side=SIDE, classes=CLASSES)
    return Source(model.name, path)

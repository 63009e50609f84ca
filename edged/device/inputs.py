"""Which staging rows a request needs: models that are fed alike share a preparation. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edged.manifest import Manifest, Preprocess, Value


@dataclass(frozen=True, slots=True)
class Preparation:
    """What one staging row holds: a model's inputs, made in one way.

    With a single input its name is left out, so that models which call it differently share it.
    """

    inputs: tuple[Value, ...]
    preprocess: Preprocess | None  # None: tensors, copied as they are


def preparation(manifest: Manifest, *, images: bool) -> Preparation:
    """How a model is fed by a request of images (encoded or pixels), or else of tensors."""
    inputs = tuple(manifest.value(name) for name in manifest.inputs)
    if len(inputs) == 1:
        inputs = (Value("", inputs[0].datatype, inputs[0].shape),)
    return Preparation(inputs, manifest.preprocess if images else None)


def preparations(manifests: Iterable[Manifest], *, images: bool) -> tuple[Preparation, ...]:
    """The distinct preparations of a request: it takes this many staging rows for each row."""
    return tuple(dict.fromkeys(preparation(manifest, images=images) for manifest in manifests))

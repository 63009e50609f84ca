"""The engines that backend tensorrt would build of a store, found without TensorRT.

An engine belongs to the device that it is built on, so nothing is built here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import onnx

from edged.backends.tensorrt import linear, recipe
from edged.errors import Unsupported
from edged.store import Store


class EngineLine(msgspec.Struct, frozen=True):
    """One block, and what would be made of it."""

    block: str
    models: tuple[str, ...]
    file_bytes: int
    engine: str  # its own block id, or the engine that all heads of this width share
    operators: int
    float_operators: int  # how many stay FP32 where the others are FP16
    note: str = ""  # why the whole block is FP32


def engines(store: Store, models: Sequence[str] = ()) -> list[EngineLine]:
    """In the order in which models run their blocks. Raises StoreError and NotFound."""
    users: dict[str, list[str]] = {}
    for name, manifest in store.models(models or None).items():
        for step in manifest.steps:
            users.setdefault(step.block, []).append(name)
    return list(_lines(store, users))


def _lines(store: Store, users: dict[str, list[str]]) -> Iterator[EngineLine]:
    for block, names in users.items():
        model = onnx.load(store.block_path(block))
        known = (block, tuple(names), store.block_size(block))
        count = len(model.graph.node)
        head = linear.find(model)
        if head is not None:
            yield EngineLine(*known, head.shape.id, count, count)
            continue
        try:
            floats = recipe.float_operators(recipe.typed(model))
        except Unsupported as error:
            yield EngineLine(*known, block, count, count, str(error))
            continue
        kept = [operator for operator in floats if operator != "Cast"]
        yield EngineLine(*known, block, count, len(kept))

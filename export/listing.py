"""The content of a store as values: sizes, sharing, damage. Knows nothing of how they are printed.

Bytes of blocks are the sizes of their files; bytes of a whole model are those of one file with
all its blocks, so that the two can be compared.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from edged import manifest as manifests
from edged.errors import StoreError
from edged.manifest import Manifest
from edged.store import Store


class ModelLine(msgspec.Struct, frozen=True):
    """A model in the list of a store's models."""

    name: str
    task: str
    precision: str
    blocks: int
    block_bytes: int
    shared_bytes: int  # bytes of blocks that another model has too
    whole_bytes: int
    accuracy: float | None
    head_of: str | None


class StoreContents(msgspec.Struct, frozen=True):
    """The content of a whole store. No model uses the unused blocks."""

    models: tuple[ModelLine, ...]
    blocks: int
    block_bytes: int
    whole_bytes: int
    unused_blocks: int
    unused_bytes: int


class BlockLine(msgspec.Struct, frozen=True):
    """A block on the path of a model."""

    id: str
    bytes: int
    layers: int
    sharers: tuple[str, ...]  # other models
    writes: tuple[str, ...]


class Common(msgspec.Struct, frozen=True):
    """What two models share. The bytes of layers are those of their weights, in any block."""

    first: str
    second: str
    blocks: tuple[str, ...]
    block_bytes: int
    first_only: int  # blocks
    first_only_bytes: int
    second_only: int
    second_only_bytes: int
    layers: int
    layer_bytes: int


class Damage(msgspec.Struct, frozen=True):
    """The damage of one file of the store."""

    what: str
    models: tuple[str, ...]  # the models that need the file


def contents(store: Store) -> StoreContents:
    """The content of the store. Raises StoreError."""
    models, sizes = store.models(), store.blocks()
    sharers = _sharers(models)
    lines = []
    for name, model in models.items():
        own = {step.block for step in model.steps}
        lines.append(
            ModelLine(
                name=name,
                task=model.task,
                precision=model.precision,
                blocks=len(own),
                block_bytes=_total(store, sizes, own),
                shared_bytes=_total(store, sizes, {b for b in own if len(sharers[b]) > 1}),
                whole_bytes=model.whole_bytes,
                accuracy=None if model.accuracy is None else model.accuracy.value,
                head_of=None if model.head_of is None else model.head_of.model,
            )
        )
    unused = sizes.keys() - sharers.keys()
    return StoreContents(
        models=tuple(lines),
        blocks=len(sharers),
        block_bytes=_total(store, sizes, set(sharers)),
        whole_bytes=sum(model.whole_bytes for model in models.values()),
        unused_blocks=len(unused),
        unused_bytes=_total(store, sizes, unused),
    )


def path(store: Store, name: str) -> tuple[Manifest, tuple[BlockLine, ...]]:
    """One model, with its blocks in order. Raises NotFound or StoreError."""
    models = store.models()
    model = store.model(name)
    sharers = _sharers(models)
    lines = tuple(
        BlockLine(
            id=step.block,
            bytes=store.block_size(step.block),
            layers=len(step.layers),
            sharers=tuple(sorted(sharers[step.block] - {name})),
            writes=step.writes,
        )
        for step in model.steps
    )
    return model, lines


def common(store: Store, first: str, second: str) -> Common:
    """Compare two models. Raises NotFound or StoreError."""
    one, two = store.model(first), store.model(second)
    sizes = store.blocks()
    blocks = [{step.block for step in model.steps} for model in (one, two)]
    layers = [
        Counter({layer.digest: layer.weight_bytes for layer in manifests.layers(model)})
        for model in (one, two)
    ]
    shared = layers[0] & layers[1]
    both = [step.block for step in one.steps if step.block in blocks[1]]
    return Common(
        first=first,
        second=second,
        blocks=tuple(dict.fromkeys(both)),
        block_bytes=_total(store, sizes, set(both)),
        first_only=len(blocks[0] - blocks[1]),
        first_only_bytes=_total(store, sizes, blocks[0] - blocks[1]),
        second_only=len(blocks[1] - blocks[0]),
        second_only_bytes=_total(store, sizes, blocks[1] - blocks[0]),
        layers=len(layers[0].keys() & layers[1].keys()),
        layer_bytes=shared.total(),
    )


def verify(store: Store) -> tuple[Damage, ...]:
    """Read all files that a model needs. Raises StoreError only if the root is damaged."""
    found: list[Damage] = []
    models: dict[str, Manifest] = {}
    for name in store.names():
        try:
            models[name] = store.model(name)
        except StoreError as error:
            found.append(Damage(str(error), (name,)))
    for block, names in sorted(_sharers(models).items()):
        try:
            store.verify_block(block)
        except StoreError as error:
            found.append(Damage(str(error), tuple(sorted(names))))
    return tuple(found)


def _sharers(models: dict[str, Manifest]) -> dict[str, set[str]]:
    """The models that run each block."""
    sharers: dict[str, set[str]] = {}
    for name, model in models.items():
        for step in model.steps:
            sharers.setdefault(step.block, set()).add(name)
    return sharers


def _total(store: Store, sizes: dict[str, int], blocks: set[str]) -> int:
    return sum(sizes[block] if block in sizes else store.block_size(block) for block in blocks)

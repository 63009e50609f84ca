"""The content of a store as values: sizes, sharing, damage. Knows nothing of how they are printed.

Bytes of blocks are those of their files with the tensors that these name, each once; bytes of a
whole model are those of one file with all its blocks, so that the two can be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

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
    shared_bytes: int  # bytes of blocks and tensors that another model has too
    whole_bytes: int
    accuracy: float | None
    head_of: str | None


class StoreContents(msgspec.Struct, frozen=True):
    """The content of a whole store. No model uses the unused blocks and tensors."""

    schema: int
    models: tuple[ModelLine, ...]
    blocks: int
    tensors: int
    block_bytes: int  # the blocks with their tensors
    whole_bytes: int
    unused_blocks: int
    unused_tensors: int
    unused_bytes: int


class BlockLine(msgspec.Struct, frozen=True):
    """A block on the path of a model."""

    id: str
    bytes: int  # its own and those of its tensors
    shared_bytes: int  # those of tensors that another block of any model names too
    layers: int
    sharers: tuple[str, ...]  # other models
    writes: tuple[str, ...]


class Common(msgspec.Struct, frozen=True):
    """What two models share. The bytes of layers are those of their weights, in any block.

    A tensor may be in both models although no block with it is.
    """

    first: str
    second: str
    blocks: tuple[str, ...]
    tensors: int
    block_bytes: int  # those of the blocks and tensors that both have
    first_only: int  # blocks
    first_only_tensors: int
    first_only_bytes: int
    second_only: int
    second_only_tensors: int
    second_only_bytes: int
    layers: int
    layer_bytes: int


class Damage(msgspec.Struct, frozen=True):
    """The damage of one file of the store."""

    what: str
    models: tuple[str, ...]  # the models that need the file


def contents(store: Store) -> StoreContents:
    """The content of the store. Raises StoreError."""
    models = store.models()
    parts = {block: store.parts(block) for block in _sharers(models)}
    owned = {name: _parts_of(model, parts) for name, model in models.items()}
    owners = Counter(part for own in owned.values() for part in own)
    lines = [
        ModelLine(
            name=name,
            task=model.task,
            precision=model.precision,
            blocks=len({step.block for step in model.steps}),
            block_bytes=sum(owned[name].values()),
            shared_bytes=sum(size for part, size in owned[name].items() if owners[part] > 1),
            whole_bytes=model.whole_bytes,
            accuracy=None if model.accuracy is None else model.accuracy.value,
            head_of=None if model.head_of is None else model.head_of.model,
        )
        for name, model in models.items()
    ]
    used = _together(parts.values())
    unused = {id: size for id, size in store.blocks().items() if id not in used}
    unused_tensors = {id: size for id, size in store.tensors().items() if id not in used}
    return StoreContents(
        schema=store.schema(),
        models=tuple(lines),
        blocks=len(parts),
        tensors=len(used) - len(parts),
        block_bytes=sum(used.values()),
        whole_bytes=sum(model.whole_bytes for model in models.values()),
        unused_blocks=len(unused),
        unused_tensors=len(unused_tensors),
        unused_bytes=sum(unused.values()) + sum(unused_tensors.values()),
    )


def path(store: Store, name: str) -> tuple[Manifest, tuple[BlockLine, ...]]:
    """One model, with its blocks in order. Raises NotFound or StoreError."""
    models = store.models()
    model = store.model(name)
    sharers = _sharers(models)
    parts = {block: store.parts(block) for block in sharers}
    owners = Counter(part for of in parts.values() for part in of)
    lines = tuple(
        BlockLine(
            id=step.block,
            bytes=sum(parts[step.block].values()),
            shared_bytes=sum(size for id, size in parts[step.block].items() if owners[id] > 1),
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
    blocks = [{step.block for step in model.steps} for model in (one, two)]
    parts = {block: store.parts(block) for block in blocks[0] | blocks[1]}
    owned = [_parts_of(model, parts) for model in (one, two)]
    both = owned[0].keys() & owned[1].keys()
    only = [{id: size for id, size in own.items() if id not in both} for own in owned]
    layers = [
        Counter({layer.digest: layer.weight_bytes for layer in manifests.layers(model)})
        for model in (one, two)
    ]
    return Common(
        first=first,
        second=second,
        blocks=tuple(dict.fromkeys(s.block for s in one.steps if s.block in both)),
        tensors=len(both - parts.keys()),
        block_bytes=sum(owned[0][id] for id in both),
        first_only=len(blocks[0] - both),
        first_only_tensors=len(only[0].keys() - parts.keys()),
        first_only_bytes=sum(only[0].values()),
        second_only=len(blocks[1] - both),
        second_only_tensors=len(only[1].keys() - parts.keys()),
        second_only_bytes=sum(only[1].values()),
        layers=len(layers[0].keys() & layers[1].keys()),
        layer_bytes=(layers[0] & layers[1]).total(),
    )


def verify(store: Store) -> tuple[Damage, ...]:
    """Read all files that a model needs, each once. Raises StoreError only if the root is
    damaged."""
    found: list[Damage] = []
    models: dict[str, Manifest] = {}
    for name in store.names():
        try:
            models[name] = store.model(name)
        except StoreError as error:
            found.append(Damage(str(error), (name,)))
    needed: dict[str, set[str]] = {}  # the models that need each tensor
    for block, names in sorted(_sharers(models).items()):
        try:
            store.verify_graph(block)
        except StoreError as error:
            found.append(Damage(str(error), tuple(sorted(names))))
        else:
            for tensor in store.tensors_of(block):
                needed.setdefault(tensor, set()).update(names)
    for tensor, names in sorted(needed.items()):
        try:
            store.verify_tensor(tensor)
        except StoreError as error:
            found.append(Damage(str(error), tuple(sorted(names))))
    return tuple(found)


def _parts_of(model: Manifest, parts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Ids and bytes of the files that a model needs, each once."""
    return _together(parts[step.block] for step in model.steps)


def _together(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for some in parts:
        found |= some
    return found


def _sharers(models: dict[str, Manifest]) -> dict[str, set[str]]:
    """The models that run each block."""
    sharers: dict[str, set[str]] = {}
    for name, model in models.items():
        for step in model.steps:
            sharers.setdefault(step.block, set()).add(name)
    return sharers

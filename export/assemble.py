"""The blocks and manifests of a store's models together with new ones.

Reads the store and writes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from edged import manifest as manifests
from edged.errors import StoreError
from edged.manifest import Layer, Manifest, PathStep
from edged.store import Store
from export.blocks import Span, Wired, plan, signature, wire
from export.canonical import CanonicalLayer, Port, join, split
from export.layers import Path
from export.source import ModelDraft


@dataclass(frozen=True, slots=True)
class _Border:
    """How a run of layers is wired inside, and the values that enter and leave it."""

    ports: tuple[tuple[Port, ...], ...]  # source of each input of each layer
    reads: tuple[str, ...]
    leaving: tuple[Port, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Whole:
    """A block, and the model's names of its inputs (x0, x1, ...) and outputs (y0, y1, ...)."""

    data: bytes
    reads: tuple[str, ...]
    writes: tuple[str, ...]


class Assembly:
    """The models `before` and the `drafts`, cut into blocks together.

    `manifests` has every model by name. `new_blocks` has the content of the blocks that `before`
    lacks, and of blocks of `drafts` that are damaged in the store.
    """

    def __init__(
        self,
        store: Store,
        before: Mapping[str, Manifest],
        drafts: Sequence[ModelDraft],
        min_bytes: int,
    ) -> None:
        self.manifests: dict[str, Manifest] = {}
        self.new_blocks: dict[str, bytes] = {}
        self._store = store
        self._drafted = {d: layer for one in drafts for d, layer in one.path.layers.items()}
        self._stored: dict[str, CanonicalLayer] = {}
        self._parts_of: dict[str, dict[str, int]] = {}
        self._homes = {
            layer.digest: step
            for model in before.values()
            for step in model.steps
            for layer in step.layers
        }
        models = dict(before) | {one.manifest.name: one.manifest for one in drafts}
        uses = {name: _uses(model) for name, model in before.items()}
        uses |= {one.manifest.name: one.path.uses for one in drafts}
        wired = {
            name: wire(m.inputs, m.outputs, uses[name], m.values) for name, m in models.items()
        }
        self._known = {
            signature(wired[name], span): step.block
            for name, model in before.items()
            for span, step in _spans(model)
        }
        for name, spans in plan(wired, min_bytes).items():
            steps = tuple(self._step(uses[name], wired[name], span) for span in spans)
            self.manifests[name] = msgspec.structs.replace(models[name], steps=steps)
        for one in drafts:
            name = one.manifest.name
            self.manifests[name] = msgspec.structs.replace(
                self.manifests[name], whole_bytes=len(whole_block(one.path).data)
            )

    def block(self, block: str) -> bytes:
        """The content of a block, new or in the store. Raises StoreError."""
        return self.new_blocks.get(block) or self._store.block_bytes(block)

    def new_bytes(self, model: str) -> int:
        """The bytes of blocks and tensors that no other model has. Raises StoreError."""
        own, others = dict[str, int](), set[str]()
        for name, manifest in self.manifests.items():
            for block in dict.fromkeys(step.block for step in manifest.steps):
                if name == model:
                    own |= self._parts(block)
                else:
                    with contextlib.suppress(StoreError):  # what is damaged is no hindrance here
                        others |= self._parts(block).keys()
        return sum(size for part, size in own.items() if part not in others)

    def _parts(self, block: str) -> dict[str, int]:
        """Ids and bytes of the block's own file and of its tensors."""
        if block not in self._parts_of:
            data = self.new_blocks.get(block)
            self._parts_of[block] = (
                self._store.parts(block) if data is None else self._store.split(data).parts
            )
        return self._parts_of[block]

    def _step(self, uses: Sequence[Layer], wired: Sequence[Wired], span: Span) -> PathStep:
        layers = tuple(uses[span.start : span.end])
        border = _border(uses, wired, span)
        run = signature(wired, span)
        if run not in self._known or not self._is_sound(self._known[run], layers):
            contents = [self._layer(use.digest) for use in layers]
            data = join(contents, border.ports, border.leaving)
            self._known[run] = self._store.split(data).block
            self.new_blocks[self._known[run]] = data
        return PathStep(self._known[run], border.reads, border.writes, layers)

    def _is_sound(self, block: str, layers: Sequence[Layer]) -> bool:
        """Whether a block need not be made: False if the store's is damaged and drafts have it."""
        remakable = all(use.digest in self._drafted for use in layers)
        if block in self.new_blocks or not remakable:
            return True
        try:
            self._store.verify_block(block)
        except StoreError:
            return False
        return True

    def _layer(self, digest: str) -> CanonicalLayer:
        """The content of a layer: taken from a draft, else from the block that has it now."""
        if digest in self._drafted:
            return self._drafted[digest]
        if digest not in self._stored:
            self._stored |= stored_layers(self._store, [self._homes[digest]])
        return self._stored[digest]


def whole_block(path: Path) -> Whole:
    """The uncut model as one block."""
    wired = wire(path.inputs, path.outputs, path.uses, path.values)
    border = _border(path.uses, wired, Span(0, len(path.uses)))
    data = join([path.layers[use.digest] for use in path.uses], border.ports, border.leaving)
    return Whole(data, border.reads, border.writes)


def stored_layers(store: Store, steps: Iterable[PathStep]) -> dict[str, CanonicalLayer]:
    """The content of all layers of these steps, by digest. Raises StoreError."""
    found: dict[str, CanonicalLayer] = {}
    for step in steps:
        layers = split(store.block_bytes(step.block))
        found |= {use.digest: layer for use, layer in zip(step.layers, layers, strict=True)}
    return found


def _uses(model: Manifest) -> tuple[Layer, ...]:
    if not all(step.layers for step in model.steps):
        raise StoreError(
            f"model {model.name!r} was not written by edged-export (its blocks have no layers): "
            "remove it, or use another store"
        )
    return manifests.layers(model)


def _spans(model: Manifest) -> Iterator[tuple[Span, PathStep]]:
    start = 0
    for step in model.steps:
        yield Span(start, start + len(step.layers)), step
        start += len(step.layers)


def _border(uses: Sequence[Layer], wired: Sequence[Wired], span: Span) -> _Border:
    ports: list[tuple[Port, ...]] = []
    reads: list[str] = []
    again: dict[str, Port] = {}
    leaving: dict[Port, str] = {}
    last = span.end - 1
    for i in range(span.start, span.end):
        row = []
        for name, (back, index) in zip(uses[i].reads, wired[i].reads, strict=True):
            if i - back >= span.start:
                row.append(Port(i - back - span.start, index))
            elif name in again:
                row.append(again[name])
            else:
                row.append(Port(None, len(reads)))
                reads.append(name)
                if i > span.start:
                    # Two inputs of the first layer may be the same value in one model only.
                    again[name] = row[-1]
        ports.append(tuple(row))
        for j, (name, ahead) in enumerate(zip(uses[i].writes, wired[i].writes, strict=True)):
            if i == last or any(step == 0 or i + step > last for step in ahead):
                leaving[Port(i - span.start, j)] = name
    return _Border(tuple(ports), tuple(reads), tuple(leaving), tuple(leaving.values()))

"""The store as the daemon uses it: what it says now, and the blocks that must stay in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from edged.errors import StoreError
from edged.manifest import Manifest
from edged.older import check_fit
from edged.servable import check_servable, conflicting
from edged.store import Store
from edged.store_blocks import Hold


@dataclass(frozen=True, slots=True)
class Unusable:
    """A model that cannot be served as the store is now."""

    reason: str
    manifest: Manifest | None = None  # None: that is what cannot be read


@dataclass(frozen=True, slots=True)
class Contents:
    """What a store says at one time: models by name, and the bytes of all their blocks' files."""

    models: Mapping[str, Manifest]
    block_bytes: Mapping[str, int]
    unusable: Mapping[str, Unusable] = field(default_factory=dict)  # the other models


class HeldStore:
    """Owns the holds on blocks, which keep `Store.gc` from removing what is still served."""

    def __init__(self, store: Store, names: Iterable[str] | None) -> None:
        """`names`: of the models to be served; None: all that the store has."""
        self._store = store
        self._names = None if names is None else tuple(names)
        self._holds: dict[str, Hold] = {}

    def read(self) -> Contents:
        """What the store says now; its blocks are held from here on. Raises as Store.survey."""
        models: dict[str, Manifest] = {}
        known: dict[str, int] = {}  # bytes of blocks
        block_bytes: dict[str, int] = {}
        found, damaged = self._store.survey(self._names)
        unusable = {name: Unusable(str(error)) for name, error in damaged.items()}
        for name, manifest in found.items():
            try:
                check_servable(manifest)
                check_fit(manifest, self._store.graph_bytes)
                blocks = dict.fromkeys(step.block for step in manifest.steps)
                known |= {block: self._hold(block) for block in blocks if block not in known}
            except StoreError as error:
                unusable[name] = Unusable(str(error), manifest)
            else:
                models[name] = manifest
                block_bytes |= {block: known[block] for block in blocks}
        for name, conflict in conflicting(models).items():
            unusable[name] = Unusable(str(conflict), models.pop(name))
        return Contents(models, block_bytes, unusable)

    def _hold(self, block: str) -> int:
        """Its bytes."""
        if block not in self._holds:
            self._holds[block] = self._store.hold([block])
        return self._store.block_size(block)

    def keep(self, blocks: Collection[str]) -> None:
        """Let go of all blocks but these."""
        for block in self._holds.keys() - set(blocks):
            self._holds.pop(block).close()

    def close(self) -> None:
        self.keep(())


def inspect(store: Store, names: Iterable[str] | None) -> dict[str, str]:
    """The models that cannot be served, and why; every block is read to its end.

    Raises as Store.survey, and StoreError where not one model can be served.
    """
    held = HeldStore(store, names)
    try:
        contents = held.read()
        damaged: dict[str, str] = {}
        sound: set[str] = set()  # tensors
        for block in contents.block_bytes:
            try:
                store.verify_graph(block)
                for tensor in set(store.tensors_of(block)) - sound:
                    store.verify_tensor(tensor)
                    sound.add(tensor)
            except StoreError as error:
                damaged[block] = str(error)
    finally:
        held.close()
    found = {name: model.reason for name, model in contents.unusable.items()}
    for name, manifest in contents.models.items():
        whys = [damaged[step.block] for step in manifest.steps if step.block in damaged]
        found |= {name: whys[0]} if whys else {}
    if found and found.keys() >= contents.models.keys():
        raise no_model_left(found)
    return found


def no_model_left(whys: Mapping[str, str]) -> StoreError:
    """The error for a store with models of which none can be served, each for its reason."""
    name, reason = min(whys.items())  # in every process the same one
    return StoreError(f"no model of the store can be served; {name!r} cannot because {reason}")

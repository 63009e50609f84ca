"""The store as the daemon uses it: what it says now, and the blocks that must stay in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from edged.manifest import Manifest
from edged.older import check_fit
from edged.store import Hold, Store


@dataclass(frozen=True, slots=True)
class Contents:
    """What a store says at one time: models by name, and the bytes of all their blocks' files."""

    models: Mapping[str, Manifest]
    block_bytes: Mapping[str, int]


class Shelf:
    """Owns the holds on blocks, which keep `Store.gc` from removing what is still served."""

    def __init__(self, store: Store, names: Iterable[str] | None) -> None:
        """`names`: of the models to be served; None: all that the store has."""
        self._store = store
        self._names = None if names is None else tuple(names)
        self._holds: dict[str, Hold] = {}

    def read(self) -> Contents:
        """What the store says now; its blocks are held from here on. Raises as Store.models and
        check_fit.
        """
        models = self._store.models(self._names)
        for model in models.values():
            check_fit(model, self._store.block_bytes)
        blocks = dict.fromkeys(step.block for m in models.values() for step in m.steps)
        for block in blocks.keys() - self._holds.keys():
            self._holds[block] = self._store.hold([block])
        return Contents(models, {block: self._store.block_size(block) for block in blocks})

    def keep(self, blocks: Collection[str]) -> None:
        """Let go of all blocks but these."""
        for block in self._holds.keys() - set(blocks):
            self._holds.pop(block).close()

    def close(self) -> None:
        self.keep(())

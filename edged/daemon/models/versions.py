"""Which versions of which models there are: served, brought in by a reload, or leaving.

A version has a key, by which scheduler and worker know it: the model's name for the first one, a
name that no model can have for later ones. So old and new can be on the device at the same time,
and a request keeps the version that it was accepted for. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from edged.daemon.models.catalog import Catalog
from edged.daemon.models.held_store import Contents
from edged.errors import StoreError
from edged.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Change:
    """What is different between what is served and what the store says now."""

    contents: Contents
    keys: dict[str, str]  # key of each model that will be served, by the model's name
    new: dict[str, Manifest]  # versions to be brought in, by key
    added: tuple[str, ...]  # names of models
    changed: tuple[str, ...]
    removed: tuple[str, ...]


class Versions:
    """Owns the table of versions."""

    def __init__(self, contents: Contents) -> None:
        self.served = {name: name for name in contents.models}  # keys by name
        self.models: dict[str, Manifest] = dict(contents.models)  # every version, by its key
        self.block_bytes = dict(contents.block_bytes)
        self.unusable = dict(contents.unusable)  # models of the store that are not served, by name
        self._arriving: set[str] = set()
        self._numbers = count(2)

    def catalog(self) -> Catalog:
        """What can be asked for."""
        models = {name: self.models[key] for name, key in self.served.items()}
        return Catalog(models, self.block_bytes, self.served, self.unusable)

    def compare(self, contents: Contents) -> Change:
        """What a reload of `contents` would change.

        Raises StoreError for a model that could be served before, or is new, and cannot be now.
        """
        for name, model in contents.unusable.items():
            if name not in self.unusable:
                raise StoreError(f"model {name!r} cannot be served: {model.reason}")
        before = {name: self.models[key] for name, key in self.served.items()}
        keys = dict.fromkeys(contents.models, "")
        new = {}
        for name, manifest in contents.models.items():
            if before.get(name) == manifest:
                keys[name] = self.served[name]
            else:
                keys[name] = f"{name}@{next(self._numbers)}"
                new[keys[name]] = manifest
        return Change(
            contents,
            keys,
            new,
            added=tuple(sorted(contents.models.keys() - before.keys())),
            changed=tuple(sorted(m.name for m in new.values() if m.name in before)),
            removed=tuple(sorted(before.keys() - contents.models.keys())),
        )

    def bring_in(self, change: Change) -> None:
        """The new versions are there beside the old ones, and are not served yet."""
        self.models.update(change.new)
        self._arriving.update(change.new)
        self.block_bytes.update(change.contents.block_bytes)

    def switch(self, change: Change) -> tuple[str, ...]:
        """Serve what the change leads to. Returns the keys that are not served any more."""
        gone = tuple(key for key in self.served.values() if key not in change.keys.values())
        self.served = dict(change.keys)
        self.unusable = dict(change.contents.unusable)
        self.give_up(change)
        return gone

    def give_up(self, change: Change) -> None:
        """Its versions are not on their way in any more."""
        self._arriving.difference_update(change.new)

    def forget(self, keys: Iterable[str]) -> None:
        """Versions that nobody needs any more, and the blocks that only they used."""
        for key in keys:
            del self.models[key]
        blocks = self.blocks
        self.block_bytes = {b: size for b, size in self.block_bytes.items() if b in blocks}

    @property
    def blocks(self) -> set[str]:
        """All that any version uses."""
        return {step.block for manifest in self.models.values() for step in manifest.steps}

    def state(self, key: str) -> str:
        """SERVING, COMING or GOING."""
        if self.served.get(self.models[key].name) == key:
            return "SERVING"
        return "COMING" if key in self._arriving else "GOING"

"""What each model is to be: pinned, unloaded, or neither. Pure.

The configuration pins models; administrators say the rest. What they say is written down at once,
so that the next start can do it again. The pins of the configuration are not written down: each
start takes them from the configuration. Models go by their names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import msgspec

from edged.bounds import ModelName
from edged.typeinfo import describe


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What administrators said, as it is written down."""

    pinned: frozenset[ModelName] = frozenset()
    unloaded: frozenset[ModelName] = frozenset()


class Notebook(Protocol):
    """Keeps what was said; see edged.daemon.models.state_file."""

    def read(self) -> Said: ...

    def write(self, said: Said) -> None: ...


class Wish(NamedTuple):
    """What one model is to be."""

    unloaded: bool
    pinned: bool


class Instructions:
    """Owns the instructions of one run of the daemon."""

    def __init__(self, pinned: Iterable[str], notebook: Notebook) -> None:
        """`pinned`: by the configuration. An administrator's `unload` is stronger."""
        self._notebook = notebook
        self._written = said = notebook.read()
        self.unloaded = set(said.unloaded)
        self.pinned = (set(pinned) - said.unloaded) | said.pinned
        self.pinned_by_administrators = set(said.pinned)

    def wish(self, name: str) -> Wish:
        return Wish(name in self.unloaded, name in self.pinned)

    def load(self, name: str) -> None:
        self.unloaded.discard(name)
        self._write_down()

    def unload(self, name: str) -> None:
        self.unloaded.add(name)
        self.unpin(name)

    def pin(self, name: str) -> None:
        self.pinned.add(name)
        self.pinned_by_administrators.add(name)
        self._write_down()

    def unpin(self, name: str) -> None:
        self.pinned.discard(name)
        self.pinned_by_administrators.discard(name)
        self._write_down()

    def skip_pin(self, name: str) -> None:
        """The pin is not possible in this run; it stays written down for the next one."""
        self.pinned.discard(name)

    def forget(self, names: Iterable[str]) -> None:
        """These models have left the store."""
        for held in (self.pinned, self.pinned_by_administrators, self.unloaded):
            held.difference_update(names)
        self._write_down()

    def _write_down(self) -> None:
        said = Said(frozenset(self.pinned_by_administrators), frozenset(self.unloaded))
        if said != self._written:
            self._written = said
            self._notebook.write(said)


describe(Said)

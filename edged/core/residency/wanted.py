"""Which models are served, pinned and to be loaded though no request waits for them.

Owns what administrators and the start have said of models. Moves no blocks and knows no time.
"""

from __future__ import annotations

from collections.abc import Iterable

from edged.core.residency.blocks import Block, Residency, Where, together_bytes
from edged.core.residency.needs import Need


class WantedModels:
    """What is wanted of each model of the residency."""

    def __init__(self, residency: Residency, pinned: Iterable[str]) -> None:
        self._residency = residency
        self.pinned = set(pinned)
        self.served: set[str] = set()  # models that requests may ask for
        self.retired: set[str] = set()  # models that an administrator has unloaded
        self.wished: dict[str, None] = {}  # models to be loaded, whatever leaves for them; ordered
        self.first: dict[str, None] = {}  # models to be loaded while there is room; ordered
        self.strays = False  # whether there are blocks of no model
        self._begun = 0  # models that the latest start began with

    def serve(self, *, retired: set[str]) -> None:
        """Serve all models of the library but these."""
        self.retired = retired
        self.served = self._residency.models.keys() - self._residency.vanished - retired
        self.wished = {name: None for name in self.wished if name in self.served}
        self.first = {name: None for name in self.first if name in self.served}

    def begin(self, first: Iterable[str]) -> None:
        """The device has come up: these models are loaded as far as there is room, in order."""
        models = self._residency.models
        begun = [name for name in first if name in self.served]
        self.first = {name: None for name in begun if models[name].missing}
        self._begun = len(begun)

    def progress(self) -> tuple[int, int] | None:
        """The number of the model that the start loads now, and of how many; None at its end."""
        if not self.first:
            return None
        return self._begun - len(self.first) + 1, self._begun

    def wish(self, need: Need) -> None:
        """Load a model though nobody waits for it, also one whose load has failed lately."""
        (name,) = need.models
        for block in self._residency.path(need):
            block.error = None
        if need.missing:
            self.wished[name] = None

    def is_wanted(self, need: Need) -> bool:
        return need.waiting > 0 or self.is_wished(need) or self.is_first(need)

    def is_for_service(self, need: Need) -> bool:
        return need.is_model and need.models[0] in self.served

    def is_wished(self, need: Need) -> bool:
        if not self.is_for_service(need):
            return False
        return need.models[0] in self.wished or need.models[0] in self.pinned

    def is_first(self, need: Need) -> bool:
        """Whether the start loads it, if there is room."""
        return need.is_model and need.models[0] in self.first

    def in_order(self, needs: list[Need]) -> list[Need]:
        """Needs in the order of the start, then those that it does not load."""
        places = {name: place for place, name in enumerate(self.first)}
        return sorted(needs, key=lambda need: places.get(need.models[0], len(places)))

    def kept_blocks(self, capacity_bytes: float) -> dict[Block, None]:
        """The pinned blocks, which never leave, so that others have to fit beside them. A pinned
        model that is not on the device and does not fit beside those before it keeps none: what
        it shares with others would stay in the way of a pinned model that does fit."""
        pinned = sorted(self.in_order(self._pinned()), key=lambda need: need.missing > 0)
        kept: dict[Block, None] = {}
        for need in pinned:
            more = kept | dict.fromkeys(self._residency.path(need))
            if not need.missing or together_bytes(more) <= capacity_bytes:
                kept = more
        return kept

    def _pinned(self) -> list[Need]:
        if not self.pinned:
            return []
        return [
            need
            for name, need in self._residency.models.items()
            if name in self.pinned and name in self.served
        ]

    def is_gone(self, model: str) -> bool:
        """Whether a model that is not served has no request left, nor any block of its own."""
        need = self._residency.models.get(model)
        if need is None:
            return True
        needs = [need for need in self._residency.needs if model in need.models]
        if any(need.open or need.in_use for need in needs):
            return False
        return all(
            block.where is Where.ABSENT or self._is_served(block)
            for block in self._residency.path(need)
        )

    def leftovers(self) -> list[Block]:
        """Blocks on the device that only models need which are not served any more, or none."""
        if self.served == self._residency.models.keys() and not self.strays:
            return []
        return [
            block
            for block in self._residency.blocks
            if block.where is not Where.ABSENT and not self._is_served(block)
        ]

    def _is_served(self, block: Block) -> bool:
        return any(map(self.is_for_service, block.needs))

"""Residency: where each block is, what blocks share, and which models and waiting requests need it.

Knows no policy, no budget and no time: others say what comes and what goes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from edged.core.events import BlockLoaded, HeldBlock, Library
from edged.core.residency.needs import Need
from edged.errors import Code

_WEIGHT = 0.3  # of the newest load in a block's expected time


class Where(Enum):
    """A block's way to the device and back."""

    ABSENT = auto()
    LOADING = auto()  # ordered; its bytes are reserved
    RESIDENT = auto()
    LEAVING = auto()  # no request starts with it any more; it goes when the last one is done
    UNLOADING = auto()  # ordered; its bytes are held until it is done


@dataclass(slots=True, eq=False)
class Shared:
    """What certain blocks, and no others, have in common: it is there while one of them is."""

    blocks: tuple[Block, ...]
    bytes: int = 0
    held: int = 0  # of the blocks, that are not absent


@dataclass(slots=True, eq=False)
class Block:
    """One block. `bytes` and `load_s` are the store's until they are measured.

    `bytes` are those of the block alone. What it shares is known when it was loaded once.
    """

    id: str
    bytes: int
    load_s: float
    measured: bool = False
    where: Where = Where.ABSENT
    needs: dict[Need, None] = field(default_factory=dict)  # with it on their path; ordered
    failures: int = 0  # in a row
    retry_s: float = 0.0  # not loaded again before this time
    error: tuple[Code, str] | None = None  # of the last load, if it failed
    pieces: dict[str, int] = field(default_factory=dict)  # bytes, by name
    shared: list[Shared] = field(default_factory=list)

    @property
    def in_use(self) -> bool:
        """Whether a request or a run of the calibration on the device may run it yet."""
        return any(need.in_use for need in self.needs)


def together_bytes(blocks: Collection[Block]) -> int:
    """What these blocks hold together, each of them once and what they share once."""
    times = Counter(one for block in blocks for one in block.shared)
    return sum(block.bytes for block in blocks) - sum(
        one.bytes * (count - 1) for one, count in times.items()
    )


def added_bytes(block: Block) -> int:
    """What an absent block adds to those that are there, or on their way."""
    return block.bytes - sum(one.bytes for one in block.shared if one.held)


def own_bytes(blocks: Collection[Block], beside: Collection[Block] = ()) -> int:
    """What these blocks hold and no others that come or stay, nor those `beside` them: they give
    that back, or would take it."""
    shared = {one for block in blocks for one in block.shared}
    stays = (Where.LOADING, Where.RESIDENT)
    elsewhere = (
        one.bytes
        for one in shared
        if any(b not in blocks and (b.where in stays or b in beside) for b in one.blocks)
    )
    return together_bytes(blocks) - sum(elsewhere)


class Residency:
    """Owns the blocks and the needs."""

    def __init__(self) -> None:
        self._blocks: dict[str, Block] = {}
        self._needs: dict[tuple[str, ...], Need] = {}
        self._path: dict[Need, tuple[Block, ...]] = {}
        self.models: dict[str, Need] = {}  # of each single one, also of those that have vanished
        self.vanished: set[str] = set()  # models that are not in the library any more
        self.going: dict[Block, None] = {}  # blocks that leave or are being unloaded; ordered
        self._shared: list[Shared] = []
        self._load_ratio = 1.0  # of measured load times over the store's
        self.moved: list[Need] = []  # that became resident, or are so no more; the scheduler's

    # --- the library ----------------------------------------------------------------------------

    def set_library(self, library: Library) -> None:
        """The models that may be asked for from now on; a vanished one stays until `drop`."""
        for cost in library.blocks:
            block = self._blocks.setdefault(cost.block, Block(cost.block, cost.bytes, cost.load_s))
            if not block.measured and block.where is Where.ABSENT:
                block.bytes, block.load_s = cost.bytes, cost.load_s
        names = {model.name for model in library.models}
        self.vanished = self.models.keys() - names
        for model in library.models:
            path = tuple(self._blocks[block] for block in model.blocks)
            need = self.models.get(model.name)
            if need is None:
                self.models[model.name] = self._add_need((model.name,), path)
            elif self._path[need] != path:
                raise ValueError(f"model {model.name!r} has other blocks now: this is a bug")

    def drop(self, need: Need) -> None:
        """Forget a vanished model that nothing needs any more, and its absent blocks."""
        (name,) = need.models
        del self.models[name]
        self.vanished.discard(name)
        self._remove_need(need)

    # --- needs ------------------------------------------------------------------------------------

    def need(self, models: tuple[str, ...], groups: tuple[str, ...]) -> Need:
        """The need of these models, all of which are known."""
        need = self._needs.get(models)
        if need is None:
            path = dict.fromkeys(b for m in models for b in self._path[self.models[m]])
            need = self._add_need(models, tuple(path))
        need.groups = groups
        return need

    def failed(self, need: Need, now: float) -> Block | None:
        """A block of the need that is not to be loaded at `now`, since it has failed lately."""
        return next((b for b in self._path[need] if b.error and b.retry_s > now), None)

    def last_error(self, need: Need) -> tuple[Code, str] | None:
        """What the last load of one of its blocks failed with, unless it has succeeded since."""
        return next((b.error for b in self._path[need] if b.error), None)

    def close(self, need: Need) -> None:
        """No request has this need any more; that of a single model stays for its history."""
        if len(need.models) > 1:
            self._remove_need(need)

    @property
    def needs(self) -> Iterable[Need]:
        return self._needs.values()

    def path(self, need: Need) -> tuple[Block, ...]:
        """The blocks of a need, in the order in which they run."""
        return self._path[need]

    def bytes(self, need: Need) -> int:
        """Of all its blocks."""
        return together_bytes(self._path[need])

    @property
    def going_bytes(self) -> int:
        """What the blocks that leave will give back."""
        return own_bytes(self.going)

    @property
    def shared_bytes(self) -> int:
        """What blocks that are not absent have in common, but for once."""
        return sum(one.bytes * (one.held - 1) for one in self._shared if one.held > 1)

    def missing(self, need: Need) -> Iterator[Block]:
        """Its blocks that have to be brought to the device, or are on their way there."""
        return (
            block
            for block in self._path[need]
            if block.where not in (Where.RESIDENT, Where.LEAVING)
        )

    def _add_need(self, models: tuple[str, ...], path: tuple[Block, ...]) -> Need:
        need = self._needs[models] = Need(models, groups=())
        self._path[need] = path
        for block in path:
            block.needs[need] = None
            need.missing += block.where is not Where.RESIDENT
        return need

    def _remove_need(self, need: Need) -> None:
        del self._needs[need.models]
        for block in self._path.pop(need):
            del block.needs[need]
            self._forget_if_unused(block)

    # --- blocks -----------------------------------------------------------------------------------

    def block(self, id: str) -> Block:
        return self._blocks[id]

    @property
    def blocks(self) -> Iterable[Block]:
        return self._blocks.values()

    def move(self, block: Block, where: Where) -> None:
        """The block has gone a step on its way."""
        change = (block.where is Where.RESIDENT) - (where is Where.RESIDENT)
        for one in block.shared:
            one.held += (block.where is Where.ABSENT) - (where is Where.ABSENT)
        block.where = where
        if where in (Where.LEAVING, Where.UNLOADING):
            self.going[block] = None
        else:
            self.going.pop(block, None)
        if change:
            for need in block.needs:
                need.missing += change
                if need.missing == 0 or (need.missing == 1 and change == 1):
                    self.moved.append(need)
        if where is Where.ABSENT:
            self._forget_if_unused(block)

    def loaded(self, block: Block, event: BlockLoaded) -> None:
        """The block is on the device; learn what it took."""
        load_s = event.load_s
        if block.load_s > 0.0:
            ratio = load_s / block.load_s
            self._load_ratio += _WEIGHT * (ratio - self._load_ratio) if not block.measured else 0.0
        weight = _WEIGHT if block.measured else 1.0
        block.load_s += weight * (load_s - block.load_s)
        block.bytes, block.measured = event.bytes, True
        block.failures, block.error = 0, None
        self._set_pieces(block, event.pieces)
        self.move(block, Where.RESIDENT)

    def missing_s(self, need: Need) -> float:
        """Expected seconds until the need is on the device, if it is loaded next."""
        return math.fsum(map(self.load_s, self.missing(need)))

    def load_s(self, block: Block) -> float:
        """Expected seconds of a load."""
        return block.load_s if block.measured else block.load_s * self._load_ratio

    def reset(self, resident: Iterable[HeldBlock]) -> None:
        """A device with just these blocks on it, or none."""
        held = {one.block: one.bytes for one in resident}
        for id, size_bytes in held.items():
            block = self._blocks.setdefault(id, Block(id, size_bytes, 0.0))
            block.bytes = size_bytes
            self._set_pieces(block, {})
        for block in list(self._blocks.values()):
            self.move(block, Where.RESIDENT if block.id in held else Where.ABSENT)

    def _set_pieces(self, block: Block, pieces: dict[str, int]) -> None:
        before, block.pieces = block.pieces, pieces
        both = before.keys() | pieces.keys()
        names = {name for name in both if before.get(name) != pieces.get(name)}
        others = (other.pieces.keys() for other in self._blocks.values() if other is not block)
        if names and not all(names.isdisjoint(of) for of in others):
            self._share()

    def _share(self) -> None:
        """Find what blocks have in common: pieces of the same blocks are one."""
        owners: dict[str, list[Block]] = {}
        for block in self._blocks.values():
            block.shared = []
            for name in block.pieces:
                owners.setdefault(name, []).append(block)
        found: dict[tuple[Block, ...], Shared] = {}
        for name, blocks in owners.items():
            if len(blocks) > 1:
                one = found.setdefault(tuple(blocks), Shared(tuple(blocks)))
                one.bytes += min(block.pieces[name] for block in blocks)
        self._shared = list(found.values())
        for one in self._shared:
            one.held = sum(block.where is not Where.ABSENT for block in one.blocks)
            for block in one.blocks:
                block.shared.append(one)

    def _forget_if_unused(self, block: Block) -> None:
        if not block.needs and block.where is Where.ABSENT:
            self._blocks.pop(block.id, None)

"""Memory that several blocks on the device share, and the block that each part of it counts with.

A part counts with the block that came first of those that have it, so that the bytes of all blocks
add up to what they hold together. Knows no backend and no store.
"""

from __future__ import annotations

from edged.backends.base import LoadedBlock
from edged.core.events import HeldBlock


class Shares:
    """Owns the account of the blocks that are loaded. One thread at a time changes it."""

    def __init__(self) -> None:
        self._loaded: dict[str, LoadedBlock] = {}
        self.counted_bytes: dict[str, int] = {}  # by block
        self._holders: dict[str, dict[str, None]] = {}  # the blocks that have a part, in order
        self.total_bytes = 0  # what all blocks hold together; any thread may read it

    @property
    def blocks(self) -> tuple[str, ...]:
        return tuple(self._loaded)

    def add(self, block: str, loaded: LoadedBlock) -> int:
        """A block has come: the bytes of it that others held before."""
        self._loaded[block] = loaded
        for part in loaded.shared:
            self._holders.setdefault(part, {})[block] = None
        self._count(block)
        return loaded.bytes_used - self.counted_bytes[block]

    def remove(self, block: str) -> tuple[HeldBlock, ...]:
        """A block has gone: the blocks that count from now on with what they shared with it, each
        with all its bytes."""
        heirs: dict[str, None] = {}
        for part in self._loaded.pop(block).shared:
            holders = self._holders[part]
            was_first = next(iter(holders)) == block
            del holders[block]
            if not holders:
                del self._holders[part]
            elif was_first:
                heirs[next(iter(holders))] = None
        self.total_bytes -= self.counted_bytes.pop(block)
        for heir in heirs:
            self._count(heir)
        return tuple(HeldBlock(heir, self.counted_bytes[heir]) for heir in heirs)

    def _count(self, block: str) -> None:
        loaded = self._loaded[block]
        others = (
            size
            for part, size in loaded.shared.items()
            if next(iter(self._holders[part])) != block
        )
        counted_bytes = loaded.bytes_used - sum(others)
        self.total_bytes += counted_bytes - self.counted_bytes.get(block, 0)
        self.counted_bytes[block] = counted_bytes

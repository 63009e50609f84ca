"""Brings blocks of the store to the device and gives them back. Takes no decisions.

One thread uses it, and another to unload, beside those that run batches. Knows no batches and no
budget.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec.structs import replace

from edged import malloc as heap
from edged.backends import mapped
from edged.backends.base import Backend, BlockUse, LoadedBlock, Progress, go_on
from edged.backends.block_files import files_of
from edged.backends.prepared import DamagedCopy
from edged.device.measurements import BlockFigures, Measurements
from edged.errors import EdgedError, Unavailable
from edged.link import messages as link
from edged.manifest import Manifest
from edged.paths.layout import Tensor
from edged.servable import check_servable
from edged.store import Store
from edged.store_blocks import Hold

log = logging.getLogger("edged.device")

_ALIKE = 2  # times that one load may take longer than another without being worth a note


class Loader:
    """The blocks of the models that are defined, and which of them are loaded."""

    def __init__(
        self, store: Store, backend: Backend, measurements: Measurements | None = None
    ) -> None:
        """`measurements`: where to keep what loads have taken."""
        self._store = store
        self._backend = backend
        self._measurements = measurements
        self.manifests: dict[str, Manifest] = {}
        self._holds: dict[str, Hold] = {}  # by block
        self._one_by_one: set[str] = set()  # blocks of models that run one row at a time
        self._uses: dict[str, list[BlockUse]] = {}
        self._extra_bytes = 0
        self.resident: dict[str, LoadedBlock] = {}  # in the order in which they were loaded
        self._most: dict[str, int | None] = {}  # rows that its file can run at once
        self.max_rows: dict[str, int | None] = {}  # of one run, of each block ever loaded

    @property
    def extra_bytes(self) -> int:
        """The most that a load has taken on top of what the block takes."""
        return self._extra_bytes

    @property
    def resident_bytes(self) -> int:
        """What the blocks on the device hold together."""
        loaded = list(self.resident.values())  # another thread may unload meanwhile
        shared = {name: size for one in loaded for name, size in one.shared.items()}
        own = (one.bytes_used - sum(one.shared.values()) for one in loaded)
        return sum(own) + sum(shared.values())

    @property
    def blocks(self) -> tuple[str, ...]:
        """All that the models need, in the order in which they need them."""
        return tuple(self._uses)

    def begin(self, manifests: Mapping[str, Manifest]) -> None:
        """The models of a start. Their blocks are prepared when they are loaded.

        Raises StoreError for a model that says of itself what cannot be.
        """
        for manifest in manifests.values():
            check_servable(manifest)
        self._know(dict(manifests))
        for figures in self._figures().values():
            self._extra_bytes = max(self._extra_bytes, figures.extra_bytes)

    @property
    def known(self) -> dict[str, BlockFigures]:
        """What a load of the models' blocks takes, as earlier ones did. Not of blocks that have to
        be prepared anew: nobody knows how long that takes.
        """
        backend, found = self._backend, self._figures()
        if not backend.prepares:
            return found
        return {block: of for block, of in found.items() if backend.is_prepared(block)}

    def _figures(self) -> dict[str, BlockFigures]:
        """What earlier loads have taken, of blocks that the models need."""
        if self._measurements is None:
            return {}
        found = {block: self._measurements.block(block) for block in self._uses}
        return {block: figures for block, figures in found.items() if figures is not None}

    def define(self, manifests: Mapping[str, Manifest]) -> None:
        """More models: check them, and prepare their blocks for this host, one by one.

        Raises StoreError for a missing or damaged block.
        """
        for manifest in manifests.values():
            check_servable(manifest)
        new = [block for block in _uses(manifests.values()) if block not in self._holds]
        with ExitStack() as undo:
            holds = {block: undo.enter_context(self._store.hold([block])) for block in new}
            for block in new:
                if not self._backend.is_prepared(block):
                    self._prepare(block)
            undo.pop_all()
        self._holds.update(holds)
        self._know({**self.manifests, **manifests})

    def forget(self, models: Iterable[str]) -> None:
        """Models that are needed no longer, and the blocks that only they use."""
        gone = set(models)
        self._know({key: of for key, of in self.manifests.items() if key not in gone})
        for block in self._holds.keys() - self._uses.keys():
            if block in self.resident:
                self.unload(block)
            self._let_go(block)

    def _let_go(self, block: str) -> None:
        if block in self._holds:
            self._holds.pop(block).close()

    def _hold(self, block: str) -> None:
        """Keep the file in the store. Raises StoreError if it is missing."""
        if block not in self._holds:
            self._holds[block] = self._store.hold([block])

    def build(self, block: str, progress: Progress) -> None:
        """Prepare a block, beside whatever else goes on. Raises StoreError, and as `prepare`."""
        with self._store.hold([block]):
            self._prepare(block, progress)

    def block_bytes(self, block: str) -> int:
        """What a block will take; of one that was never loaded the size of its file."""
        if block in self.resident:
            return self.resident[block].bytes_used
        return self._store.block_size(block)

    def read_ahead(self, block: str) -> None:
        """Begin to read a block that is to be loaded next."""
        for path in self._backend.files(block, self._store.block_path(block)):
            mapped.read_ahead(path)

    def load(self, block: str) -> link.BlockInfo:
        """Raises StoreError for a missing or damaged block; nothing of it is left then."""
        if block not in self._uses:
            raise EdgedError(f"block {block[:12]} is of no model here; this is a bug of the front")
        self._hold(block)
        try:
            is_new = not self._backend.is_prepared(block)
            if is_new:
                self._prepare(block)
            started_ns = time.perf_counter_ns()
            loaded = self._load(block, is_verified=is_new)
        except Exception:
            self._let_go(block)  # whoever mends it puts another file in its place
            heap.give_back()
            raise
        self.resident[block] = loaded
        self._most[block] = loaded.max_rows
        self._limit_rows(block)
        self._extra_bytes = max(self._extra_bytes, loaded.extra_bytes)
        if loaded.extra_bytes:
            heap.give_back()
        load_us = (time.perf_counter_ns() - started_ns) // 1000
        log.debug("block %s loaded in %d ms", block[:12], load_us // 1000, extra={"block": block})
        self._keep(block, loaded, load_us)
        return link.BlockInfo(block, loaded.bytes_used, load_us, dict(loaded.shared))

    def _keep(self, block: str, loaded: LoadedBlock, load_us: int) -> None:
        """What it has taken, unless about that is known already."""
        if self._measurements is None:
            return
        known = self._measurements.block(block)
        found = BlockFigures(loaded.bytes_used, load_us, loaded.extra_bytes)
        if known is not None:
            found = replace(known, bytes_used=found.bytes_used, extra_bytes=found.extra_bytes)
            if not known.load_us <= _ALIKE * load_us <= _ALIKE * _ALIKE * known.load_us:
                found = replace(found, load_us=load_us)
        self._measurements.keep_block(block, found)

    def unload(self, block: str) -> None:
        """Give a block's memory back to the system. Raises EdgedError if it is not loaded."""
        if block not in self.resident:
            raise EdgedError(f"block {block[:12]} is not loaded; this is a bug of the front")
        del self.resident[block]
        self._backend.unload(block)
        heap.give_back()

    def _know(self, manifests: dict[str, Manifest]) -> None:
        self.manifests = manifests
        self._uses = _uses(manifests.values())
        self._one_by_one = {
            step.block for m in manifests.values() if m.rows_at_once == 1 for step in m.steps
        }
        for block in self.max_rows:
            self._limit_rows(block)

    def _limit_rows(self, block: str) -> None:
        """A block whose rows cannot be kept apart for one model is never batched for any."""
        self.max_rows[block] = 1 if block in self._one_by_one else self._most[block]

    def _load(self, block: str, *, is_verified: bool) -> LoadedBlock:
        path, uses = self._store.block_path(block), self._uses[block]
        if self._backend.is_prepared(block):
            try:
                return self._backend.load(block, path, uses)
            except DamagedCopy as error:
                log.warning("%s", error, extra={"block": block})
                if self._backend.builds:
                    raise Unavailable(f"the engine of block {block[:12]} is built again") from error
                is_verified = False
        if not is_verified:
            self._store.verify_block(block)
        try:
            return self._backend.load(block, path, uses)
        finally:
            _give_cache_back(path)

    def _prepare(self, block: str, progress: Progress = go_on) -> None:
        """Verify a block, and make the copy of it that is loaded, if the backend has any."""
        path = self._store.block_path(block)
        self._store.verify_block(block)
        try:
            self._backend.prepare(block, path, progress)
        finally:
            _give_cache_back(path)
            heap.give_back()


def _give_cache_back(path: Path) -> None:
    """Let the kernel forget the files of a block in the store, if they are there."""
    with suppress(OSError):
        for file in files_of(path):
            mapped.give_cache_back(file)


def _uses(manifests: Iterable[Manifest]) -> dict[str, list[BlockUse]]:
    """The blocks in the order in which models need them, each with the shapes it is used on."""
    uses: dict[str, dict[BlockUse, None]] = {}
    for manifest in manifests:
        tensors = {v.name: Tensor(v.datatype, v.shape) for v in manifest.values}
        for step in manifest.steps:
            reads = tuple(tensors[name] for name in step.reads)
            writes = tuple(tensors[name] for name in step.writes)
            uses.setdefault(step.block, {})[BlockUse(reads, writes)] = None
    return {block: list(of) for block, of in uses.items()}

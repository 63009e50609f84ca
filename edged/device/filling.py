"""At the start: load each model once, warm it up, keep what the budget allows.

Models go from the least to the most wanted, and what was used longest ago makes room, so that at
the end the most wanted ones are there. Everything is measured on the way: what a block holds, what
a batch of each size takes, what the process takes in all.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from edged.backends.base import DeviceLost
from edged.budget import footprint
from edged.core.events import FailedBlock
from edged.device.failures import typed
from edged.device.loader import Loader
from edged.device.warming import Warming
from edged.errors import EdgedError, ResourceExhausted
from edged.link import messages as link
from edged.manifest import Manifest

log = logging.getLogger("edged.device")

_EASY = 4  # times what is known to be needed: with so much there is no need to look at each step


class Filling:
    """One start. `blocks()`, `max_batch_rows` and `workspace_bytes` are what it has found out."""

    def __init__(
        self,
        loader: Loader,
        warming: Warming,
        *,
        fixed_bytes: int,
        budget_bytes: int | None,
        max_batch_rows: int,
        failed: Mapping[str, EdgedError] | None = None,
    ) -> None:
        """`fixed_bytes`: of this process before any block. `budget_bytes`: for all of it. `failed`:
        blocks that are known to be unusable.
        """
        self._loader = loader
        self._warming = warming
        self._fixed_bytes = fixed_bytes
        self._budget_bytes = budget_bytes
        self._last_use: dict[str, int] = {}  # of loaded blocks: number of the model
        self._infos: dict[str, link.BlockInfo] = {}
        self._failed = dict(failed or {})
        self.max_batch_rows = max_batch_rows
        self.workspace_bytes = 0

    def run(self, manifests: Mapping[str, Manifest], pinned: Sequence[str]) -> None:
        """All models, the most wanted first. Those that cannot be loaded are left out.

        Raises ResourceExhausted if the pinned do not fit, and what the first model failed with if
        all of them do.
        """
        usable = [block for block in self._loader.blocks if block not in self._failed]
        needed_bytes = sum(map(self._loader.block_bytes, usable)) + self._fixed_bytes
        if self._budget_bytes is not None and self._budget_bytes > _EASY * needed_bytes:
            self._budget_bytes = None
        wanted = [*pinned, *(key for key in manifests if key not in pinned)]
        for number, key in enumerate(reversed(wanted)):
            self._take(key, manifests[key], number)
        whys = {key: self._failure(manifests[key]) for key in wanted}
        if all(whys.values()):
            raise next(filter(None, whys.values()))
        missing = [k for k in pinned if not (whys[k] or self.is_resident(manifests[k]))]
        if missing:
            raise ResourceExhausted(
                f"memory.pinned: {', '.join(missing)} cannot stay in memory beside the others, "
                f"which may take {self._budget_bytes} bytes in this process: pin fewer models, or "
                "raise memory.budget_bytes"
            )
        self._warming.finish(self.is_resident)
        self._measure()

    def blocks(self) -> tuple[link.BlockInfo, ...]:
        """What each block that could be loaded takes, and whether it has stayed."""
        return tuple(
            msgspec.structs.replace(info, resident=block in self._loader.resident)
            for block, info in self._infos.items()
        )

    def failures(self) -> tuple[FailedBlock, ...]:
        """The blocks that could not be loaded, and why."""
        return tuple(
            FailedBlock(block, error.code, str(error)) for block, error in self._failed.items()
        )

    def is_resident(self, manifest: Manifest) -> bool:
        return all(step.block in self._loader.resident for step in manifest.steps)

    def _failure(self, manifest: Manifest) -> EdgedError | None:
        """Why the model cannot be loaded, if one of its blocks cannot."""
        failures = (self._failed.get(step.block) for step in manifest.steps)
        return next((error for error in failures if error is not None), None)

    def _take(self, key: str, manifest: Manifest, number: int) -> None:
        """Load and warm up one model, unless it fails: others go on."""
        if self._failure(manifest) is None:
            try:
                self._load_and_warm(key, manifest, number)
            except DeviceLost:
                raise
            except Exception as caught:
                self._fail(manifest, typed(caught, f"model {key} could not be warmed up"))

    def _fail(self, manifest: Manifest, error: EdgedError) -> None:
        """It could be loaded and does not run: what is most its own stands for it."""
        last = manifest.steps[-1].block
        self._failed[last] = error
        if last in self._loader.resident:
            self._loader.unload(last)

    def _load(self, block: str) -> bool:
        """False if it cannot be loaded."""
        try:
            self._infos[block] = self._loader.load(block)
        except DeviceLost:
            raise
        except Exception as caught:
            self._failed[block] = typed(caught, f"block {block[:12]} could not be loaded")
            return False
        return True

    def _load_and_warm(self, key: str, manifest: Manifest, number: int) -> None:
        """If there is any way to make room for it."""
        blocks = list(dict.fromkeys(step.block for step in manifest.steps))
        missing = [block for block in blocks if block not in self._loader.resident]
        for block in missing:
            wanted_bytes = self._loader.block_bytes(block) + self._loader.extra_bytes
            if not self._make_room(wanted_bytes, blocks):
                log.warning("model %s does not fit into the budget, whatever else is unloaded", key)
                return
            if not self._load(block):
                return
            self._last_use[block] = number
        self._last_use.update(dict.fromkeys(blocks, number))
        rows = self.max_batch_rows
        fits = self._largest_batch(key, manifest, rows, blocks)
        if fits < rows:
            log.warning("batches have at most %d rows: more do not fit into the budget", fits)
            self.max_batch_rows = fits
        self._warming.time(key, manifest, fits)

    def _largest_batch(self, key: str, manifest: Manifest, most: int, needed: Sequence[str]) -> int:
        """Rows of the largest batch that there is memory for; sizes are tried one by one."""
        rows, used_bytes = 1, 0
        if self._budget_bytes is not None:
            used_bytes = self._measure()
            self._warming.run(key, manifest, rows)
        while rows < most:
            if self._budget_bytes is not None:
                before_bytes, used_bytes = used_bytes, self._measure()
                # What a batch of twice the size takes is at most twice what it took up to here.
                if not self._make_room(2 * max(0, used_bytes - before_bytes), needed):
                    break
            less, rows = rows, min(most, 2 * rows)
            self._warming.judge(key, manifest, less, rows)
            if self._budget_bytes is not None:
                self._warming.run(key, manifest, rows)
        return rows

    def _make_room(self, wanted_bytes: int, needed: Sequence[str]) -> bool:
        """Unload what was used longest ago until so much is free; False if that is not enough."""
        if self._budget_bytes is None:
            return True
        while self._measure() + wanted_bytes > self._budget_bytes:
            victims = [block for block in self._loader.resident if block not in needed]
            if not victims:
                return False
            self._loader.unload(min(victims, key=lambda block: self._last_use[block]))
        return True

    def _measure(self) -> int:
        """Bytes that this process takes, or would if its backend were not an emulated one."""
        loader = self._loader
        held_bytes = self._fixed_bytes + loader.resident_bytes
        used_bytes = max(footprint().pss_bytes, held_bytes)
        self.workspace_bytes = max(self.workspace_bytes, used_bytes - held_bytes)
        return used_bytes

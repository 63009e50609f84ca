"""The device's memory: what requests need of it, and what its events change.

Owns the ledger and the residency; `Loads` decides by a loading policy what comes and what goes.
Knows requests only as needs that wait; who starts when is the scheduler's. Where no Library was
told, everything is on the device for good, and nothing here costs a thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from edged.core.events import (
    BlockLoaded,
    BlockLoadFailed,
    BlockUnloaded,
    Calibrated,
    DeviceDown,
    DeviceUp,
    Library,
    MemoryMeasured,
    Request,
)
from edged.core.residency.blocks import Residency, Where, together_bytes
from edged.core.residency.ledger import Ledger
from edged.core.residency.loads import Loads
from edged.core.residency.needs import Need
from edged.core.residency.policies import POLICIES
from edged.core.residency.wanted import WantedModels
from edged.core.settings import MemorySettings
from edged.errors import Code

PASSING_S = 5.0  # retry-after for a lack of memory that may pass: the budget is looked at by then
BACK_OFF_S, LONGEST_BACK_OFF_S = 1.0, 60.0  # after a load that failed; doubled each time


class Verdict(NamedTuple):
    """Why requests of a need cannot be served."""

    code: Code
    message: str
    retry_after_s: float | None = None


class DeviceMemory:
    """Owns the account of the device's memory."""

    def __init__(self, settings: MemorySettings, max_batch_rows: int) -> None:
        self.residency = Residency()
        self.ledger = Ledger(max_batch_rows, lambda: self.residency.shared_bytes)
        self.wanted = WantedModels(self.residency, settings.pinned)
        self.loads = Loads(
            self.residency,
            self.ledger,
            self.wanted,
            POLICIES[settings.policy],
            can_load=lambda need, now: self.verdict(need, now) is None,
            max_wait_s=settings.max_wait_s,
        )
        self.has_library = False  # whether models may be away from the device, or vanish
        self.tight = False  # whether something is missing, or has to go
        self._max_wait_s = settings.max_wait_s
        self._relieved_s = -math.inf  # when a model was wished for that had not come for long

    # --- requests -------------------------------------------------------------------------------

    def enter(self, request: Request, now: float) -> Need | Verdict | None:
        """The need of an arrival, or why it cannot be served; None where all there is, is there.
        Only asked where there is a library."""
        names = [name for part in request.parts for name in part.models]
        models = self.residency.models
        for name in names:
            if name in self.wanted.retired:
                text = f"model {name!r} is not loaded; an administrator can: edged load {name}"
                return Verdict(Code.UNAVAILABLE, text)
            if name not in self.wanted.served:
                return Verdict(Code.NOT_FOUND, f"model {name!r} is not served here any more")
            models[name].use.seen(now, request.deadline_s)
        if not self.tight:
            return None
        for name in names:
            self._seen_lacking(models[name], now)
        need = self.need(request)
        verdict = self.verdict(need, now) if need.missing else None
        if verdict is not None and not need.open:
            self.residency.close(need)
        need.open += verdict is None
        return verdict or need

    def _seen_lacking(self, model: Need, now: float) -> None:
        """Of the models that are asked for and have not come for `max_wait_s`, each `max_wait_s`
        one is wished for: its load may take longer than anybody waits, so that it is never begun
        for one that waits."""
        if not model.missing:
            model.lacked_s = math.inf
            return
        model.lacked_s = min(model.lacked_s, now)
        if now - max(model.lacked_s, self._relieved_s) >= self._max_wait_s:
            served = filter(self.wanted.is_for_service, self.residency.models.values())
            longest = min((n for n in served if n.missing), key=lambda need: need.lacked_s)
            self.wanted.wished[longest.models[0]] = None
            longest.lacked_s = math.inf
            self._relieved_s = now

    def need(self, request: Request) -> Need:
        """The need of a request, all of whose models are known."""
        names = tuple(name for part in request.parts for name in part.models)
        return self.residency.need(names, tuple(part.group for part in request.parts))

    def verdict(self, need: Need, now: float) -> Verdict | None:
        """Why the need cannot be loaded, if it cannot."""
        lacking = self.lacking(need)
        if lacking is not None:
            return lacking
        failed = self.residency.failed(need, now)
        if failed is not None and failed.error is not None:
            code, text = failed.error
            # What is damaged is tried again too, but nobody should wait for that.
            retry_after_s = failed.retry_s - now if code is Code.UNAVAILABLE else None
            return Verdict(code, text, retry_after_s)
        return None

    def lacking(self, need: Need) -> Verdict | None:
        """Why the need does not fit even if all else leaves, if it does not: never, or not while
        others take so much of the machine's memory."""
        need_bytes, other_bytes = self._bytes_beside(need)
        capacity_bytes = self.ledger.capacity_bytes
        if need_bytes + other_bytes <= capacity_bytes:
            return None
        is_passing = need_bytes + other_bytes <= self.ledger.most_capacity_bytes
        besides = f" beside {other_bytes} bytes of pinned models" if other_bytes else ""
        text = (
            f"{' and '.join(need.models)}: {need_bytes} bytes of blocks{besides} do not fit the "
            f"{max(0, int(capacity_bytes))} bytes that the budget leaves for blocks"
        )
        if is_passing:
            return Verdict(Code.UNAVAILABLE, f"{text} at the moment: try again later", PASSING_S)
        return Verdict(Code.RESOURCE_EXHAUSTED, text)

    def excess_bytes(self, need: Need) -> int:
        """By how much the need does not fit even if all else leaves; 0 where it does."""
        return math.ceil(max(0, sum(self._bytes_beside(need)) - self.ledger.capacity_bytes))

    def _bytes_beside(self, need: Need) -> tuple[int, int]:
        """Bytes of the need, and of the pinned blocks that it has to fit beside."""
        kept = self.wanted.kept_blocks(self.ledger.most_capacity_bytes)
        need_bytes = self.residency.bytes(need)
        all_bytes = together_bytes(kept.keys() | set(self.residency.path(need)))
        return need_bytes, all_bytes - need_bytes

    def failing(self) -> dict[str, str]:
        """Models whose last load failed, and why; until one succeeds."""
        return {
            name: error[1]
            for name, need in self.residency.models.items()
            if need.missing and (error := self.residency.last_error(need)) is not None
        }

    def start(self, need: Need, now: float) -> None:
        """One of its requests goes to the device: until it leaves, its blocks stay."""
        need.in_use += 1
        need.used_s, need.fresh = now, False

    def leave(self, need: Need | None) -> None:
        """One of its requests has ended."""
        if need is None:
            return
        need.open -= 1
        if not need.open:
            self.residency.close(need)

    # --- events ---------------------------------------------------------------------------------

    def handle(self, event: Any, now: float) -> None:
        """Take in an event that changes what is on the device, or what should be."""
        _HANDLERS[type(event)](self, event, now)

    def _on_library(self, event: Library, now: float) -> None:
        """Models appear and vanish."""
        self.has_library = True
        self.residency.set_library(event)
        names = {model.name for model in event.models}
        self.wanted.serve(retired=self.wanted.retired & names)
        self.wanted.strays = any(not block.needs for block in self.residency.blocks)
        self._fit_batch()

    def _on_device_up(self, event: DeviceUp, now: float) -> None:
        """A device with these blocks on it."""
        self.ledger.overhead = event.overhead
        self.residency.reset(event.resident)
        for held in event.resident:
            self.ledger.hold(held.block, held.bytes)
        self.wanted.strays = any(not block.needs for block in self.residency.blocks)
        self.wanted.begin(event.first)
        self._fit_batch()

    def _on_device_down(self, event: DeviceDown, now: float) -> None:
        """The blocks that were there are gone, and so are the loads that were ordered."""
        self.loads.clear()
        self.residency.reset(())
        self.ledger.release_all()
        for need in self.residency.needs:
            need.in_use, need.fresh = 0, False

    def _on_measured(self, event: MemoryMeasured, now: float) -> None:
        """The budget, or what the processes hold, has changed."""
        self.ledger.budget_bytes = event.budget_bytes
        self.ledger.ceiling_bytes = max(event.budget_bytes, event.ceiling_bytes or 0)
        if event.used_bytes:
            self.ledger.measured(event.used_bytes)
        self._fit_batch()

    def _on_calibrated(self, event: Calibrated, now: float) -> None:
        """What a batch takes of the memory has been measured."""
        if event.overhead is not None:
            self.ledger.overhead = event.overhead
            self._fit_batch()

    def _on_loaded(self, event: BlockLoaded, now: float) -> None:
        """A block is there; with the last one the need that was being loaded is."""
        block = self.loads.ended(event.block)
        self.ledger.hold(block.id, event.bytes)
        self.residency.loaded(block, event)
        self.loads.arrived(now)

    def _on_failed(self, event: BlockLoadFailed, now: float) -> None:
        """A block gives back all that was reserved for it, and is not tried again for a while."""
        block = self.loads.ended(event.block)
        self.ledger.release(block.id)
        wait_s = min(LONGEST_BACK_OFF_S, BACK_OFF_S * 2.0**block.failures)
        block.failures += 1
        block.retry_s, block.error = now + wait_s, (event.code, event.message)
        self.loads.give_up(block)
        self.residency.move(block, Where.ABSENT)

    def _on_unloaded(self, event: BlockUnloaded, now: float) -> None:
        """A block has given its bytes back."""
        block = self.residency.block(event.block)
        self.ledger.release(block.id)
        self.residency.move(block, Where.ABSENT)

    def refresh(self) -> None:
        """See whether there is anything to decide, after an event that may have changed it."""
        self.tight = self.has_library and (
            bool(self.residency.going or self.residency.vanished)
            or self.ledger.room_bytes < 0
            or any(
                n.missing and (n.open or self.wanted.is_for_service(n))
                for n in self.residency.needs
            )
            or bool(self.wanted.leftovers())
        )
        self.loads.wakeup_s = math.inf

    def _fit_batch(self) -> None:
        """The largest batch shrinks before a model is refused: to what each model that fits
        beside a batch of one row leaves room for."""
        pinned = self.wanted.kept_blocks(self.ledger.most_capacity_bytes)
        sizes = [
            together_bytes(pinned | dict.fromkeys(self.residency.path(need)))
            for need in self.residency.models.values()
        ]
        self.ledger.fit_batch(
            lambda capacity_bytes: max((s for s in sizes if s <= capacity_bytes), default=0)
        )


_HANDLERS: dict[type, Callable[[DeviceMemory, Any, float], None]] = {
    Library: DeviceMemory._on_library,
    DeviceUp: DeviceMemory._on_device_up,
    DeviceDown: DeviceMemory._on_device_down,
    BlockLoaded: DeviceMemory._on_loaded,
    BlockLoadFailed: DeviceMemory._on_failed,
    BlockUnloaded: DeviceMemory._on_unloaded,
    Calibrated: DeviceMemory._on_calibrated,
    MemoryMeasured: DeviceMemory._on_measured,
}


def too_many_rows_now(most_rows: int) -> Verdict:
    """Why a request has to wait until there is memory for more than `most_rows` rows."""
    text = f"memory is short at the moment: at most {most_rows} rows fit in one request"
    return Verdict(Code.UNAVAILABLE, text, PASSING_S)

"""The device's memory: which blocks come, which go, and which requests cannot be served for want.

Owns the ledger and the residency, and drives them by a loading policy. Knows requests only as
needs that wait; who starts when is the scheduler's. Where no Library was told, everything is on
the device for good, and nothing here costs a thing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from edged.core.costs import CostModel
from edged.core.events import (
    BlockLoaded,
    BlockLoadFailed,
    BlockUnloaded,
    Command,
    DeviceDown,
    DeviceUp,
    FailedBlock,
    Library,
    Load,
    MemoryMeasured,
    Request,
    Unload,
)
from edged.core.residency.blocks import Block, Residency, Where
from edged.core.residency.choice import Outlook
from edged.core.residency.ledger import Ledger
from edged.core.residency.needs import Need
from edged.core.residency.policies import POLICIES, unshared
from edged.core.settings import MemorySettings
from edged.errors import Code

PLANS = 2  # needs that are being loaded: the next one's room is made while one comes
AHEAD = 4  # loads that are ordered at once, so that the device can read ahead
PAUSE_S = 0.01  # before another look where nothing was worth loading
AGAIN_S = 5.0  # after which the budget has been looked at again
BACK_OFF_S, LONGEST_BACK_OFF_S = 1.0, 60.0  # after a load that failed; doubled each time


class Verdict(NamedTuple):
    """Why requests of a need cannot be served."""

    code: Code
    message: str
    retry_after_s: float | None = None


@dataclass(slots=True, eq=False)
class _Plan:
    """The need that is being loaded: what is still to be ordered, and what is on its way."""

    need: Need
    path: tuple[Block, ...]
    queue: deque[Block]
    ordered: dict[Block, None]


class DeviceMemory:
    """Owns the account of the device's memory."""

    def __init__(self, settings: MemorySettings, max_batch_rows: int) -> None:
        self.ledger = Ledger(max_batch_rows)
        self.residency = Residency()
        self.pinned = set(settings.pinned)
        self.served: set[str] = set()  # models that requests may ask for
        self.retired: set[str] = set()  # models that an administrator has unloaded
        self.wished: dict[str, None] = {}  # models to be loaded though nobody waits; ordered
        self.tight = False  # whether something is missing, or has to go
        self.wakeup_s = math.inf  # when to look again though nothing happens
        self._max_wait_s = settings.max_wait_s
        self._policy = POLICIES[settings.policy]
        self._max_batch_rows = max_batch_rows
        self._known = False  # whether a library was told
        self._strays = False  # whether there are blocks of no model
        self._plans: list[_Plan] = []  # PLANS at most; the first is being loaded
        self._look_at_s = -math.inf  # not before this time, since nothing was worth loading
        self._relieved_s = -math.inf  # when a model was wished for that had not come for long

    @property
    def has_whole_batches(self) -> bool:
        """Whether there is room for batches as large as the settings allow."""
        return self.ledger.batch_rows == self._max_batch_rows

    # --- requests -------------------------------------------------------------------------------

    def enter(self, request: Request, now: float) -> Need | Verdict | None:
        """The need of an arrival, or why it cannot be served; None where all there is, is there."""
        if not self._known:
            return None
        names = models_of(request)
        models = self.residency.models
        for name in names:
            if name in self.retired:
                text = f"model {name!r} is not loaded; an administrator can: edged load {name}"
                return Verdict(Code.UNAVAILABLE, text)
            if name not in self.served:
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
            served = filter(self._is_for_service, self.residency.models.values())
            longest = min((n for n in served if n.missing), key=lambda need: need.lacked_s)
            self.wished[longest.models[0]] = None
            longest.lacked_s = math.inf
            self._relieved_s = now

    def need(self, request: Request) -> Need:
        """The need of a request, all of whose models are known."""
        return self.residency.need(models_of(request), tuple(part.group for part in request.parts))

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
        """Why the need cannot be on the device whatever else leaves, if it cannot: never, or not
        while others take so much of the machine's memory."""
        blocks = self.residency.path(need)
        others = self._pinned_blocks().keys() - set(blocks)
        need_bytes = self.residency.bytes(need)
        other_bytes = sum(block.bytes for block in others)
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
            return Verdict(Code.UNAVAILABLE, f"{text} at the moment: try again later", AGAIN_S)
        return Verdict(Code.RESOURCE_EXHAUSTED, text)

    def failing(self) -> dict[str, str]:
        """Models whose last load failed, and why; until one succeeds."""
        return {
            name: error[1]
            for name, need in self.residency.models.items()
            if need.missing and (error := self.residency.last_error(need)) is not None
        }

    def load_s(self, need: Need) -> float:
        """Expected seconds until the need is on the device, if it is loaded next."""
        return math.fsum(map(self.residency.load_s, self.residency.missing(need)))

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

    def on_library(self, event: Library, now: float) -> None:
        """Models appear and vanish."""
        self._known = True
        self.residency.set_library(event if self._policy.shares else unshared(event))
        names = {model.name for model in event.models}
        self.wished = {name: None for name in self.wished if name in names}
        self.serve(retired=self.retired & names)
        self._strays = any(not block.needs for block in self.residency.blocks)
        self._fit_batch()

    def serve(self, *, retired: set[str]) -> None:
        """Serve all models of the library but these."""
        self.retired = retired
        self.served = self.residency.models.keys() - self.residency.vanished - retired

    def on_device_up(self, event: DeviceUp, now: float) -> None:
        """A device with these blocks on it."""
        self.ledger.overhead = event.overhead
        self.residency.reset(event.resident)
        for held in event.resident:
            self.ledger.hold(held.block, held.bytes)
        for failed in event.failed:
            self._failed(self.residency.block(failed.block), failed, now)
        self._strays = any(not block.needs for block in self.residency.blocks)
        self._fit_batch()

    def on_device_down(self, event: DeviceDown, now: float) -> None:
        """Whatever was there is gone, and whatever was ordered."""
        self._plans.clear()
        self.residency.reset(())
        self.ledger.release_all()
        for need in self.residency.needs:
            need.in_use, need.fresh = 0, False

    def on_measured(self, event: MemoryMeasured, now: float) -> None:
        """The budget, or what the processes hold, has changed."""
        self.ledger.budget_bytes = event.budget_bytes
        self.ledger.ceiling_bytes = max(event.budget_bytes, event.ceiling_bytes or 0)
        if event.used_bytes:
            self.ledger.measured(event.used_bytes)
        self._fit_batch()

    def on_loaded(self, event: BlockLoaded, now: float) -> None:
        """A block is there; with the last one the need that was being loaded is."""
        block = self._ordered(event.block)
        self.ledger.hold(block.id, event.bytes)
        self.residency.loaded(block, event.bytes, event.load_s)
        for plan in [plan for plan in self._plans if not plan.need.missing]:
            self._arrive(plan.need, now)

    def on_failed(self, event: BlockLoadFailed, now: float) -> None:
        """A block gives back all that was reserved for it, and is not tried again for a while."""
        block = self._ordered(event.block)
        self.ledger.release(block.id)
        self._failed(block, event, now)
        for plan in self._plans:
            if plan.need in block.needs:
                plan.queue.clear()
        self.residency.move(block, Where.ABSENT)

    def _failed(self, block: Block, why: BlockLoadFailed | FailedBlock, now: float) -> None:
        wait_s = min(LONGEST_BACK_OFF_S, BACK_OFF_S * 2.0**block.failures)
        block.failures += 1
        block.retry_s, block.error = now + wait_s, (why.code, why.message)

    def on_unloaded(self, event: BlockUnloaded, now: float) -> None:
        """A block has given its bytes back."""
        block = self.residency.block(event.block)
        self.ledger.release(block.id)
        self.residency.move(block, Where.ABSENT)

    def doomed(self, now: float) -> list[tuple[Need, Verdict]]:
        """Needs that requests wait for and that cannot be loaded as things are."""
        waiting = [need for need in self.residency.needs if need.missing and need.waiting]
        verdicts = [(need, self.verdict(need, now)) for need in waiting]
        return [(need, verdict) for need, verdict in verdicts if verdict is not None]

    def wish(self, need: Need) -> None:
        """Load a model though nobody waits for it, also one whose load has failed lately."""
        (name,) = need.models
        for block in self.residency.path(need):
            block.error = None
        if need.missing:
            self.wished[name] = None

    def refresh(self) -> None:
        """See whether there is anything to decide, after an event that may have changed it."""
        self.tight = self._known and (
            bool(self.residency.going or self.residency.vanished)
            or self.ledger.room_bytes < 0
            or any(n.missing and (n.open or self._is_for_service(n)) for n in self.residency.needs)
            or bool(self._leftovers())
        )
        self.wakeup_s = math.inf

    def _ordered(self, id: str) -> Block:
        block = self.residency.block(id)
        if block.where is not Where.LOADING:
            raise ValueError(f"block {id} was not being loaded: this is a bug of the driver")
        for plan in self._plans:
            plan.ordered.pop(block, None)
        return block

    def _fit_batch(self) -> None:
        """The largest batch shrinks before a model is refused: to what each model that fits
        beside a batch of one row leaves room for."""
        pinned = self._pinned_blocks()
        sizes = [
            sum(block.bytes for block in pinned | dict.fromkeys(self.residency.path(need)))
            for need in self.residency.models.values()
        ]
        self.ledger.fit_batch(
            self._max_batch_rows,
            lambda capacity_bytes: max((s for s in sizes if s <= capacity_bytes), default=0),
        )

    # --- after every event while memory is tight --------------------------------------------------

    def decide(self, costs: CostModel, backlog_s: float, now: float) -> list[Command]:
        """What to load and unload now."""
        commands: list[Command] = []
        self.wakeup_s = math.inf
        models = self.residency.models
        self.wished = {name: None for name in self.wished if models[name].missing}
        self._keep_pinned()
        self._clear_away()
        if self.ledger.room_bytes + self.residency.going_bytes < 0:
            self._shrink(costs, now)
        for plan in self._plans:
            if not self._is_wanted(plan.need):
                plan.queue.clear()  # what was ordered still comes, and may leave again
        self._plans = [plan for plan in self._plans if plan.queue or plan.ordered]
        while self._has_hands_free() and self._choose(costs, backlog_s, now):
            pass  # until enough has to be loaded, or nothing is worth it
        if self.residency.going:
            self._let_go(commands)
        if self._plans:
            self._load_next(now, commands)
        return commands

    def _has_hands_free(self) -> bool:
        """Whether to choose the next need: while the last blocks of one come, what has to leave for
        the next one goes."""
        return len(self._plans) < PLANS and not any(plan.queue for plan in self._plans)

    def _keep_pinned(self) -> None:
        """What leaves and was pinned meanwhile stays: others have to go in its place."""
        for block in self._pinned_blocks() if self.residency.going else ():
            if block.where is Where.LEAVING:
                self.residency.move(block, Where.RESIDENT)

    def _let_go(self, commands: list[Command]) -> None:
        """Unload what leaves as soon as no request on the device needs it."""
        for block in list(self.residency.going):
            if block.where is Where.LEAVING and not block.in_use:
                self.residency.move(block, Where.UNLOADING)
                commands.append(Unload(block.id))

    def _choose(self, costs: CostModel, backlog_s: float, now: float) -> bool:
        """Begin with the need that is best to load now, if there is one."""
        planned = [plan.need for plan in self._plans]
        wanted = [
            need
            for need in self.residency.needs
            if need.missing and need not in planned and self._is_wanted(need)
        ]
        able = [need for need in wanted if self.verdict(need, now) is None]
        if not able:
            failed = [self.residency.failed(need, now) for need in wanted]
            self.wakeup_s = min((b.retry_s for b in failed if b is not None), default=math.inf)
            return False
        if now >= self._look_at_s:
            wished = [need for need in able if self._is_wished(need)]
            waiting = [need for need in able if need.waiting]
            chosen = self._outlook(costs, backlog_s, now).next(wished, waiting)
            if chosen is not None:
                self._begin(*chosen, now)
                return True
            self._look_at_s = now + PAUSE_S
        self.wakeup_s = self._look_at_s
        return False

    def _begin(self, need: Need, victims: Iterable[Block], now: float) -> None:
        for block in victims:
            self.residency.move(block, Where.LEAVING)
        path = self.residency.path(need)
        for block in path:
            if block.where is Where.LEAVING:
                self.residency.move(block, Where.RESIDENT)  # it had not left yet
        queue = deque(b for b in path if b.where in (Where.ABSENT, Where.UNLOADING))
        ordered = {b: None for b in path if b.where is Where.LOADING}
        self._plans.append(_Plan(need, path, queue, ordered))
        if not need.missing:
            self._arrive(need, now)

    def _load_next(self, now: float, commands: list[Command]) -> None:
        plan = self._plans[-1]
        while plan.queue and sum(len(each.ordered) for each in self._plans) < AHEAD:
            block = plan.queue[0]
            if block.where is Where.UNLOADING or block.bytes > self.ledger.room_bytes:
                break
            plan.queue.popleft()
            if block.where is Where.ABSENT:
                plan.ordered[block] = None
                self.ledger.reserve(block.id, block.bytes)
                self.residency.move(block, Where.LOADING)
                commands.append(Load(block.id))
        if not any(plan.ordered for plan in self._plans) and not self.residency.going:
            self._plans.clear()  # there is less room than when it was chosen: choose anew
            self.wakeup_s = self._look_at_s = now + PAUSE_S

    def _arrive(self, need: Need, now: float) -> None:
        self._plans = [plan for plan in self._plans if plan.need is not need]
        need.used_s, need.fresh = now, need.waiting > 0

    def _shrink(self, costs: CostModel, now: float) -> None:
        """More is held than the budget has: the blocks of least worth leave."""
        for plan in self._plans:
            plan.queue.clear()
        excess_bytes = -self.ledger.room_bytes - self.residency.going_bytes
        for block in self._outlook(costs, 0.0, now).victims(excess_bytes, ()):
            self.residency.move(block, Where.LEAVING)

    def _outlook(self, costs: CostModel, backlog_s: float, now: float) -> Outlook:
        return Outlook(
            self.residency,
            self.ledger,
            self._policy,
            costs,
            backlog_s=backlog_s,
            coming=[block for plan in self._plans for block in plan.path],
            max_wait_s=self._max_wait_s,
            pinned=self._pinned_blocks(),
            now=now,
        )

    # --- which models ---------------------------------------------------------------------------

    def _is_wanted(self, need: Need) -> bool:
        return need.waiting > 0 or self._is_wished(need)

    def _is_for_service(self, need: Need) -> bool:
        return need.is_model and need.models[0] in self.served

    def _is_wished(self, need: Need) -> bool:
        if not self._is_for_service(need):
            return False
        return need.models[0] in self.wished or need.models[0] in self.pinned

    def _pinned_blocks(self) -> dict[Block, None]:
        """Blocks that never leave, in the order of the library."""
        if not self.pinned:
            return {}
        return {
            block: None
            for name, need in self.residency.models.items()
            if name in self.pinned and name in self.served
            for block in self.residency.path(need)
        }

    def is_gone(self, model: str) -> bool:
        """Whether a model that is not served has no request left, nor any block of its own."""
        need = self.residency.models.get(model)
        if need is None:
            return True
        if any(other.open for other in self.residency.needs if model in other.models):
            return False
        return all(
            block.where is Where.ABSENT or self._is_served(block)
            for block in self.residency.path(need)
        )

    def _is_served(self, block: Block) -> bool:
        return any(map(self._is_for_service, block.needs))

    def _leftovers(self) -> list[Block]:
        """Blocks on the device that only models need which are not served any more, or none."""
        if self.served == self.residency.models.keys() and not self._strays:
            return []
        return [
            block
            for block in self.residency.blocks
            if block.where is not Where.ABSENT and not self._is_served(block)
        ]

    def _clear_away(self) -> None:
        """Blocks leave that no request and no served model needs; vanished models are forgotten."""
        for block in self._leftovers():
            if block.where is Where.RESIDENT and not any(need.open for need in block.needs):
                self.residency.move(block, Where.LEAVING)
        for name in [name for name in self.residency.vanished if self.is_gone(name)]:
            self.residency.drop(self.residency.models[name])


def models_of(request: Request) -> tuple[str, ...]:
    """All models of a request, in the order of its parts."""
    if len(request.parts) == 1:
        return request.parts[0].models
    return tuple(model for part in request.parts for model in part.models)


def too_many_rows_now(most_rows: int) -> Verdict:
    """Why a request has to wait until there is memory for more than `most_rows` rows."""
    text = f"memory is short at the moment: at most {most_rows} rows fit in one request"
    return Verdict(Code.UNAVAILABLE, text, AGAIN_S)

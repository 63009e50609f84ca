"""Loads under way: the blocks that are ordered for the needs that were chosen, and room for them.

Which need is chosen, and what leaves for it, is in `choice.py`. Owns the plans: a plan is one need
on its way to the device, block by block.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edged.core.costs import CostModel
from edged.core.events import Command, Load, Unload
from edged.core.residency.blocks import Block, Residency, Where, added_bytes
from edged.core.residency.choice import Outlook
from edged.core.residency.ledger import Ledger
from edged.core.residency.needs import Need
from edged.core.residency.policies import Policy
from edged.core.residency.wanted import WantedModels

PLANS = 2  # needs that are being loaded: the next one's room is made while one comes
AHEAD = 4  # loads that are ordered at once, so that the device can read ahead
PAUSE_S = 0.01  # before another look where nothing was worth loading


@dataclass(slots=True, eq=False)
class _Plan:
    """The need that is being loaded: what is still to be ordered, and what is on its way."""

    need: Need
    path: tuple[Block, ...]
    queue: deque[Block]
    ordered: dict[Block, None]


class Loads:
    """Decides after every event while something is missing, or has to go."""

    def __init__(
        self,
        residency: Residency,
        ledger: Ledger,
        wanted: WantedModels,
        policy: Policy,
        *,
        can_load: Callable[[Need, float], bool],
        max_wait_s: float,
    ) -> None:
        """`can_load`: whether a need fits and has not failed lately, at a time."""
        self._residency = residency
        self._ledger = ledger
        self._wanted = wanted
        self._policy = policy
        self._can_load = can_load
        self._max_wait_s = max_wait_s
        self._plans: list[_Plan] = []  # PLANS at most; the first is being loaded
        self._look_at_s = -math.inf  # not before this time, since nothing was worth loading
        self.wakeup_s = math.inf  # when to look again though nothing happens

    @property
    def is_busy(self) -> bool:
        """Whether anything is on its way to the device."""
        return bool(self._plans)

    # --- what the device reports ----------------------------------------------------------------

    def clear(self) -> None:
        """The device is gone, and all that was ordered."""
        self._plans.clear()

    def ended(self, id: str) -> Block:
        """A load has ended, well or not: the block, which is not on its way any more."""
        block = self._residency.block(id)
        if block.where is not Where.LOADING:
            raise ValueError(f"block {id} was not being loaded: this is a bug of the driver")
        for plan in self._plans:
            plan.ordered.pop(block, None)
        return block

    def arrived(self, now: float) -> None:
        """A block is there; with the last one the need that was being loaded is."""
        for plan in [plan for plan in self._plans if not plan.need.missing]:
            self._arrive(plan.need, now)
        models, first = self._residency.models, self._wanted.first
        self._wanted.first = {name: None for name in first if models[name].missing}

    def give_up(self, block: Block) -> None:
        """A block has failed: nothing more is ordered for needs that it belongs to."""
        for plan in self._plans:
            if plan.need in block.needs:
                plan.queue.clear()

    # --- what to do -----------------------------------------------------------------------------

    def decide(self, costs: CostModel, backlog_s: float, now: float) -> list[Command]:
        """What to load and unload now."""
        commands: list[Command] = []
        self.wakeup_s = math.inf
        wished, models = self._wanted.wished, self._residency.models
        self._wanted.wished = {name: None for name in wished if models[name].missing}
        self._keep_pinned()
        self._clear_away()
        if self._ledger.room_bytes + self._residency.going_bytes < 0:
            self._shrink(costs, now)
        for plan in self._plans:
            if not self._wanted.is_wanted(plan.need):
                plan.queue.clear()  # what was ordered still comes, and may leave again
        self._plans = [plan for plan in self._plans if plan.queue or plan.ordered]
        while self._has_hands_free() and self._choose(costs, backlog_s, now):
            pass  # until enough has to be loaded, or nothing is worth it
        if self._residency.going:
            self._let_go(commands)
        if self._plans:
            self._load_next(now, commands)
        return commands

    def _has_hands_free(self) -> bool:
        """Whether to choose the next need: while the last blocks of one come, what has to leave for
        the next one goes."""
        return len(self._plans) < PLANS and not any(plan.queue for plan in self._plans)

    def _kept(self) -> dict[Block, None]:
        return self._wanted.kept_blocks(self._ledger.most_capacity_bytes)

    def _keep_pinned(self) -> None:
        """What leaves and was pinned meanwhile stays: others have to go in its place."""
        for block in self._kept() if self._residency.going else ():
            if block.where is Where.LEAVING:
                self._residency.move(block, Where.RESIDENT)

    def _clear_away(self) -> None:
        """Blocks leave that no request and no served model needs; vanished models are forgotten."""
        for block in self._wanted.leftovers():
            if block.where is Where.RESIDENT and not any(need.open for need in block.needs):
                self._residency.move(block, Where.LEAVING)
        for name in [name for name in self._residency.vanished if self._wanted.is_gone(name)]:
            self._residency.drop(self._residency.models[name])

    def _let_go(self, commands: list[Command]) -> None:
        """Unload what leaves as soon as nothing that is on the device needs it."""
        for block in list(self._residency.going):
            if block.where is Where.LEAVING and not block.in_use:
                self._residency.move(block, Where.UNLOADING)
                commands.append(Unload(block.id))

    def _choose(self, costs: CostModel, backlog_s: float, now: float) -> bool:
        """Begin with the need that is best to load now, if there is one."""
        planned = [plan.need for plan in self._plans]
        wanted = [
            need
            for need in self._residency.needs
            if need.missing and need not in planned and self._wanted.is_wanted(need)
        ]
        able = [need for need in wanted if self._can_load(need, now)]
        self._forget_hopeless(able, planned)
        if not able:
            failed = [self._residency.failed(need, now) for need in wanted]
            self.wakeup_s = min((b.retry_s for b in failed if b is not None), default=math.inf)
            return False
        if now >= self._look_at_s:
            wished = [need for need in able if self._wanted.is_wished(need)]
            waiting = [need for need in able if need.waiting]
            outlook = self._outlook(costs, backlog_s, now)
            chosen = outlook.next(self._wanted.in_order(wished), waiting)
            if chosen is None and not waiting:
                chosen = self._first_that_fits(outlook, planned)
            if chosen is not None:
                self._begin(*chosen, now)
                return True
            self._look_at_s = now + PAUSE_S
        self.wakeup_s = self._look_at_s
        return False

    def _forget_hopeless(self, able: list[Need], planned: list[Need]) -> None:
        """The start goes on without models that cannot be loaded."""
        models, first = self._residency.models, self._wanted.first
        self._wanted.first = {n: None for n in first if models[n] in (*able, *planned)}

    def _first_that_fits(
        self, outlook: Outlook, planned: list[Need]
    ) -> tuple[Need, list[Block]] | None:
        """The next model of the start that fits without anything leaving for it."""
        for name in list(self._wanted.first):
            need = self._residency.models[name]
            if need in planned:
                continue
            if outlook.victims_for(need) == []:
                return need, []
            del self._wanted.first[name]
        return None

    def _begin(self, need: Need, victims: Iterable[Block], now: float) -> None:
        for block in victims:
            self._residency.move(block, Where.LEAVING)
        path = self._residency.path(need)
        for block in path:
            if block.where is Where.LEAVING:
                self._residency.move(block, Where.RESIDENT)  # it had not left yet
        queue = deque(b for b in path if b.where in (Where.ABSENT, Where.UNLOADING))
        ordered = {b: None for b in path if b.where is Where.LOADING}
        self._plans.append(_Plan(need, path, queue, ordered))
        if not need.missing:
            self._arrive(need, now)

    def _load_next(self, now: float, commands: list[Command]) -> None:
        plan = self._plans[-1]
        while plan.queue and sum(len(each.ordered) for each in self._plans) < AHEAD:
            block = plan.queue[0]
            if block.where is Where.UNLOADING or added_bytes(block) > self._ledger.room_bytes:
                break
            plan.queue.popleft()
            if block.where is Where.ABSENT:
                plan.ordered[block] = None
                self._residency.move(block, Where.LOADING)  # what it shares is not taken again
                self._ledger.reserve(block.id, block.bytes)
                commands.append(Load(block.id))
        if not any(plan.ordered for plan in self._plans) and not self._residency.going:
            self._plans.clear()  # there is less room than when it was chosen: choose anew
            self.wakeup_s = self._look_at_s = now + PAUSE_S

    def _arrive(self, need: Need, now: float) -> None:
        self._plans = [plan for plan in self._plans if plan.need is not need]
        need.fresh = need.waiting > 0
        if need.fresh or not self._wanted.is_first(need):
            need.used_s = now  # what the start loads of its own accord has not been used yet

    def _shrink(self, costs: CostModel, now: float) -> None:
        """More is held than the budget has: the blocks of least worth leave."""
        for plan in self._plans:
            plan.queue.clear()
        excess_bytes = -self._ledger.room_bytes - self._residency.going_bytes
        for block in self._outlook(costs, 0.0, now).victims(excess_bytes, ()):
            self._residency.move(block, Where.LEAVING)

    def _outlook(self, costs: CostModel, backlog_s: float, now: float) -> Outlook:
        return Outlook(
            self._residency,
            self._ledger,
            self._policy,
            costs,
            backlog_s=backlog_s,
            coming=[block for plan in self._plans for block in plan.path],
            max_wait_s=self._max_wait_s,
            kept=self._kept(),
            now=now,
        )

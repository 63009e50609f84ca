"""One look at the device's memory: which need to load next, and what has to leave for it.

Puts the figures that a loading policy asks for together. Changes nothing and remembers nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from edged.core.cost import CostModel
from edged.core.demand import Need
from edged.core.ledger import Ledger
from edged.core.loading import Candidate, Leaver, Policy
from edged.core.residency import Block, Residency, Where

SHORTLIST = 4  # needs whose victims are looked for
PRIOR_USES = 0.01  # of a model that was never asked for: of unused blocks the shared stay


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known at `now`."""

    residency: Residency
    ledger: Ledger
    policy: Policy
    costs: CostModel
    backlog_s: float  # of work on the device
    max_wait_s: float
    pinned: frozenset[Block]
    now: float
    uses: dict[Need, float]  # expected before all that is on the device could be loaded anew

    @classmethod
    def of(
        cls,
        residency: Residency,
        ledger: Ledger,
        policy: Policy,
        costs: CostModel,
        *,
        backlog_s: float,
        max_wait_s: float,
        pinned: Iterable[Block],
        now: float,
    ) -> Outlook:
        resident = [b for b in residency.blocks if b.where is Where.RESIDENT]
        turnover_s = sum(map(residency.load_s, resident))
        uses = {
            need: need.in_time(now)
            + (turnover_s / need.use.next_s(now) + PRIOR_USES if need.is_model else 0.0)
            for need in residency.needs
        }
        return cls(
            residency, ledger, policy, costs, backlog_s, max_wait_s, frozenset(pinned), now, uses
        )

    def next(self, wished: list[Need], waiting: list[Need]) -> tuple[Need, list[Block]] | None:
        """The need to load and what leaves for it; None where nothing can or should be loaded."""
        overdue = [n for n in waiting if self.now - n.oldest_s >= self.max_wait_s]
        for need in [*wished, *sorted(overdue, key=lambda n: n.oldest_s)]:
            victims = self.victims_for(need)
            if victims is not None:
                return need, victims
        shortlist = [
            (need, self._with_losses(bare, need, victims), victims)
            for need, bare in self._shortlist(waiting)
            if (victims := self.victims_for(need)) is not None
        ]
        best = self.policy.order([candidate for _, candidate, _ in shortlist])
        return (shortlist[best[0]][0], shortlist[best[0]][2]) if best else None

    def _shortlist(self, waiting: list[Need]) -> list[tuple[Need, Candidate]]:
        """The best needs of the most urgent level, before it is known what leaves for them."""
        level = min((need.level for need in waiting), default=0)
        needs = [need for need in waiting if need.level == level]
        candidates = [self._candidate(need) for need in needs]
        return [(needs[i], candidates[i]) for i in self.policy.order(candidates)[:SHORTLIST]]

    def _candidate(self, need: Need) -> Candidate:
        load_s = sum(map(self.residency.load_s, self.residency.missing(need)))
        rows = max(1, min(need.rows, self.ledger.batch_rows))
        batch_s = sum(self.costs.batch_s(group, rows) or 0.0 for group in need.groups)
        ready_s = self.now + max(load_s, self.backlog_s) + batch_s
        requests = need.in_time(ready_s)
        due_s = need.deadlines_s[-requests] - self.now if requests else 0.0
        return Candidate(
            requests=requests,
            due_s=due_s,
            waited_s=self.now - need.oldest_s,
            load_s=load_s,
            run_s=batch_s * math.ceil(requests / rows),
        )

    def _with_losses(self, bare: Candidate, need: Need, victims: list[Block]) -> Candidate:
        """The candidate with what its victims lose: answers, and the time to bring them back."""
        lost = 0.0
        for other in dict.fromkeys(n for block in victims for n in block.needs if not n.missing):
            lost += other.in_time(self.now) if other.level_or(need.level) <= need.level else 0
            back_s = sum(self.residency.load_s(block) for block in victims if other in block.needs)
            away_s = bare.load_s + back_s - other.use.patience_s
            if other.is_model and away_s > 0.0:
                lost += away_s / other.use.next_s(self.now)
        return replace(bare, lost=lost)

    def victims_for(self, need: Need) -> list[Block] | None:
        """What has to leave for `need`; None where not enough can at present."""
        own = frozenset(self.residency.path(need))
        absent = sum(b.bytes for b in own if b.where in (Where.ABSENT, Where.UNLOADING))
        rescued = sum(b.bytes for b in own if b.where is Where.LEAVING)
        room_bytes = absent + rescued - self.ledger.room_bytes - self.residency.going_bytes
        if room_bytes <= 0:
            return []
        victims = self.victims(room_bytes, own | self._fresh())
        return victims if sum(block.bytes for block in victims) >= room_bytes else None

    def victims(self, room_bytes: float, spared: frozenset[Block]) -> list[Block]:
        """What leaves for so many bytes, as far as that is possible. The pinned stay."""
        kept = self.pinned | spared
        return self.residency.victims(room_bytes, self._worth, kept.__contains__)

    def _fresh(self) -> frozenset[Block]:
        """Blocks that have come for requests of which none has started."""
        return frozenset(
            block
            for need in self.residency.needs
            if need.fresh and self.now - need.used_s < self.max_wait_s
            for block in self.residency.path(need)
        )

    def _worth(self, block: Block) -> float:
        return self.policy.worth(
            Leaver(
                uses=self._uses_of(block),
                load_s=self.residency.load_s(block),
                bytes=block.bytes,
                used_s=max((need.used_s for need in block.needs), default=-math.inf),
            )
        )

    def _uses_of(self, block: Block) -> float:
        return sum(self.uses[need] for need in block.needs)

"""One look at the device's memory: which need to load next, and what has to leave for it.

Puts the figures that a loading policy asks for together. Changes nothing and remembers nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from edged.core.costs import CostModel
from edged.core.residency.blocks import Block, Residency, Where, own_bytes
from edged.core.residency.ledger import Ledger
from edged.core.residency.needs import Need
from edged.core.residency.policies import Candidate, Leaver, Policy

SHORTLIST = 4  # needs whose victims are looked for
PRIOR_USES = 0.01  # of a model that was never asked for: of unused blocks the shared stay


class Outlook:
    """What is known at `now`. Made for one decision."""

    def __init__(
        self,
        residency: Residency,
        ledger: Ledger,
        policy: Policy,
        costs: CostModel,
        *,
        backlog_s: float,
        coming: Iterable[Block],
        max_wait_s: float,
        kept: Collection[Block],
        now: float,
    ) -> None:
        self._residency = residency
        self._ledger = ledger
        self._policy = policy
        self._costs = costs
        self._backlog_s = backlog_s  # of work on the device
        self._busy_s = math.fsum(  # of work of the loader
            residency.load_s(b) for b in residency.blocks if b.where is Where.LOADING
        )
        self._max_wait_s = max_wait_s
        self._now = now
        resident = [b for b in residency.blocks if b.where is Where.RESIDENT]
        turnover_s = math.fsum(map(residency.load_s, resident))
        self._uses = {need: self._expected_uses(need, turnover_s) for need in residency.needs}
        # What nobody uses now can go at once. Of those that could, the least worth is first.
        leavers = [block for block in resident if block not in kept]
        self._leavers = sorted(leavers, key=lambda block: (block.in_use, self._worth(block)))
        # Have come for requests of which none has started, or are to come.
        fresh = [n for n in residency.needs if n.fresh and now - n.used_s < max_wait_s]
        self._spared = {block for need in fresh for block in residency.path(need)}.union(coming)

    def next(self, wished: list[Need], waiting: list[Need]) -> tuple[Need, list[Block]] | None:
        """The need to load and what leaves for it; None where nothing can or should be loaded."""
        overdue = [n for n in waiting if self._now - n.oldest_s >= self._max_wait_s]
        for need in [*wished, *sorted(overdue, key=lambda n: n.oldest_s)]:
            victims = self.victims_for(need)
            if victims is not None:
                return need, victims
        for level in sorted({need.level for need in waiting}):
            chosen = self._best([need for need in waiting if need.level == level])
            if chosen is not None:
                return chosen
        return None

    def _best(self, needs: list[Need]) -> tuple[Need, list[Block]] | None:
        """Of needs of one priority: the best ones first, then what leaves for each of these."""
        bare = [self._candidate(need) for need in needs]
        shortlist = [
            (needs[i], victims, self._with_losses(bare[i], needs[i], victims))
            for i in self._policy.order(bare)[:SHORTLIST]
            if (victims := self.victims_for(needs[i])) is not None
        ]
        best = self._policy.order([candidate for _, _, candidate in shortlist])
        return shortlist[best[0]][:2] if best else None

    def _candidate(self, need: Need) -> Candidate:
        load_s = self._residency.missing_s(need)
        rows = max(1, min(need.rows, self._ledger.batch_rows))
        batch_s = math.fsum(self._costs.batch_s(group, rows) or 0.0 for group in need.groups)
        ready_s = self._now + max(self._busy_s + load_s, self._backlog_s) + batch_s
        requests = need.in_time(ready_s)
        due_s = need.deadlines_s[-requests] - self._now - self._busy_s if requests else 0.0
        return Candidate(
            requests=requests,
            due_s=due_s,
            waited_s=self._now - need.oldest_s,
            load_s=load_s,
            run_s=batch_s * math.ceil(requests / rows),
        )

    def _with_losses(self, bare: Candidate, need: Need, victims: list[Block]) -> Candidate:
        """The candidate with the answers that leaving models miss: those that wait, and those that
        come, and are late, until the models are back."""
        lost = 0.0
        for other in dict.fromkeys(n for block in victims for n in block.needs if not n.missing):
            lost += other.in_time(self._now) if other.level_or(need.level) <= need.level else 0
            returning = (block for block in victims if other in block.needs)
            back_s = math.fsum(map(self._residency.load_s, returning))
            away_s = bare.load_s + back_s - other.use.patience_s
            if other.is_model and away_s > 0.0:
                lost += away_s / other.use.next_s(self._now)
        return replace(bare, lost=lost)

    def victims_for(self, need: Need) -> list[Block] | None:
        """What has to leave for `need`; None where not enough can at present."""
        own = self._residency.path(need)
        # Those that come, and those that leave and are to stay.
        added = own_bytes([b for b in own if b.where not in (Where.LOADING, Where.RESIDENT)])
        room_bytes = added - self._ledger.room_bytes - self._residency.going_bytes
        if room_bytes <= 0:
            return []
        spared = self._spared.union(own)
        victims = self.victims(room_bytes, spared)
        return victims if self._gain_bytes(victims, spared) >= room_bytes else None

    def victims(self, room_bytes: float, spared: Collection[Block]) -> list[Block]:
        """The blocks of least worth that give so many bytes, or all that may leave."""
        taken: list[Block] = []
        found = 0
        for block in self._leavers:
            if found >= room_bytes:
                break
            if block not in spared:
                taken.append(block)
                found += block.bytes
                if block.shared:
                    found = self._gain_bytes(taken, spared)
        # A large last one may have made others superfluous: those of most worth stay.
        for block in reversed(taken[:-1]):
            if found - block.bytes < room_bytes:
                continue
            others = [other for other in taken if other is not block]
            gain_bytes = self._gain_bytes(others, spared)
            if gain_bytes >= room_bytes:
                found, taken = gain_bytes, others
        return taken

    def _gain_bytes(self, victims: Sequence[Block], spared: Collection[Block]) -> int:
        """What victims give back besides what already leaves; what the spared share stays."""
        going = self._residency.going
        return own_bytes([*going, *victims], spared) - own_bytes(going, spared)

    def _expected_uses(self, need: Need, turnover_s: float) -> float:
        """Before all that is on the device could be loaded anew."""
        waiting = need.in_time(self._now)
        if not need.is_model:
            return waiting
        return waiting + turnover_s / need.use.next_s(self._now) + PRIOR_USES

    def _worth(self, block: Block) -> float:
        return self._policy.worth(
            Leaver(
                uses=math.fsum([self._uses[need] for need in block.needs]),
                load_s=self._residency.load_s(block),
                bytes=block.bytes,
                used_s=max([need.used_s for need in block.needs], default=-math.inf),
            )
        )

"""How many rows of a group run now: the batching policy, with what it has to be told.

Owns the rates of arrival and what the policy remembers of each group.
"""

from __future__ import annotations

from math import inf

from edged.core.batches.arrivals import ArrivalRate
from edged.core.batches.policies import Rule, View, policy
from edged.core.costs import CostModel
from edged.core.events import Request
from edged.core.requests.staged import ReadyGroup
from edged.core.settings import Settings


class BatchSizes:
    """Asked whenever the device could begin a batch."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._policy = policy(settings.policy, settings.smooth)
        # Whether one request is on the device at a time, preparation included.
        self.exclusive = self._policy.exclusive
        self._rules: dict[str, Rule] = {}
        self._rates: dict[str, ArrivalRate] = {}
        self.next_beat_s = inf  # while a policy that follows the rate waits: when to ask again

    def arrived(self, request: Request, now: float) -> None:
        if self._policy.follows_rate:
            for part in request.parts:
                self._rate(part.group, now).add(request.rows, now)

    def limit_rows(self, group: str, costs: CostModel, most_rows: int, around_s: float) -> int:
        """The largest batch of use, of at most `most_rows`; any one costs `around_s` besides."""
        if not self._settings.useful_batches:
            return most_rows
        return costs.useful_rows(group, most_rows, around_s)

    def rows(
        self,
        name: str,
        group: ReadyGroup,
        costs: CostModel,
        now: float,
        *,
        limit: int,
    ) -> int:
        """Rows to run now; 0 waits."""
        rule = self._rules.get(name)
        if rule is None:
            rule = self._rules[name] = self._policy.rule()
        cost = costs.measured(name)
        if not self._policy.follows_rate:
            return rule(View(group.rows, limit, cost=cost))
        rate, waited_s = self._rate(name, now), now - group.oldest_s()
        rows = rule(View(group.rows, limit, rate.rows_per_s(now), cost, waited_s))
        if not rows:
            self.next_beat_s = rate.next_beat_s(now)
        return rows

    def _rate(self, group: str, now: float) -> ArrivalRate:
        rate = self._rates.get(group)
        if rate is None:
            assumed = self._settings.smooth
            rate = ArrivalRate(window_s=assumed.window_s, beat_s=assumed.beat_s, since=now)
            self._rates[group] = rate
        return rate

"""The default method: prices of the shared limits decide what each node holds.

1. The LP with the best conceivable nodes gives prices of the shared rows (11), (10), (12).
2. At these prices each edge row and its clients' rows are chosen together, the LP is solved for
   that choice, and the prices move halfway to its duals; repeat. Each pricing bounds F from above.
3. Polish: the duals of any LP bound every other choice too. The choice that looks best under all
   such cuts so far is tried next (neighbours.py).

Works on several scenarios of load at once (robust.py) and with a cost of loading models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edged.planner.fleet.assignment import NONE, Assignment, Flows, Prices
from edged.planner.fleet.neighbours import Choice, Cuts, best_neighbour
from edged.planner.fleet.offloading import OffloadingLp, Surrogate, serve
from edged.planner.fleet.oracle import Worth, worth
from edged.planner.fleet.problem import Array, FleetProblem, Ints, Mode
from edged.planner.fleet.rows import Tables, envelope, tables


@dataclass(frozen=True, slots=True)
class Effort:
    """How long `price` works: rounds of pricing, then at most `tries` choices in the polish."""

    rounds: int
    tries: int


EFFORTS = {"quick": Effort(rounds=3, tries=4), "full": Effort(rounds=8, tries=40)}
CLOSE_ENOUGH = 1e-4  # relative gap between value and bound at which the search stops
CLIENT_ROWS = 10  # the polish looks at so many rows of each client, the most promising ones,
EDGE_ROWS = 6  # and of each edge


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What the search may be given: the prices to begin at, and the cost of loading models.

    `client_cost` (C, M) and `edge_cost` (E, M) are taken off the objective for each model held.
    """

    prices: Prices | None = None
    client_cost: Array | None = None
    edge_cost: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The best assignment, its flows in each scenario, and a bound.

    `objective` is the mean of F over the scenarios, less the cost of loading and of a priced
    cloud link; no assignment has an objective above `bound`. `solves` counts the LPs.
    """

    z: Assignment
    flows: tuple[Flows, ...]
    objective: float
    bound: float
    solves: int
    legal: bool


def search(
    scenarios: Sequence[FleetProblem],
    effort: Effort,
    start: Start | None = None,
    cloud_price: float | None = None,
) -> Found:
    """The best assignment found for problems that differ in their loads only.

    With `cloud_price` the cloud link is unlimited and paid for by the MB (decompose.py).
    """
    start = start or Start()
    job = _Search(scenarios, start, cloud_price)
    prices = job.first_prices() if start.prices is None else [start.prices] * len(scenarios)
    for _ in range(effort.rounds):
        duals = job.attempt(_response(job.price(prices), job.problem.edge_of))
        if duals is None or job.closed:
            break
        prices = [_middle(a, b) for a, b in zip(prices, duals, strict=True)]
    if not job.closed:
        job.polish(effort.tries)
    return job.found()


class _Search:
    """The state of one search: the tables in use, the best choice, the bound."""

    def __init__(
        self, scenarios: Sequence[FleetProblem], start: Start, cloud_price: float | None
    ) -> None:
        self.problem = scenarios[0]
        # A priced link has no limit, so no price times limit enters a bound.
        unlimited = [replace(s, cloud_mb_s=0.0) for s in scenarios]
        self._scenarios = list(scenarios) if cloud_price is None else unlimited
        self._lps = [OffloadingLp(s, cloud_price) for s in self._scenarios]
        self._cloud_price = cloud_price
        self._tables = tables(self.problem, start.client_cost, start.edge_cost)
        self._envelope = None if self._tables.complete else envelope(self.problem)
        self._prices: list[list[Prices]] = []
        self._tried: set[bytes] = set()
        self._best: _Best | None = None
        self._bound = np.inf
        self._solves = 0

    @property
    def closed(self) -> bool:
        """Whether the best plan is as good as proven optimal."""
        best = self._best
        return best is not None and best.rank[0] == 0 and (
            self._bound - best.rank[1] <= CLOSE_ENOUGH * abs(self._bound)
        )  # fmt: skip

    def first_prices(self) -> list[Prices]:
        """Duals of the LP in which every node has its best model for each task."""
        p = self.problem
        z = Assignment(
            _best_models(p.client_accuracy[p.edge_of], p.client_model_mb, p.client_mb),
            _best_models(p.edge_accuracy, p.edge_model_mb, p.edge_mb),
        )
        nothing = np.zeros(z.edge.shape)
        free = Surrogate(nothing, nothing) if p.batching else None  # no setup times yet
        lps = self._lps
        if p.mode is Mode.NULL:  # nothing need be given up yet either
            dropping = [replace(s, mode=Mode.DROP) for s in self._scenarios]
            lps = [OffloadingLp(s, self._cloud_price) for s in dropping]
        return [lp.solve(z, free).prices for lp in lps]

    def price(self, prices: list[Prices]) -> Worth:
        """What the rows in use are worth at these prices; lowers the bound."""
        self._prices.append(prices)
        pricing = self._worth(self._tables, prices)
        over = pricing
        if self._envelope is not None:
            over = self._worth(self._envelope, prices)
        self._bound = min(self._bound, over.bound(self.problem.edge_of))
        return pricing

    def attempt(self, choice: Choice) -> list[Prices] | None:
        """The prices that a choice leads to; keeps it if it is the best. None: tried before."""
        if self._seen(choice):
            return None
        self._tried.add(self._key(choice))
        z, flows = serve(self._lps, self._assignment(choice))
        self._solves += len(flows)
        short = sum(float(f.unserved.sum()) for f in flows if not f.legal)
        objective = float(np.mean([self._net(s, f) for s, f in zip(self._scenarios, flows, strict=True)]))
        objective -= self._tables.clients.cost_of(choice.client) + self._tables.edges.cost_of(choice.edge)
        rank = (-short, objective)
        if self._best is None or rank > self._best.rank:
            self._best = _Best(choice, z, tuple(flows), rank)
        return [flow.prices for flow in flows]

    def polish(self, tries: int) -> None:
        """Try, one after the other, the choices that look best under all cuts."""
        if self._best is None:
            return
        self._shorten(self.price([flow.prices for flow in self._best.flows]))
        cuts = [self._worth(self._tables, prices) for prices in self._prices]
        for _ in range(tries):
            choice = best_neighbour(
                Cuts.of(cuts), self.problem.edge_of, self._best.choice, self._best.rank[1], self._seen
            )
            prices = None if choice is None else self.attempt(choice)
            if prices is None or self.closed:
                return
            cuts.append(self._worth(self._tables, prices))

    def found(self) -> Found:
        assert self._best is not None, "no round was run; this is a bug"
        legal = self._best.rank[0] == 0
        return Found(
            self._best.z, self._best.flows, self._best.rank[1], self._bound, self._solves, legal
        )

    def _worth(self, rows: Tables, prices: list[Prices]) -> Worth:
        """The mean over the scenarios."""
        each = [worth(s, rows, q) for s, q in zip(self._scenarios, prices, strict=True)]
        if len(each) == 1:
            return each[0]
        return Worth(
            np.mean([w.client for w in each], axis=0),
            np.mean([w.edge for w in each], axis=0),
            float(np.mean([w.constant for w in each])),
        )

    def _shorten(self, pricing: Worth) -> None:
        """Keep the rows that reach highest at these prices, and those of the best choice."""
        assert self._best is not None
        of, best = self.problem.edge_of, self._best
        scores = pricing.scores(of)
        rest = scores[of] - pricing.client.max(axis=1)  # (C, J) what all but the client makes
        reach = (rest[:, None, :] + pricing.client).max(axis=2)
        clients = _highest(reach, best.choice.client, CLIENT_ROWS)
        edges = _highest(scores, best.choice.edge, EDGE_ROWS)
        self._tables = Tables(
            self._tables.clients.keep(clients), self._tables.edges.keep(edges), complete=False
        )
        first = Choice(np.zeros_like(best.choice.client), np.zeros_like(best.choice.edge))
        self._best = replace(best, choice=first)

    def _assignment(self, choice: Choice) -> Assignment:
        return Assignment(
            self._tables.clients.pick(choice.client), self._tables.edges.pick(choice.edge)
        )

    def _key(self, choice: Choice) -> bytes:
        z = self._assignment(choice)
        return z.client.tobytes() + z.edge.tobytes()

    def _seen(self, choice: Choice) -> bool:
        return self._key(choice) in self._tried

    def _net(self, scenario: FleetProblem, flows: Flows) -> float:
        """F, less what a priced cloud link costs."""
        if self._cloud_price is None:
            return flows.value
        carried = float((scenario.load * scenario.input_mb * flows.cloud).sum())
        return flows.value - self._cloud_price * carried


@dataclass(frozen=True, slots=True, eq=False)
class _Best:
    choice: Choice
    z: Assignment
    flows: tuple[Flows, ...]
    rank: tuple[float, float]  # less unserved first, then more objective


def _response(pricing: Worth, edge_of: Ints) -> Choice:
    """The rows that are worth most together at one set of prices."""
    edge = pricing.scores(edge_of).argmax(axis=1)
    client = pricing.client[np.arange(len(edge_of)), :, edge[edge_of]].argmax(axis=1)
    return Choice(client, edge)


def _highest(merit: Array, first: Ints, count: int) -> Ints:
    """(N, count) indices: `first` (N,), then the others by falling merit (N, R)."""
    merit = merit.copy()
    merit[np.arange(len(first)), first] = np.inf
    order: Ints = np.argsort(-merit, axis=1, kind="stable")[:, :count]
    return order


def _middle(a: Prices, b: Prices) -> Prices:
    return Prices(
        (a.uplink + b.uplink) / 2, (a.edge_compute + b.edge_compute) / 2, (a.cloud + b.cloud) / 2
    )


def _best_models(accuracy: Array, size: Array, memory: Array) -> Ints:
    """(N, T) the most accurate model of each task that fits alone; accuracy is (N, M, T)."""
    fits = (size <= memory[:, None])[:, :, None]
    possible = np.where(fits, accuracy, 0.0)
    return np.where(possible.max(axis=1) > 0, possible.argmax(axis=1), NONE)

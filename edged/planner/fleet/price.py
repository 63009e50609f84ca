"""The default method: prices of the shared limits decide what each node holds.

1. The LP with the best conceivable nodes gives prices of the shared rows (11), (10), (12).
2. At these prices each edge row and its clients' rows are chosen together, the LP is solved for
   that choice, and the prices move halfway to its duals; repeat. Each pricing bounds F from above.
3. Polish: the duals of any LP bound every other choice too. The choice that looks best under all
   such cuts so far is tried next (neighbours.py).

The search takes several scenarios of load at once (robust.py), and a cost of loading models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edged.planner.fleet.assignment import Assignment, Flows, Prices
from edged.planner.fleet.candidates import MAX_ROWS
from edged.planner.fleet.ideal import ideal_prices, pooled
from edged.planner.fleet.neighbours import Choice, Cuts, best_neighbour
from edged.planner.fleet.offloading import OffloadingLp, serve
from edged.planner.fleet.oracle import Worth, worth
from edged.planner.fleet.problem import Array, FleetProblem, Ints, Mode
from edged.planner.fleet.rows import AssignmentTables, Rows, envelope, tables


@dataclass(frozen=True, slots=True)
class Effort:
    """How long `price` works. Only the rows of a node that reach highest stay in use."""

    close_enough: float  # a plan proven to be within this relative gap ends the search
    rounds: int  # the most rounds of pricing
    tries: int  # the most choices that the polish tries
    wide_tries: int  # the same while the relative gap is above WIDE_GAP
    round_rows: int  # rows of an edge that stay in use after a round that lowered the bound
    edge_rows: int  # rows of an edge that stay in use in the polish
    client_rows: int  # rows of a client that stay in use in the polish


EFFORTS = {
    # The gap is half of the 1 % that a quick plan may lose: plans without proof need the rest.
    "quick": Effort(
        close_enough=5e-3,
        rounds=3,
        tries=2,
        wide_tries=10,
        round_rows=12,
        edge_rows=6,
        client_rows=10,
    ),
    "full": Effort(
        close_enough=1e-4,
        rounds=8,
        tries=40,
        wide_tries=40,
        round_rows=MAX_ROWS,
        edge_rows=16,
        client_rows=20,
    ),
}
FEW_EDGE_ROWS = 12  # pricing this many rows takes less time than an LP of all clients
STARTS = 6  # choices near which the polish looks, the best first
WIDE_GAP = 0.02  # a wider relative gap: it is not known well which rows reach highest
# Limits on clients * client rows * edge rows.
ROUND_CELLS_MAX = 4_000_000  # larger tables: the rounds price only some promising rows
BOUND_CELLS_MAX = 20_000_000  # larger tables: all rows are never priced, and the bound is looser
FIRST_CLIENT_ROWS = 24
FIRST_EDGE_ROWS = 60


@dataclass(frozen=True, slots=True, eq=False)
class SearchStart:
    """What a search can start from: the first prices, and the cost of loading models.

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
    start: SearchStart | None = None,
    cloud_price: float | None = None,
) -> Found:
    """The best assignment found for problems that differ in their loads only.

    A `cloud_price` per MB replaces the limit of the cloud link (decompose.py).
    """
    start = start or SearchStart()
    job = _Search(scenarios, effort, start, cloud_price)
    prices = job.first_prices() if start.prices is None else [start.prices] * len(scenarios)
    job.preselect(prices)
    for _ in range(effort.rounds):
        duals = job.attempt(Choice(*job.price(prices).response(job.problem.edge_of)))
        if not duals or job.closed:
            break
        job.drop_hopeless()
        if job.gap <= WIDE_GAP:
            job.shorten(effort.round_rows)
        prices = [_middle(a, b) for a, b in zip(prices, duals[-1], strict=True)]
    if not job.closed:
        job.polish()
    return job.found()


class _Search:
    """The state of one search: the tables in use, the best choice, the bound."""

    def __init__(
        self,
        scenarios: Sequence[FleetProblem],
        effort: Effort,
        start: SearchStart,
        cloud_price: float | None,
    ) -> None:
        self._effort = effort
        self.problem = scenarios[0]
        # A priced link has no limit, so the bound has no term of price times limit.
        unlimited = [replace(s, cloud_mb_s=0.0) for s in scenarios]
        self._scenarios = list(scenarios) if cloud_price is None else unlimited
        self._lps = [OffloadingLp(s, cloud_price) for s in self._scenarios]
        self._cloud_price = cloud_price
        # Mode drop allows all that mode null does, so first prices and looser bounds can use it.
        null = self.problem.mode is Mode.NULL
        self._relaxed = [replace(s, mode=Mode.DROP) if null else s for s in self._scenarios]
        self._all = self._tables = tables(self.problem, start.client_cost, start.edge_cost)
        size = self.problem.n_clients * self._all.clients.z.shape[1] * self._all.edges.z.shape[1]
        self._too_large_for_rounds, self._too_large_for_bounds = (
            size > ROUND_CELLS_MAX,
            size > BOUND_CELLS_MAX,
        )
        exact = self._all.complete and not self._too_large_for_bounds
        self._envelope = None if exact else envelope(self.problem)
        self._prices: list[list[Prices]] = []
        # The highest value that a plan with a given row of an edge could have, (E, J).
        self._reach: Array | None = None
        self._tried: set[bytes] = set()
        self._attempts: list[_Attempt] = []
        self._bound = np.inf
        self._solves = 0

    @property
    def gap(self) -> float:
        """The relative gap between the best plan and the bound; infinite while one is missing."""
        best = self._best
        if best is None or best.rank[0] < 0 or not np.isfinite(self._bound):
            return np.inf
        return (self._bound - best.rank[1]) / max(abs(self._bound), 1e-300)

    @property
    def closed(self) -> bool:
        """Whether the best plan is proven to be as good as the effort asks for."""
        return self.gap <= self._effort.close_enough

    def first_prices(self) -> list[Prices]:
        """The prices of ideal nodes; of merged clients, which are rough, where rounds are cheap."""
        few = self._all.edges.z.shape[1] <= FEW_EDGE_ROWS
        lps = self._lps
        if few or self.problem.mode is Mode.NULL:
            fleets = [pooled(s) if few else s for s in self._relaxed]
            lps = [OffloadingLp(fleet, self._cloud_price) for fleet in fleets]
        return [ideal_prices(lp) for lp in lps]

    def preselect(self, prices: list[Prices]) -> None:
        """Reduce tables that are too large to price in every round to their promising rows.

        Client rows are judged against edges better than any real one, then edge rows against them.
        """
        of, rows = self.problem.edge_of, self._all
        if not self._too_large_for_rounds:
            return
        ideal = AssignmentTables(rows.clients, envelope(self.problem).edges, complete=False)
        worth_of = worth(self._relaxed, ideal, prices)
        clients = _top(rows.clients, worth_of.client_reach(of), FIRST_CLIENT_ROWS)
        few = AssignmentTables(clients, rows.edges, complete=False)
        edges = _top(rows.edges, worth(self._scenarios, few, prices).reach(of), FIRST_EDGE_ROWS)
        self._tables = AssignmentTables(clients, edges, complete=False)

    def price(self, prices: list[Prices]) -> Worth:
        """What the rows in use are worth at these prices; lowers the bound where it can."""
        self._prices.append(prices)
        of = self.problem.edge_of
        pricing = worth(self._scenarios, self._tables, prices)
        if self._tables is self._all:
            reach = pricing.reach(of)
            self._reach = reach if self._reach is None else np.minimum(self._reach, reach)
        if self._envelope is not None:
            self._bound = min(self._bound, worth(self._relaxed, self._envelope, prices).bound(of))
        elif self._tables is self._all:
            self._bound = min(self._bound, pricing.bound(of))
        return pricing

    def attempt(self, choice: Choice) -> list[list[Prices]]:
        """Solve the LPs of a choice, keep it if it is the best, and return prices for cuts.

        These are the prices of the choice and, in mode null, those of what remains of it when every
        client can serve what it keeps. None come back for a choice that was tried before.
        """
        if self._seen(choice):
            return []
        self._tried.add(self._key(choice))
        z = self._assignment(choice)
        cuts = []
        if self.problem.mode is Mode.NULL:
            cuts.append([lp.solve(z).prices for lp in self._lps])
        z, flows = serve(self._lps, z)
        self._solves += len(flows)
        short = sum(float(flow.unserved.sum()) for flow in flows if not flow.legal)
        net = [self._net(s, flow) for s, flow in zip(self._scenarios, flows, strict=True)]
        loading = self._tables.clients.cost_of(choice.client)
        loading += self._tables.edges.cost_of(choice.edge)
        rank = (-short, float(np.mean(net)) - loading)
        held = self._tables.clients.find(z.client, choice.client)
        near = self._assignment(Choice(held, choice.edge))
        self._attempts.append(_Attempt(near, z, tuple(flows), rank))
        return [*cuts, [flow.prices for flow in flows]]

    def polish(self) -> None:
        """Bound once more over all rows, then try the choices that look best under all cuts."""
        if self._best is None:
            return
        effort = self._effort
        if not self._too_large_for_bounds:
            self._tables = self._all
        pricing = self.price([flow.prices for flow in self._best.flows])
        if self.closed:
            return
        if self._tables is self._all:
            self.drop_hopeless()
            self.shorten(effort.edge_rows)
            self.shorten_clients(pricing.client_reach(self.problem.edge_of), effort.client_rows)
        cuts = [worth(self._scenarios, self._tables, prices) for prices in self._prices]
        for _ in range(effort.tries if self.gap <= WIDE_GAP else effort.wide_tries):
            choice = self._propose(Cuts.of(cuts))
            duals = [] if choice is None else self.attempt(choice)
            if not duals or self.closed:
                return
            cuts += [worth(self._scenarios, self._tables, prices) for prices in duals]

    def _propose(self, cuts: Cuts) -> Choice | None:
        """The most promising choice near the best one or, failing that, near the next best ones."""
        assert self._best is not None
        of, objective = self.problem.edge_of, self._best.rank[1]
        for start in sorted(self._attempts, key=lambda tried: tried.rank, reverse=True)[:STARTS]:
            choice = best_neighbour(cuts, of, self._rows(start.near), objective, self._seen)
            if choice is not None:
                return choice
        return None

    def drop_hopeless(self) -> None:
        """Remove the edge rows that no plan better than the best one can use."""
        if self._best is None or self._best.rank[0] < 0 or self._reach is None:
            return
        if self._tables is not self._all:
            return
        needed = int((self._reach >= self._best.rank[1]).sum(axis=1).max())
        if needed >= self._reach.shape[1]:
            return
        kept = _highest(self._reach, self._rows(self._best.near).edge, max(needed, 1))
        self._reach = np.take_along_axis(self._reach, kept, axis=1)
        self._all = self._tables = replace(self._all, edges=self._all.edges.keep(kept))

    def shorten(self, edge_rows: int) -> None:
        """Keep `edge_rows` rows of each edge: those that can reach highest, and the best plan's."""
        edges = self._all.edges
        if self._best is None or self._reach is None or self._tables is not self._all:
            return
        if edges.z.shape[1] > edge_rows:
            kept = _highest(self._reach, self._rows(self._best.near).edge, edge_rows)
            self._tables = replace(self._all, edges=edges.keep(kept), complete=False)

    def shorten_clients(self, reach: Array, client_rows: int) -> None:
        """Keep `client_rows` rows of each client by `reach` (C, R), and the best plan's."""
        assert self._best is not None
        clients = self._tables.clients
        if clients.z.shape[1] > client_rows:
            kept = _highest(reach, self._rows(self._best.near).client, client_rows)
            self._tables = replace(self._tables, clients=clients.keep(kept), complete=False)

    @property
    def _best(self) -> _Attempt | None:
        return max(self._attempts, key=lambda attempt: attempt.rank, default=None)

    def _rows(self, near: Assignment) -> Choice:
        """An assignment as rows of the tables in use; the first row where they lack it."""
        return Choice(
            self._tables.clients.find(near.client, np.zeros(len(near.client), dtype=np.int64)),
            self._tables.edges.find(near.edge, np.zeros(len(near.edge), dtype=np.int64)),
        )

    def found(self) -> Found:
        assert self._best is not None, "no round was run; this is a bug"
        best, legal = self._best, self._best.rank[0] == 0
        # Hopeless rows were removed, so the bound may have fallen below the best plan.
        bound = max(self._bound, best.rank[1]) if legal else self._bound
        return Found(best.z, best.flows, best.rank[1], bound, self._solves, legal)

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
class _Attempt:
    """A choice whose LPs were solved.

    `near` is the assignment in the tables that `z` came from; they differ where mode null gave up a
    task.
    """

    near: Assignment
    z: Assignment
    flows: tuple[Flows, ...]
    rank: tuple[float, float]  # higher is better: minus the unserved share, then the objective


def _top(rows: Rows, merit: Array, count: int) -> Rows:
    """The rows of highest merit (N, R)."""
    return rows.keep(np.argsort(-merit, axis=1, kind="stable")[:, :count])


def _highest(merit: Array, first: Ints, count: int) -> Ints:
    """The indices (N, count): `first` (N,), then the others by falling merit (N, R)."""
    merit = merit.copy()
    merit[np.arange(len(first)), first] = np.inf
    order: Ints = np.argsort(-merit, axis=1, kind="stable")[:, :count]
    return order


def _middle(a: Prices, b: Prices) -> Prices:
    return Prices(
        (a.uplink + b.uplink) / 2, (a.edge_compute + b.edge_compute) / 2, (a.cloud + b.cloud) / 2
    )

"""Fleets too large for one search are planned edge by edge, with a price for the cloud link.

The edges share nothing but the cloud link (12). Once a MB of it has a price, the fleet falls apart
into problems of one edge each. The `run` that is passed in may solve them anywhere: the answers,
and so the plan, do not depend on where. The price is found by bisection on the traffic that the
plans send to the cloud. Then one LP over the whole fleet sets the flows for the models chosen, and
its dual is the price of the next round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edged.planner.fleet.assignment import NONE, Assignment, Flows, Prices
from edged.planner.fleet.offloading import OffloadingLp, serve
from edged.planner.fleet.price import EFFORTS, Effort, Found, SearchStart, search
from edged.planner.fleet.problem import FleetProblem, Ints

MANY_EDGES = 12  # a fleet with more edges is planned edge by edge
PRICE_BISECTIONS = 5  # bisection steps for the cloud price, with quick searches
PRICE_ROUNDS = 3  # searches at the effort asked for, each at the cloud price of the LP before it
SAME_PRICE = 1e-3  # a relative change of the price below this ends the rounds

Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class FleetPart:
    """One edge and its clients.

    `share` is its part of the fleet's load, which is the weight of its objective in the fleet's.
    """

    clients: Ints
    problem: FleetProblem
    share: float


@dataclass(frozen=True, slots=True, eq=False)
class PartJob:
    """One search for a worker. `cloud_price` is in units of the part's own objective."""

    problem: FleetProblem
    effort: Effort
    cloud_price: float
    start: SearchStart


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """The answers of all parts at one price, the traffic that they send to the cloud, and the
    Lagrangian bound on the whole fleet."""

    price: float
    answers: list[Found]
    traffic_mb_s: float
    bound: float


def search_by_edges(problem: FleetProblem, effort: Effort, run: Run = map) -> Found:
    """Does the work of `price.search` for one scenario, part by part."""
    parts = split(problem)
    rounds = _scout(problem, parts, run)
    lp = OffloadingLp(problem)
    price = rounds[-1].price
    best: tuple[Assignment, Flows] | None = None
    for _ in range(PRICE_ROUNDS):
        rounds.append(_solve(problem, parts, price, effort, rounds[-1], run))
        z, (flows,) = serve([lp], _join(problem, parts, rounds[-1].answers))
        if best is None or (flows.legal, flows.value) > (best[1].legal, best[1].value):
            best = (z, flows)
        if abs(flows.prices.cloud - price) <= SAME_PRICE * price:
            break
        price = flows.prices.cloud
    assert best is not None
    solves = sum(found.solves for one in rounds for found in one.answers)
    bound = min(one.bound for one in rounds)
    return Found(best[0], (best[1],), best[1].value, bound, solves, best[1].legal)


def _scout(problem: FleetProblem, parts: list[FleetPart], run: Run) -> list[Round]:
    """Bisect the price of the cloud link, with quick searches, until its limit is nearly met."""
    quick = EFFORTS["quick"]
    rounds = [_solve(problem, parts, 0.0, quick, None, run)]
    if rounds[0].traffic_mb_s <= problem.cloud_mb_s:
        return rounds
    low, high = 0.0, _prohibitive(problem)
    for _ in range(PRICE_BISECTIONS):
        price = (low + high) / 2
        rounds.append(_solve(problem, parts, price, quick, rounds[-1], run))
        if rounds[-1].traffic_mb_s > problem.cloud_mb_s:
            low = price
        else:
            high = price
    return rounds


def split(problem: FleetProblem) -> list[FleetPart]:
    """One part for each edge that has load, in order."""
    p = problem
    parts = []
    for edge in range(p.n_edges):
        clients = p.clients_of(edge)
        load = p.load[clients]
        if not load.sum() > 0:
            continue
        one = slice(edge, edge + 1)
        part = replace(
            p,
            client_accuracy=p.client_accuracy[one],
            edge_accuracy=p.edge_accuracy[one],
            edge_of=np.zeros(len(clients), dtype=np.int64),
            client_mb=p.client_mb[clients],
            client_gflops=p.client_gflops[clients],
            load=load,
            edge_mb=p.edge_mb[one],
            edge_gflops=p.edge_gflops[one],
            uplink_mb_s=p.uplink_mb_s[one],
        )
        parts.append(FleetPart(clients, part, float(load.sum()) / p.total_load))
    return parts


def answer(job: PartJob) -> Found:
    """The result of one job; this is the function that workers run."""
    return search([job.problem], job.effort, job.start, job.cloud_price)


def _solve(
    problem: FleetProblem,
    parts: list[FleetPart],
    price: float,
    effort: Effort,
    last: Round | None,
    run: Run,
) -> Round:
    """Search all parts at a price per MB/s of the cloud link, starting from the last prices."""
    jobs = []
    for number, part in enumerate(parts):
        own = price / part.share
        before = None if last is None else last.answers[number].flows[0].prices
        start = SearchStart(prices=before and Prices(before.uplink, before.edge_compute, own))
        jobs.append(PartJob(part.problem, effort, own, start))
    answers = list(run(answer, jobs))
    traffic = [
        float((part.problem.load * part.problem.input_mb * found.flows[0].cloud).sum())
        for part, found in zip(parts, answers, strict=True)
    ]
    bound = sum(part.share * found.bound for part, found in zip(parts, answers, strict=True))
    return Round(price, answers, sum(traffic), bound + price * problem.cloud_mb_s)


def _prohibitive(p: FleetProblem) -> float:
    """A price at which no query is worth sending to the cloud."""
    worth = p.cloud_accuracy / np.where(p.input_mb > 0, p.input_mb, np.inf)
    return float(worth.max()) / p.total_load


def _join(problem: FleetProblem, parts: list[FleetPart], answers: list[Found]) -> Assignment:
    """The parts' assignments as one for the fleet; idle edges and their clients hold nothing."""
    client = np.full(problem.load.shape, NONE)
    edge = np.full((problem.n_edges, problem.n_tasks), NONE)
    for part, found in zip(parts, answers, strict=True):
        client[part.clients] = found.z.client
        edge[problem.edge_of[part.clients[0]]] = found.z.edge[0]
    return Assignment(client, edge)

"""The methods by name, and `solve`: a plan from an instance. Knows no clock: callers measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from edged.errors import PlanError
from edged.planner.fleet import alternate
from edged.planner.fleet.assignment import NONE, Assignment, Flows, Prices
from edged.planner.fleet.decompose import MANY_EDGES, Run, search_by_edges
from edged.planner.fleet.milp import culprits, feasible_assignment, solve_milp
from edged.planner.fleet.offloading import OffloadingLp, serve
from edged.planner.fleet.oracle import ClientGroup, knapsacks
from edged.planner.fleet.outcome import infeasible, plan_of
from edged.planner.fleet.plan import FleetPlan
from edged.planner.fleet.price import EFFORTS, Effort, Found, search
from edged.planner.fleet.problem import FleetProblem
from edged.planner.fleet.rows import tables


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """Options of the methods; each method reads those that it needs.

    `rng` is the source of rand-ao's choices. `time_limit_s` is the limit of HiGHS in milp. `run`
    maps the independent jobs of price on many edges, in order: the built-in `map`, or one that
    uses more processes.
    """

    effort: str = "full"
    rng: np.random.Generator | None = None
    time_limit_s: float | None = None
    run: Run = map


class Method(NamedTuple):
    plan: Callable[[FleetProblem, MethodOptions], FleetPlan]
    batching_only: bool = False


def solve(
    problem: FleetProblem, method: str = "price", options: MethodOptions | None = None
) -> FleetPlan:
    """A plan by one of METHODS. Raises PlanError when the method does not apply.

    A problem without any load has an empty plan, which is optimal.
    """
    if method not in METHODS:
        raise PlanError(f"method: must be one of {', '.join(METHODS)}, got {method!r}")
    options = options or MethodOptions()
    if options.effort not in EFFORTS:
        raise PlanError(f"effort: must be one of {', '.join(EFFORTS)}, got {options.effort!r}")
    limit_s = options.time_limit_s
    if limit_s is not None and not limit_s >= 0:
        raise PlanError(f"time limit: must be >= 0 s, got {limit_s}")
    chosen = METHODS[method]
    if chosen.batching_only and not problem.batching:
        raise PlanError(f"nu: null; method {method} plans batches and needs nu and Tb")
    if problem.total_load == 0:
        return _empty(problem, method)
    return chosen.plan(problem, options)


def certified(problem: FleetProblem, plan: FleetPlan, run: Run = map) -> FleetPlan:
    """The plan with an upper bound; a quick search supplies it where the method gives none."""
    if plan.bound is not None or plan.obj is None:
        return plan
    return plan.with_bound(_search(problem, EFFORTS["quick"], run).bound)


def _search(problem: FleetProblem, effort: Effort, run: Run) -> Found:
    if problem.n_edges > MANY_EDGES:
        return search_by_edges(problem, effort, run)
    return search([problem], effort)


def _milp(problem: FleetProblem, options: MethodOptions) -> FleetPlan:
    return solve_milp(problem, options.time_limit_s)


def _price(problem: FleetProblem, options: MethodOptions) -> FleetPlan:
    found = _search(problem, EFFORTS[options.effort], options.run)
    if found.legal:
        return plan_of(
            problem, "price", found.z, found.flows[0], bound=found.bound, iterations=found.solves
        )
    # Mode is strict and no choice tried serves every query: only the exact model can tell why.
    z = feasible_assignment(problem)
    if z is None:
        return infeasible("price", culprits(problem))
    flows = OffloadingLp(problem).solve(z)
    return plan_of(problem, "price", z, flows, bound=found.bound, iterations=found.solves + 1)


def _alternating(
    name: str, onload: alternate.Onload, needs_rows: bool = False
) -> Callable[[FleetProblem, MethodOptions], FleetPlan]:
    def plan(problem: FleetProblem, options: MethodOptions) -> FleetPlan:
        done = alternate.alternate(problem, onload, needs_rows=needs_rows)
        return _heuristic(problem, name, done.z, done.flows, len(done.values))

    return plan


def _rand_ao(problem: FleetProblem, options: MethodOptions) -> FleetPlan:
    if options.rng is None:
        raise PlanError("rng: method rand-ao draws models at random and needs a generator")
    done = alternate.alternate(problem, alternate.random_step(options.rng))
    return _heuristic(problem, "rand-ao", done.z, done.flows, len(done.values))


def _full_local(problem: FleetProblem, options: MethodOptions) -> FleetPlan:
    """The best models of each client alone; nothing leaves it."""
    rows = tables(problem).clients
    never = np.full((problem.n_tasks, problem.n_clients, 1), _NEVER_OFFLOAD)
    everyone = ClientGroup(np.arange(problem.n_clients), rows.z.shape[1], 1)
    best = knapsacks(problem, rows, everyone, never)[:, :, 0].argmax(axis=1)
    z = Assignment(rows.pick(best), np.full((problem.n_edges, problem.n_tasks), NONE))
    alone = replace(problem, cloud_mb_s=0.0)
    z, (flows,) = serve([OffloadingLp(alone)], z)
    return _heuristic(problem, "full-local", z, flows, 1)


_NEVER_OFFLOAD = -1e6  # value of offloading that keeps every query on its client


def _heuristic(
    problem: FleetProblem, name: str, z: Assignment, flows: Flows, iterations: int
) -> FleetPlan:
    """The plan. Raises PlanError, with what to do, if mode is strict and queries are unserved."""
    if flows.legal:
        return plan_of(problem, name, z, flows, iterations=iterations)
    if feasible_assignment(problem) is None:
        return infeasible(name, culprits(problem))
    raise PlanError(
        f"mode: method {name} found no plan that serves every query, though there is one; "
        "take price or milp, or mode drop"
    )


def _empty(problem: FleetProblem, method: str) -> FleetPlan:
    nothing = np.zeros(problem.load.shape)
    no_edge = np.full((problem.n_edges, problem.n_tasks), NONE)
    z = Assignment(np.full(problem.load.shape, NONE), no_edge)
    free = Prices(np.zeros(problem.n_edges), np.zeros(problem.n_edges), 0.0)
    flows = Flows(nothing, nothing, nothing, nothing, 0.0, free)
    return plan_of(problem, method, z, flows, bound=0.0, iterations=0)


METHODS = {
    "milp": Method(_milp),
    "price": Method(_price),
    "j3o": Method(_alternating("j3o", alternate.literal_step)),
    "j3o-fixed": Method(_alternating("j3o-fixed", alternate.fixed_step)),
    "opt-ao": Method(_alternating("opt-ao", alternate.best_step, needs_rows=True)),
    "greedy-ao": Method(_alternating("greedy-ao", alternate.greedy_step)),
    "rand-ao": Method(_rand_ao),
    "full-local": Method(_full_local),
    "baj3o": Method(_alternating("baj3o", alternate.literal_step), batching_only=True),
}

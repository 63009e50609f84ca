"""The methods by name, and `solve`, which makes a plan of an instance. Callers measure the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from edged.errors import PlanError
from edged.planner.loading.bound import upper_bound
from edged.planner.loading.exact import Batches, exact_batches
from edged.planner.loading.greedy import greedy_visits
from edged.planner.loading.greedy_plus import greedy_plus_visits
from edged.planner.loading.order import Visits, best_visits
from edged.planner.loading.plan import LoadingBatch, LoadingPlan, Method
from edged.planner.loading.problem import LoadingProblem
from edged.planner.loading.slotted import slotted_visits
from edged.planner.loading.structure import BlockSharing, declared_clusters, sharing
from edged.planner.loading.tables import LoadingTables, batch_sizes, tables, without_sharing


class LoadingSolver(NamedTuple):
    """One way to solve: which batches to run, in order."""

    batches: Callable[[LoadingProblem, LoadingTables, BlockSharing], Batches]
    nested_only: bool = False  # right only when the shared parts of each cluster are nested
    optimal: bool = False


def _exact(problem: LoadingProblem, tables: LoadingTables, _: BlockSharing) -> Batches:
    return exact_batches(problem, tables)


def _dp(_: LoadingProblem, tables: LoadingTables, sharing: BlockSharing) -> Batches:
    return _full_batches(tables, best_visits(tables, sharing.order))


def _dp_slotted(_: LoadingProblem, tables: LoadingTables, sharing: BlockSharing) -> Batches:
    return _full_batches(tables, slotted_visits(tables, sharing.clusters, literal=False))


def _dp_paper(problem: LoadingProblem, tables: LoadingTables, _: BlockSharing) -> Batches:
    clusters = declared_clusters(problem, tables)
    return _full_batches(tables, slotted_visits(tables, clusters, literal=True))


def _greedy(_: LoadingProblem, tables: LoadingTables, __: BlockSharing) -> Batches:
    return _full_batches(tables, greedy_visits(tables, slotted=True))


def _greedy_continuous(_: LoadingProblem, tables: LoadingTables, __: BlockSharing) -> Batches:
    return _full_batches(tables, greedy_visits(tables, slotted=False))


def _greedy_plus(_: LoadingProblem, tables: LoadingTables, sharing: BlockSharing) -> Batches:
    return _full_batches(tables, greedy_plus_visits(tables, sharing))


def _independent(_: LoadingProblem, tables: LoadingTables, __: BlockSharing) -> Batches:
    whole = without_sharing(tables)
    return _full_batches(tables, best_visits(whole, whole.asked))


METHODS: dict[Method, LoadingSolver] = {
    "exact": LoadingSolver(_exact, optimal=True),
    "dp": LoadingSolver(_dp, nested_only=True, optimal=True),
    "dp-slotted": LoadingSolver(_dp_slotted, nested_only=True),
    "dp-paper": LoadingSolver(_dp_paper, nested_only=True),
    "greedy": LoadingSolver(_greedy),
    "greedy-continuous": LoadingSolver(_greedy_continuous),
    "greedy-plus": LoadingSolver(_greedy_plus),
    "independent": LoadingSolver(_independent),
}


def solve(
    problem: LoadingProblem, method: Method | None = None, *, certify: bool = True
) -> LoadingPlan:
    """A plan that serves as many users as the method finds by the deadline.

    `method` is a name of METHODS; None takes `dp` when the clusters are nested and `greedy-plus`
    otherwise. `certify` asks for an upper bound where the method itself is not optimal.
    Raises PlanError when the method does not apply to the instance.
    """
    facts = tables(problem)
    shared = sharing(problem, facts)
    name: Method = method or ("dp" if shared.nested else "greedy-plus")
    if name not in METHODS:
        raise PlanError(f"method: must be one of {', '.join(METHODS)}, got {name!r}")
    chosen = METHODS[name]
    if chosen.nested_only and shared.crossing:
        i, j = shared.crossing
        raise PlanError(
            f"models[{i}].blocks: what it shares is not nested with what models[{j}] shares, "
            f"so method {name} does not apply: take greedy-plus"
        )
    batches = chosen.batches(problem, facts, shared)
    served = sum(rows for _, rows in batches)
    bound = None
    if chosen.optimal:
        bound = served
    elif certify:
        bound = upper_bound(facts, shared, served)
    return _plan(problem, facts, name, batches, bound)


def _full_batches(tables: LoadingTables, visits: Visits) -> Batches:
    """The batches of the visits: all batches of a visit but its last are full (Theorem 2.2)."""
    return [
        (model, rows)
        for model, users in visits
        for rows in batch_sizes(users, int(tables.rows_max[model]))
    ]


def _plan(
    problem: LoadingProblem,
    tables: LoadingTables,
    name: Method,
    batches: Batches,
    bound: int | None,
) -> LoadingPlan:
    """The plan: users go to the batches of their model in order, and bandwidth follows (12)."""
    taken = dict.fromkeys(range(len(problem.models)), 0)
    loaded = tables.cold
    end_ms = 0.0
    planned: list[LoadingBatch] = []
    for model, rows in batches:
        first, last = taken[model], taken[model] + rows
        users = tables.queue[model][first:last].tolist()
        needs = [problem.users[k].upload_bits / problem.users[k].efficiency for k in users]
        total = sum(needs)
        planned.append(
            LoadingBatch(
                model, tuple(users), tuple(need / total if total else 0.0 for need in needs)
            )
        )
        upload_ms = float(tables.upload_ms[model][last] - tables.upload_ms[model][first])
        run_ms = problem.models[model].mu_ms * rows + problem.models[model].beta_ms
        end_ms += upload_ms + float(tables.load_ms[loaded, model]) + run_ms
        taken[model], loaded = last, model
    return LoadingPlan(
        method=name,
        served=sum(len(batch.users) for batch in planned),
        makespan_ms=end_ms,
        bound=bound,
        batches=tuple(planned),
    )

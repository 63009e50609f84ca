"""Every assignment worth giving to a node, tabled once before prices are known.

An assignment of a node says which model serves each task. A best one is a partition of the tasks
into groups and one model for each group, and that model is not beaten on its group by another
that costs no more work, memory, setup time or loading. So the table of a node is built from
partitions, and thinned to the assignments that no other one beats. Knows no loads and no prices.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edged.planner.fleet.assignment import NONE
from edged.planner.fleet.problem import Array, Bools, FleetProblem, Ints, Mode

MAX_TASKS = 8  # partitions grow as the Bell numbers: 4,140 for 8 tasks
MAX_ROWS = 400_000  # beyond, a table is a beam and not complete
BEAM = 400
_SLACK_MB = 1e-9  # sums of sizes that fit exactly must fit


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """The models as one kind of node sees them."""

    accuracy: Array  # (M, T)
    work: Array  # (M,)
    mb: Array  # (M,)
    setup: Array  # (M,) share of the batching window that a served task costs
    cost: Array  # (M,) objective lost by loading the model (switching)
    may_idle: bool  # whether leaving a supported task unserved can be right

    def of(self, models: Ints) -> Models:
        return Models(
            self.accuracy[models], self.work[models], self.mb[models], self.setup[models],
            self.cost[models], self.may_idle,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Assignments of N nodes, R each. Short tables are padded, at the end, with rows that serve
    nothing and are not to be chosen.

    `accuracy` and `work` are (T, N, R): the loops run over tasks, the arrays over the rest.
    """

    z: Ints  # (N, R, T)
    accuracy: Array  # (T, N, R)
    work: Array  # (T, N, R), 0 where nothing serves
    setup: Array  # (N, R)
    cost: Array  # (N, R)
    count: Ints  # (N,) rows that are no padding

    @property
    def served(self) -> Bools:
        """(T, N, R)."""
        served: Bools = self.work > 0
        return served

    @property
    def real(self) -> Bools:
        """(N, R) whether a row is no padding."""
        real: Bools = np.arange(self.z.shape[1]) < self.count[:, None]
        return real

    def pick(self, row: Ints) -> Ints:
        """The assignments (N, T) of the chosen rows (N,)."""
        chosen: Ints = self.z[np.arange(len(row)), row]
        return chosen

    def find(self, z: Ints, otherwise: Ints) -> Ints:
        """The rows (N,) of assignments (N, T); `otherwise` (N,) where the table has none."""
        same = (self.z == z[:, None, :]).all(axis=2)
        return np.where(same.any(axis=1), same.argmax(axis=1), otherwise)

    def cost_of(self, row: Ints) -> float:
        """The loading costs of the chosen rows (N,), summed."""
        return float(self.cost[np.arange(len(row)), row].sum())

    def of(self, nodes: Ints) -> Rows:
        """The rows of the nodes (N',)."""
        return Rows(
            self.z[nodes],
            self.accuracy.take(nodes, axis=1),
            self.work.take(nodes, axis=1),
            self.setup[nodes],
            self.cost[nodes],
            self.count[nodes],
        )

    def keep(self, kept: Ints) -> Rows:
        """Only the rows `kept` (N, R'), in that order: padding last."""
        node = np.arange(len(kept))[:, None]
        return Rows(
            self.z[node, kept],
            np.take_along_axis(self.accuracy, kept[None], axis=2),
            np.take_along_axis(self.work, kept[None], axis=2),
            self.setup[node, kept],
            self.cost[node, kept],
            np.minimum(self.count, kept.shape[1]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """The rows of all clients and edges. `complete`: no useful assignment is missing."""

    clients: Rows
    edges: Rows
    complete: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Partitions:
    """All partitions of the tasks into n groups, P of them, for one n."""

    group_of: Ints  # (P, T) the group of each task
    tasks_of: Ints  # (P, n) the tasks of each group as bits


def tables(
    problem: FleetProblem, client_cost: Array | None = None, edge_cost: Array | None = None
) -> Tables:
    """The rows of every node; `*_cost` (C or E, M) is the objective lost by loading a model."""
    p = problem
    partitions = _partitions(p.n_tasks) if p.n_tasks <= MAX_TASKS else None
    setup = np.zeros(p.n_models) if p.setup_s is None else p.setup_s / p.window_s
    no_setup = np.zeros(p.n_models)
    no_cost = np.zeros(p.n_models)
    at_edge = [
        Models(accuracy, p.work, p.client_model_mb, no_setup, no_cost, p.mode is Mode.NULL)
        for accuracy in p.client_accuracy
    ]
    clients = [at_edge[edge] for edge in p.edge_of.tolist()]
    if client_cost is not None:
        clients = [replace(c, cost=cost) for c, cost in zip(clients, client_cost, strict=True)]
    edges = [
        Models(
            p.edge_accuracy[edge], p.work, p.edge_model_mb, setup,
            no_cost if edge_cost is None else edge_cost[edge], p.batching,
        )
        for edge in range(p.n_edges)
    ]  # fmt: skip
    of_client, clients_complete = _rows(clients, p.client_mb.tolist(), partitions)
    of_edge, edges_complete = _rows(edges, p.edge_mb.tolist(), partitions)
    return Tables(of_client, of_edge, clients_complete and edges_complete)


def envelope(problem: FleetProblem) -> Tables:
    """One row a node that is at least as good as any assignment, for bounds where the tables are
    not complete: each task has the best accuracy and the least work that a model offers it."""
    p = problem
    clients = _envelope(p.client_accuracy[p.edge_of], p.work, p.client_model_mb, p.client_mb)
    edges = _envelope(p.edge_accuracy, p.work, p.edge_model_mb, p.edge_mb)
    return Tables(clients, edges, complete=False)


def _envelope(accuracy: Array, work: Array, size: Array, memory: Array) -> Rows:
    offers = (accuracy > 0) & (size <= memory[:, None])[:, :, None]  # (N, M, T)
    best = np.where(offers, accuracy, 0.0).max(axis=1)
    least = np.where(offers, work[:, None], np.inf).min(axis=1)
    served = offers.any(axis=1)
    nothing = np.zeros((len(memory), 1))
    z = np.where(served, 0, NONE)[:, None, :]
    work = np.where(served, least, 0.0).T[:, :, None]
    return Rows(z, best.T[:, :, None], work, nothing, nothing, np.ones(len(memory), dtype=np.int64))


def _stack(tables: list[Ints], libraries: Sequence[Models]) -> Rows:
    """Tables of different lengths as one array, with what each row gives and takes."""
    nodes, tasks = len(tables), tables[0].shape[1]
    z = np.full((nodes, max(len(table) for table in tables), tasks), NONE)
    for number, table in enumerate(tables):
        z[number, : len(table)] = table
    accuracy = np.stack([library.accuracy for library in libraries])
    served = z != NONE
    node = np.arange(nodes)[:, None, None]
    value = np.where(served, accuracy[node, z, np.arange(tasks)], 0.0)
    work = np.where(served, libraries[0].work[z], 0.0)
    return Rows(
        z,
        np.ascontiguousarray(np.moveaxis(value, 2, 0)),
        np.ascontiguousarray(np.moveaxis(work, 2, 0)),
        np.where(served, libraries[0].setup[z], 0.0).sum(axis=2),
        _over_models(z, np.stack([library.cost for library in libraries])),
        np.array([len(table) for table in tables]),
    )


def _over_models(z: Ints, values: Array) -> Array:
    """(N, R) the sum of `values` (N, M) over the distinct models of each row (N, R, T)."""
    if not values.any():
        return np.zeros(z.shape[:2])
    models = np.sort(z, axis=2)
    with_none = np.hstack([values, np.zeros((len(values), 1))])  # NONE is the last index
    taken = with_none[np.arange(len(z))[:, None, None], models]
    taken[:, :, 1:] *= models[:, :, 1:] != models[:, :, :-1]
    total: Array = taken.sum(axis=2)
    return total


def _rows(
    libraries: Sequence[Models], memory_mb: Sequence[float], partitions: list[_Partitions] | None
) -> tuple[Rows, bool]:
    """The rows of each node, and whether they are all that matter. Nodes with the same library
    share the work."""
    alike: dict[tuple[bytes, bytes], list[int]] = {}
    for node, library in enumerate(libraries):
        alike.setdefault((library.accuracy.tobytes(), library.cost.tobytes()), []).append(node)
    found: list[Ints] = []
    owners: list[Models] = []
    place = np.zeros(len(libraries), dtype=np.int64)  # of each node's table in `found`
    complete = True
    for nodes in alike.values():
        sizes = {memory_mb[node] for node in nodes}
        by_memory, whole = _by_memory(libraries[nodes[0]], sizes, partitions)
        complete &= whole
        at = {mb: len(found) + number for number, mb in enumerate(by_memory)}
        place[nodes] = [at[memory_mb[node]] for node in nodes]
        found += by_memory.values()
        owners += [libraries[nodes[0]]] * len(by_memory)
    return _stack(found, owners).of(place), complete


def _by_memory(
    library: Models, sizes: Collection[float], partitions: list[_Partitions] | None
) -> tuple[dict[float, Ints], bool]:
    """The rows (R, T) for each size of memory."""
    rows = {mb: lone for mb in sizes if (lone := _one_answer(library, mb)) is not None}
    rest = [mb for mb in sizes if mb not in rows]
    if not rest:
        return rows, True
    ids = np.flatnonzero(library.mb <= max(rest) + _SLACK_MB)
    if not len(ids):
        return rows | dict.fromkeys(rest, np.full((1, library.accuracy.shape[1]), NONE)), True
    library = library.of(ids)
    if library.may_idle:
        library = _with_idle(library)
        ids = np.append(ids, NONE)
    z = _from_partitions(library, max(rest), partitions) if partitions else None
    complete = z is not None
    if z is None:
        z = _beam(library, max(rest))
    z = np.where(library.accuracy[z, np.arange(z.shape[1])] > 0, z, NONE)
    z = np.concatenate([z, np.full((1, z.shape[1]), NONE)])  # nothing at all always fits
    used_mb = _over_models(z[None], library.mb[None])[0]
    merits = _merits(z, library)
    best = np.empty(0, dtype=np.int64)
    beyond = -np.inf
    for mb in sorted(rest):  # what a row of less memory beats stays beaten with more
        more = np.flatnonzero((used_mb > beyond) & (used_mb <= mb + _SLACK_MB))
        best, beyond = np.concatenate([best, more]), mb + _SLACK_MB
        best = best[_skyline(merits[best])]
        rows[mb] = np.where(z[best] != NONE, ids[z[best]], NONE)
    return rows, complete


def _one_answer(library: Models, mb: float) -> Ints | None:
    """The best model of each task as the only row (1, T), where they fit together and nothing but
    accuracy counts."""
    if library.may_idle or np.ptp(library.work) or library.setup.any() or library.cost.any():
        return None
    accuracy = library.accuracy * (library.mb <= mb + _SLACK_MB)[:, None]
    z = np.where(accuracy.max(axis=0) > 0, accuracy.argmax(axis=0), NONE)
    held = np.zeros(len(library.mb), dtype=bool)
    held[z[z != NONE]] = True
    return z[None] if library.mb[held].sum() <= mb + _SLACK_MB else None


def _with_idle(library: Models) -> Models:
    """The library with a model that serves nothing and costs nothing, as its last."""
    return Models(
        np.vstack([library.accuracy, np.zeros(library.accuracy.shape[1])]),
        np.append(library.work, 0.0),
        np.append(library.mb, 0.0),
        np.append(library.setup, 0.0),
        np.append(library.cost, 0.0),
        True,
    )


def _partitions(tasks: int) -> list[_Partitions]:
    """Partitions of 0..tasks-1 by their number of groups, 1 first."""
    by_groups: dict[int, list[tuple[int, ...]]] = {}
    for labels in _restricted_growth(tasks):
        by_groups.setdefault(max(labels) + 1, []).append(labels)
    found = []
    for groups in sorted(by_groups):
        group_of = np.array(by_groups[groups])
        bits = 1 << np.arange(tasks)
        member = group_of[:, None, :] == np.arange(groups)[None, :, None]
        found.append(_Partitions(group_of, (member * bits).sum(axis=2)))
    return found


def _restricted_growth(tasks: int) -> Iterator[tuple[int, ...]]:
    """Labels of each partition once: a task joins a group that is there, or opens the next."""
    if tasks == 0:
        yield ()
        return
    for head in _restricted_growth(tasks - 1):
        for label in range(max(head, default=-1) + 2):
            yield (*head, label)


def _from_partitions(library: Models, mb: float, partitions: Sequence[_Partitions]) -> Ints | None:
    """All assignments of unbeaten models to groups that fit the memory, or None if too many."""
    unbeaten = _unbeaten(library)
    count = unbeaten.sum(axis=1)
    start = np.concatenate([[0], np.cumsum(count)])
    models = np.nonzero(unbeaten)[1]
    fits = int((np.cumsum(np.sort(library.mb)) <= mb + _SLACK_MB).sum())
    chosen = [part for part in partitions if part.tasks_of.shape[1] <= fits]
    if sum(float(count[part.tasks_of].prod(axis=1).sum()) for part in chosen) > MAX_ROWS:
        return None
    found = []
    for part in chosen:
        choices = count[part.tasks_of]
        rows = choices.prod(axis=1)
        which = np.repeat(np.arange(len(rows)), rows)
        rest = np.arange(len(which)) - np.repeat(np.cumsum(rows) - rows, rows)
        picked = np.empty((len(which), choices.shape[1]), dtype=np.int64)
        for group in range(choices.shape[1]):  # `rest` in mixed radix
            rest, digit = np.divmod(rest, choices[which, group])
            picked[:, group] = models[start[part.tasks_of[which, group]] + digit]
        fit = (
            library.mb[picked].sum(axis=1) <= mb + _SLACK_MB
        )  # a model in two groups is in one too
        group = part.group_of[which[fit]]
        z = np.take_along_axis(picked[fit], group, axis=1)
        # A task that its group's model does not support could be in any group: one is enough.
        aimless = (library.accuracy[z, np.arange(z.shape[1])] == 0) & (group > 0)
        if library.may_idle:
            aimless &= z != len(library.mb) - 1
        found.append(z[~aimless.any(axis=1)])
    return np.concatenate(found)


def _unbeaten(library: Models) -> Bools:
    """(2^T, M) bool: no other model is as accurate on all tasks of the group and as cheap."""
    accuracy = library.accuracy
    models, tasks = accuracy.shape
    bits = 1 << np.arange(tasks)
    as_good = (accuracy[:, None] >= accuracy[None]) @ bits  # (M', M) tasks where m' is as good
    better = (accuracy[:, None] > accuracy[None]) @ bits
    costs = np.stack([library.work, library.mb, library.setup, library.cost], axis=1)
    as_cheap = (costs[:, None] <= costs[None]).all(axis=2)
    cheaper = (costs[:, None] < costs[None]).any(axis=2)
    earlier = np.arange(models)[:, None] < np.arange(models)[None]  # of two equals, keep one
    group = np.arange(1 << tasks)[:, None, None]
    beats = ((as_good & group) == group) & as_cheap
    beats &= ((better & group) != 0) | cheaper | earlier
    unbeaten: Bools = ~beats.any(axis=1)
    return unbeaten


def _beam(library: Models, mb: float) -> Ints:
    """Sets grown model by model, the BEAM best by mean accuracy kept at each size. Not complete."""
    tasks = library.accuracy.shape[1]
    sets = [(m,) for m in range(len(library.mb))]
    found = [np.full((1, tasks), NONE)]
    while sets:
        members = np.array(sets)
        fit = library.mb[members].sum(axis=1) <= mb + _SLACK_MB
        members = members[fit]
        best = library.accuracy[members].max(axis=1)
        order = np.argsort(-best.sum(axis=1), kind="stable")[:BEAM]
        members = members[order]
        winner = library.accuracy[members].argmax(axis=1)
        found.append(np.take_along_axis(members, winner, axis=1))
        if members.shape[1:] == (tasks,):
            break
        sets = sorted(
            {
                tuple(sorted((*s, m)))
                for s in members.tolist()
                for m in range(len(library.mb))
                if m not in s
            }
        )
    return np.concatenate(found)


def _merits(z: Ints, library: Models) -> Array:
    """(R, criteria) what speaks for a row, larger is better; what never differs is left out."""
    tasks = np.arange(z.shape[1])
    served = z != NONE
    columns = [np.where(served, library.accuracy[z, tasks], 0.0)]
    if library.may_idle or np.ptp(library.work):
        # Where idling is never right, an unserved task is worse than one served at any work.
        idle = 0.0 if library.may_idle else -2.0 * float(library.work.max())
        columns.append(np.where(served, -library.work[z], idle))
    if library.setup.any():
        columns.append(-np.where(served, library.setup[z], 0.0).sum(axis=1, keepdims=True))
    if library.cost.any():
        columns.append(-_over_models(z[None], library.cost[None]).T)
    return np.concatenate(columns, axis=1)


def _skyline(merits: Array, block: int = 64) -> Ints:
    """Indices of the rows that no other equals or beats in every merit (the first of equals)."""
    order = np.argsort(-merits.sum(axis=1), kind="stable")  # only earlier rows can beat later ones
    number = np.arange(block)
    earlier = number[:, None] < number
    kept = np.empty(0, dtype=np.int64)
    for start in range(0, len(order), block):
        rows = order[start : start + block]
        rivals = np.concatenate([kept, rows])
        beaten = np.ones((len(rivals), len(rows)), dtype=bool)
        beaten[len(kept) :] = earlier[: len(rows), : len(rows)]
        for merit in merits.T:
            beaten &= merit[rivals][:, None] >= merit[rows][None]
        kept = np.concatenate([kept, rows[~beaten.any(axis=0)]])
    return kept

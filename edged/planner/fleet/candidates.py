"""The assignments of one node that are worth looking at, found before prices are known.

A best assignment is a partition of the tasks into groups and one model for each group, and that
model is not beaten on its group by another that costs no more work, memory, setup time or loading.
So the candidates are built from partitions, and thinned to those that no other one beats. Where
there are too many, a beam search finds good ones instead. Knows no loads and no prices.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edged.planner.fleet.assignment import NONE
from edged.planner.fleet.problem import Array, Bools, Ints

MAX_TASKS = 8  # partitions grow as the Bell numbers: 4,140 for 8 tasks
MAX_ROWS = 400_000  # a node with more candidates gets those of a beam search, which are not all
BEAM_WIDTH = 400
_SLACK_MB = 1e-9  # keeps rounding from refusing sizes that fill the memory exactly


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
class Partitions:
    """All partitions of the tasks into n groups, P of them, for one n."""

    group_of: Ints  # (P, T) the group of each task
    tasks_of: Ints  # (P, n) the tasks of each group as bits


def over_models(z: Ints, values: Array) -> Array:
    """The sum of `values` (N, M) over the distinct models of each row (N, R, T): (N, R)."""
    if not values.any():
        return np.zeros(z.shape[:2])
    models = np.sort(z, axis=2)
    with_none = np.hstack([values, np.zeros((len(values), 1))])  # NONE indexes the last column
    taken = with_none[np.arange(len(z))[:, None, None], models]
    taken[:, :, 1:] *= models[:, :, 1:] != models[:, :, :-1]
    total: Array = taken.sum(axis=2)
    return total


def candidates(
    library: Models, sizes: Collection[float], partitions: list[Partitions] | None
) -> tuple[dict[float, Ints], bool]:
    """The candidates (R, T) for each size of memory, and whether no useful one is missing."""
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
    z = np.concatenate([z, np.full((1, z.shape[1]), NONE)])  # holding no model always fits
    used_mb = over_models(z[None], library.mb[None])[0]
    merits = _merits(z, library)
    best = np.empty(0, dtype=np.int64)
    beyond = -np.inf
    for mb in sorted(rest):  # a row that is beaten within less memory stays beaten with more
        more = np.flatnonzero((used_mb > beyond) & (used_mb <= mb + _SLACK_MB))
        best, beyond = np.concatenate([best, more]), mb + _SLACK_MB
        best = best[_skyline(merits[best])]
        rows[mb] = np.where(z[best] != NONE, ids[z[best]], NONE)
    return rows, complete


def _one_answer(library: Models, mb: float) -> Ints | None:
    """The best model of each task as the only row (1, T), or None where one row is not enough.

    One row is enough where only accuracy counts and these models fit into the memory together.
    """
    if library.may_idle or np.ptp(library.work) or library.setup.any() or library.cost.any():
        return None
    accuracy = library.accuracy * (library.mb <= mb + _SLACK_MB)[:, None]
    z = np.where(accuracy.max(axis=0) > 0, accuracy.argmax(axis=0), NONE)
    held = np.zeros(len(library.mb), dtype=bool)
    held[z[z != NONE]] = True
    return z[None] if library.mb[held].sum() <= mb + _SLACK_MB else None


def _with_idle(library: Models) -> Models:
    """The library and, as its last model, one that serves nothing and costs nothing."""
    return Models(
        np.vstack([library.accuracy, np.zeros(library.accuracy.shape[1])]),
        np.append(library.work, 0.0),
        np.append(library.mb, 0.0),
        np.append(library.setup, 0.0),
        np.append(library.cost, 0.0),
        True,
    )


def partitions_of(tasks: int) -> list[Partitions]:
    """Partitions of 0..tasks-1 by their number of groups, 1 first."""
    by_groups: dict[int, list[tuple[int, ...]]] = {}
    for labels in _restricted_growth(tasks):
        by_groups.setdefault(max(labels) + 1, []).append(labels)
    found = []
    for groups in sorted(by_groups):
        group_of = np.array(by_groups[groups])
        bits = 1 << np.arange(tasks)
        member = group_of[:, None, :] == np.arange(groups)[None, :, None]
        found.append(Partitions(group_of, (member * bits).sum(axis=2)))
    return found


def _restricted_growth(tasks: int) -> Iterator[tuple[int, ...]]:
    """Group numbers of the tasks, each partition once: a task joins a group or opens the next."""
    if tasks == 0:
        yield ()
        return
    for head in _restricted_growth(tasks - 1):
        for label in range(max(head, default=-1) + 2):
            yield (*head, label)


def _from_partitions(library: Models, mb: float, partitions: Sequence[Partitions]) -> Ints | None:
    """All assignments of unbeaten models to groups that fit, or None if more than MAX_ROWS."""
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
        for group in range(choices.shape[1]):  # `rest` is a number in mixed radix
            rest, digit = np.divmod(rest, choices[which, group])
            picked[:, group] = models[start[part.tasks_of[which, group]] + digit]
        # A model that serves two groups is counted twice here. That loses nothing: the partition in
        # which the two groups are one has the same assignment.
        fit = library.mb[picked].sum(axis=1) <= mb + _SLACK_MB
        group = part.group_of[which[fit]]
        z = np.take_along_axis(picked[fit], group, axis=1)
        # A task that its group's model does not support could be in any group: keep the first.
        aimless = (library.accuracy[z, np.arange(z.shape[1])] == 0) & (group > 0)
        if library.may_idle:
            aimless &= z != len(library.mb) - 1
        found.append(z[~aimless.any(axis=1)])
    return np.concatenate(found)


def _unbeaten(library: Models) -> Bools:
    """Whether no other model is as accurate on all tasks of a group and as cheap: (2^T, M)."""
    accuracy = library.accuracy
    models, tasks = accuracy.shape
    bits = 1 << np.arange(tasks)
    as_good = (accuracy[:, None] >= accuracy[None]) @ bits  # (M', M) tasks on which m' is as good
    better = (accuracy[:, None] > accuracy[None]) @ bits
    costs = np.stack([library.work, library.mb, library.setup, library.cost], axis=1)
    as_cheap = (costs[:, None] <= costs[None]).all(axis=2)
    cheaper = (costs[:, None] < costs[None]).any(axis=2)
    earlier = np.arange(models)[:, None] < np.arange(models)[None]  # keeps the first of two equals
    group = np.arange(1 << tasks)[:, None, None]
    beats = ((as_good & group) == group) & as_cheap
    beats &= ((better & group) != 0) | cheaper | earlier
    unbeaten: Bools = ~beats.any(axis=1)
    return unbeaten


def _beam(library: Models, mb: float) -> Ints:
    """The assignments of a beam search over sets of models. Not complete.

    The sets grow model by model; at each size the BEAM_WIDTH of highest mean accuracy are kept.
    """
    tasks = library.accuracy.shape[1]
    sets = [(m,) for m in range(len(library.mb))]
    found = [np.full((1, tasks), NONE)]
    while sets:
        members = np.array(sets)
        fit = library.mb[members].sum(axis=1) <= mb + _SLACK_MB
        members = members[fit]
        best = library.accuracy[members].max(axis=1)
        order = np.argsort(-best.sum(axis=1), kind="stable")[:BEAM_WIDTH]
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
    """The criteria by which rows are compared, (R, criteria): larger is better.

    A criterion in which rows cannot differ has no column.
    """
    tasks = np.arange(z.shape[1])
    served = z != NONE
    columns = [np.where(served, library.accuracy[z, tasks], 0.0)]
    if library.may_idle or np.ptp(library.work):
        # An unserved task counts as worse than one served at any work where idling is never right.
        idle = 0.0 if library.may_idle else -2.0 * float(library.work.max())
        columns.append(np.where(served, -library.work[z], idle))
    if library.setup.any():
        columns.append(-np.where(served, library.setup[z], 0.0).sum(axis=1, keepdims=True))
    if library.cost.any():
        columns.append(-over_models(z[None], library.cost[None]).T)
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

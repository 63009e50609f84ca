"""Exact search over all schedules of small instances; tests check the other methods by it.

It uses no theorem of the paper: a model may be loaded any number of times, and a batch need not be
full. It uses only that all tasks share one start and one deadline: so the time of a schedule, (1)
to (11), is the sum of its users' upload times plus a function of its sequence of (model, batch
size). The users of least upload time are then a best choice, and a state is how many users each
model has served and which model is loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edged.errors import PlanError
from edged.planner.loading.problem import LoadingProblem
from edged.planner.loading.tables import Floats, Ints, LoadingTables

Batches = list[tuple[int, int]]  # (model, batch size), in the order run

STATES_MAX = 4_000_000  # entries of the table of least times


def exact_batches(problem: LoadingProblem, tables: LoadingTables) -> Batches:
    """A schedule that serves the most users and, among those, ends the earliest.

    Raises PlanError when the table of times would have more than STATES_MAX entries.
    """
    states = math.prod(len(queue) + 1 for queue in tables.queue) * (len(tables.asked) + 1)
    if states > STATES_MAX:
        raise PlanError(
            f"method exact: {states:.2g} states are too many (at most {STATES_MAX:.2g}): "
            "take dp for nested clusters, greedy-plus otherwise"
        )
    search = _Search.start(problem, tables)
    for layer in search.layers():
        search.extend(layer)
    return search.best()


@dataclass(frozen=True, slots=True)
class _Search:
    """The table of least times over (model loaded, users served per model), filled in place.

    A state is a mixed-radix number: requested model a has served `served[a]` users, and one user
    more adds `stride[a]`. Row A of the table is the cold device.
    """

    tables: LoadingTables
    models: list[int]  # (A,) the models that users request
    run_ms: list[Floats]  # one array a model, (b_max + 1,): time to compute a batch of b rows, (9)
    stride: Ints  # (A,)
    served: Ints  # (A, states)
    load_ms: Floats  # (A + 1, A)
    least: Floats  # (A + 1, states)
    before: Ints  # (A + 1, states) the model loaded before the last batch
    batch: Ints  # (A + 1, states) the size of the last batch

    @classmethod
    def start(cls, problem: LoadingProblem, tables: LoadingTables) -> _Search:
        models = tables.asked
        queued = np.array([len(tables.queue[i]) for i in models], dtype=np.int64)
        states = math.prod((queued + 1).tolist())
        stride = states // np.cumprod(queued + 1)
        least = np.full((len(models) + 1, states), np.inf)
        least[-1, 0] = 0.0
        run_ms: list[Floats] = []
        for i, waiting in zip(models, queued, strict=True):
            rows = np.arange(min(problem.models[i].b_max, waiting) + 1.0)
            run_ms.append(problem.models[i].mu_ms * rows + problem.models[i].beta_ms)
        return cls(
            tables=tables,
            models=models,
            run_ms=run_ms,
            stride=stride,
            served=np.arange(states) // stride[:, None] % (queued[:, None] + 1),
            load_ms=tables.load_ms[np.ix_([*models, tables.cold], models)],
            least=least,
            before=np.zeros(least.shape, dtype=np.int64),
            batch=np.zeros(least.shape, dtype=np.int64),
        )

    def layers(self) -> list[Ints]:
        """The states by number of users served: every batch leads to a later layer."""
        total = self.served.sum(axis=0)
        order = np.argsort(total, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(total[order])) + 1)

    def extend(self, states: Ints) -> None:
        """Run every possible batch of every model next, in each of `states`."""
        for a, i in enumerate(self.models):
            ready = self.least[:, states] + self.load_ms[:, a, None]
            before = ready.argmin(axis=0)
            start_ms = np.take_along_axis(ready, before[None], axis=0)[0]
            upload = self.tables.upload_ms[i]
            for rows in range(1, len(self.run_ms[a])):
                done = self.served[a, states]
                fits = (done + rows < len(upload)) & (start_ms < np.inf)
                first = done[fits]
                end_ms = start_ms[fits] + (upload[first + rows] - upload[first])
                end_ms += self.run_ms[a][rows]
                to = states[fits] + rows * self.stride[a]
                better = (end_ms < self.least[a, to]) & (end_ms <= self.tables.limit_ms)
                to = to[better]
                self.least[a, to] = end_ms[better]
                self.before[a, to] = before[fits][better]
                self.batch[a, to] = rows

    def best(self) -> Batches:
        """The batches that lead to the most users, and then to the least time."""
        total = self.served.sum(axis=0)
        total_reached = np.where(self.least < np.inf, total, -1)
        ending = np.where(total_reached == total_reached.max(), self.least, np.inf)
        loaded, state = (int(n) for n in np.unravel_index(ending.argmin(), ending.shape))
        batches: Batches = []
        while loaded < len(self.models):
            rows = int(self.batch[loaded, state])
            batches.append((self.models[loaded], rows))
            loaded, state = (
                int(self.before[loaded, state]),
                state - rows * int(self.stride[loaded]),
            )
        return batches[::-1]

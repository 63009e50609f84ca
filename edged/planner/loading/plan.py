"""A loading plan, and its verification straight from the paper's equations (1) to (12).

Knows no solver and shares no code with one: a plan that passes is right whoever made it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec

from edged.errors import PlanError
from edged.planner.loading.problem import LoadingProblem

Method = Literal[
    "exact", "dp", "dp-slotted", "dp-paper", "greedy", "greedy-continuous", "greedy-plus",
    "independent",
]  # fmt: skip

_TOLERANCE = 1e-9  # relative; absolute for values below 1


class LoadingBatch(msgspec.Struct, frozen=True):
    """Users of one model that run together; `bandwidth[n]` is the share of the band of user n."""

    model: int
    users: tuple[int, ...]
    bandwidth: tuple[float, ...]


class BatchTime(NamedTuple):
    """The three steps of a batch (1) in ms, and when it ends, counted from the first upload."""

    upload_ms: float
    load_ms: float
    run_ms: float
    end_ms: float


class LoadingPlan(msgspec.Struct, frozen=True):
    """Batches in the order in which they run. No schedule serves more than `bound` users.

    `bound` is None if it was not computed.
    """

    method: Method
    served: int
    makespan_ms: float
    bound: int | None
    batches: tuple[LoadingBatch, ...]

    @property
    def gap(self) -> float | None:
        """The share of the bound that is not reached: (bound - served) / bound."""
        if self.bound is None:
            return None
        return (self.bound - self.served) / self.bound if self.bound else 0.0

    def times(self, problem: LoadingProblem) -> Iterator[BatchTime]:
        """The times of each batch by (1), (6) to (9), with the bandwidth that the plan gives."""
        loaded: frozenset[int] = frozenset()
        end_ms = 0.0
        for batch in self.batches:
            model = problem.models[batch.model]
            upload_ms = max(_uploads_ms(problem, batch))
            missing_bytes = math.fsum(problem.block_bytes[j] for j in {*model.blocks} - loaded)
            load_ms = 0.0
            if missing_bytes > 0:
                load_ms = problem.load.fixed_ms + missing_bytes / problem.load.bytes_per_ms
            run_ms = model.mu_ms * len(batch.users) + model.beta_ms
            end_ms += upload_ms + load_ms + run_ms
            yield BatchTime(upload_ms, load_ms, run_ms, end_ms)
            loaded = frozenset(model.blocks)

    def verify(self, problem: LoadingProblem) -> None:
        """Raise PlanError naming the equation that the plan violates, and the batch or user."""
        seen: set[int] = set()
        for n, batch in enumerate(self.batches):
            _verify_users(problem, n, batch, seen)
            _verify_bandwidth(problem, n, batch)
        end_ms = 0.0
        for n, time in enumerate(self.times(problem)):
            end_ms = time.end_ms
            if not _at_most(end_ms, problem.deadline_ms):
                raise _violates(
                    "(2)", f"batch {n} ends at {end_ms:.6g} ms, after {problem.deadline_ms:.6g} ms"
                )
        if not _equal(self.makespan_ms, end_ms):
            raise _violates("(1)", f"makespan_ms is {self.makespan_ms!r}, the times say {end_ms!r}")
        if self.served != len(seen):
            raise _violates("(10a)", f"served is {self.served}, the batches hold {len(seen)} users")
        if self.bound is not None and self.bound < self.served:
            raise PlanError(
                f"the plan serves {self.served} users, more than its bound {self.bound}"
            )


def _uploads_ms(problem: LoadingProblem, batch: LoadingBatch) -> Iterator[float]:
    """The upload time of each user of the batch (6); inf for a user without bandwidth."""
    for k, part in zip(batch.users, batch.bandwidth, strict=True):
        user = problem.users[k]
        rate = part * problem.bandwidth_hz * user.efficiency  # (4)
        if user.upload_bits == 0:
            yield 0.0
        else:
            yield 1000.0 * user.upload_bits / rate if rate > 0 else math.inf


def _verify_users(problem: LoadingProblem, n: int, batch: LoadingBatch, seen: set[int]) -> None:
    """Add the users of batch n to `seen`: each must be new and of the batch's model."""
    if not 0 <= batch.model < len(problem.models):
        raise _violates("(10d)", f"batch {n} runs model {batch.model}, which there is not")
    if not batch.users:
        raise _violates("(10d)", f"batch {n} has no users")
    if len(batch.users) > problem.models[batch.model].b_max:
        raise _violates(
            "(10c)",
            f"batch {n} has {len(batch.users)} users, "
            f"model {batch.model} takes {problem.models[batch.model].b_max}",
        )
    for k in batch.users:
        if not 0 <= k < len(problem.users):
            raise _violates("(10f)", f"batch {n} serves user {k}, which there is not")
        if k in seen:
            raise _violates("(3)", f"batch {n} serves user {k} a second time")
        if problem.users[k].model != batch.model:
            raise _violates(
                "(10d)",
                f"batch {n} runs model {batch.model}, user {k} asks for {problem.users[k].model}",
            )
        seen.add(k)


def _verify_bandwidth(problem: LoadingProblem, n: int, batch: LoadingBatch) -> None:
    """Shares are in [0, 1], sum up to 1 at most, and are those of (12), so (11) holds."""
    if len(batch.bandwidth) != len(batch.users):
        raise _violates("(10e)", f"batch {n} does not give one bandwidth to each of its users")
    if not all(0 <= part <= 1 for part in batch.bandwidth):
        raise _violates("(10g)", f"batch {n} has a bandwidth outside of [0, 1]")
    if not _at_most(math.fsum(batch.bandwidth), 1.0):
        raise _violates("(5)", f"batch {n} shares out more than the whole band")
    needs = [problem.users[k].upload_bits / problem.users[k].efficiency for k in batch.users]
    total = math.fsum(needs)
    for k, part, need in zip(batch.users, batch.bandwidth, needs, strict=True):
        if not _equal(part, need / total if total else 0.0):
            raise _violates(
                "(12)", f"batch {n} gives user {k} {part:.6g} of the band, not {need / total:.6g}"
            )


def _at_most(value: float, limit: float) -> bool:
    return value <= limit + _TOLERANCE * max(1.0, abs(limit))


def _equal(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)


def _violates(equation: str, what: str) -> PlanError:
    return PlanError(f"the plan violates {equation}: {what}")

"""A plan with one fault gets an error that names the equation which it violates."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from edged.errors import PlanError
from edged.planner.loading.methods import solve
from edged.planner.loading.plan import LoadingBatch, LoadingPlan
from edged.planner.loading.problem import LoadingProblem
from tests.planner.loading.helpers import example

PROBLEM, _ = example("pl_gen_000")
PLAN = solve(PROBLEM, "exact")
WIDE = next(n for n, batch in enumerate(PLAN.batches) if len(batch.users) > 1)

replace = msgspec.structs.replace


def with_batch(n: int, **changes: object) -> LoadingPlan:
    batches = list(PLAN.batches)
    batches[n] = replace(batches[n], **changes)
    return replace(PLAN, batches=tuple(batches))


def swapped_bandwidth() -> LoadingPlan:
    return with_batch(WIDE, bandwidth=PLAN.batches[WIDE].bandwidth[::-1])


def one_batch(model: int) -> LoadingPlan:
    """All users of a model in one batch, with the bandwidth of (12)."""
    users = tuple(k for k, user in enumerate(PROBLEM.users) if user.model == model)
    needs = [PROBLEM.users[k].upload_bits / PROBLEM.users[k].efficiency for k in users]
    batch = LoadingBatch(model, users, tuple(need / sum(needs) for need in needs))
    return replace(PLAN, batches=(batch,), served=len(users))


BROKEN: dict[str, Callable[[], LoadingPlan]] = {
    r"\(1\): makespan_ms is": lambda: replace(PLAN, makespan_ms=PLAN.makespan_ms - 1e-3),
    r"\(3\): batch 1 serves user \d+ a second time": lambda: replace(
        PLAN, batches=(PLAN.batches[0], *PLAN.batches)
    ),
    r"\(5\): batch \d shares out more than the whole band": lambda: with_batch(
        WIDE, bandwidth=(0.9,) * len(PLAN.batches[WIDE].users)
    ),
    r"\(10a\): served is": lambda: replace(PLAN, served=PLAN.served + 1),
    r"\(10c\): batch 0 has 5 users, model 3 takes 2": lambda: one_batch(3),
    r"\(10d\): batch 0 runs model \d, user \d+ asks for \d": lambda: with_batch(
        0, model=(PLAN.batches[0].model + 1) % 5
    ),
    r"\(10d\): batch 0 runs model 9, which there is not": lambda: with_batch(0, model=9),
    r"\(10d\): batch 0 has no users": lambda: with_batch(0, users=(), bandwidth=()),
    r"\(10e\): batch 0 does not give one bandwidth": lambda: with_batch(0, bandwidth=()),
    r"\(10f\): batch 0 serves user 99, which there is not": lambda: with_batch(
        0, users=(99,), bandwidth=(1.0,)
    ),
    r"\(10g\): batch \d has a bandwidth outside": lambda: with_batch(
        WIDE, bandwidth=(-0.1,) * len(PLAN.batches[WIDE].users)
    ),
    r"\(12\): batch \d gives user \d+": swapped_bandwidth,
    "more than its bound 3": lambda: replace(PLAN, bound=3),
}


@pytest.mark.parametrize("message", BROKEN)
def test_the_violated_equation_is_named(message: str) -> None:
    PLAN.verify(PROBLEM)
    with pytest.raises(PlanError, match=message):
        BROKEN[message]().verify(PROBLEM)


def test_a_late_batch_violates_2() -> None:
    tight = replace(PROBLEM, deadline_ms=PLAN.makespan_ms - 0.01)
    with pytest.raises(PlanError, match=rf"\(2\): batch {len(PLAN.batches) - 1} ends at 127\.145"):
        PLAN.verify(tight)
    PLAN.verify(replace(PROBLEM, deadline_ms=PLAN.makespan_ms))


def test_blocks_of_the_batch_before_are_not_loaded_again() -> None:
    """(8): a batch loads the blocks that the batch before it did not hold."""
    before: set[int] = set()
    for batch, step in zip(PLAN.batches, PLAN.times(PROBLEM), strict=True):
        blocks = set(PROBLEM.models[batch.model].blocks)
        size = sum(PROBLEM.block_bytes[j] for j in blocks - before)
        assert step.load_ms == pytest.approx(size / PROBLEM.load.bytes_per_ms)
        before = blocks


def test_without_bytes_to_upload_no_band_is_needed() -> None:
    users = tuple(replace(user, upload_bits=0.0) for user in PROBLEM.users)
    free: LoadingProblem = replace(PROBLEM, users=users)
    plan = solve(free, "greedy-plus")
    plan.verify(free)
    assert plan.served == len(users)
    assert all(part == 0.0 for batch in plan.batches for part in batch.bandwidth)

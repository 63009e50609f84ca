"""The dynamic programs for nested clusters: against `exact`, against each other, and refusals."""

from __future__ import annotations

import msgspec
import pytest

from edged.errors import PlanError
from edged.planner.loading.methods import solve
from edged.planner.loading.plan import Method
from edged.planner.loading.problem import LoadingProblem
from edged.planner.loading.structure import sharing
from edged.planner.loading.tables import tables
from tests.planner.loading.helpers import example, paper_size, small, without_own_blocks


def same_as_exact(problem: LoadingProblem, method: Method) -> None:
    plan, exact = solve(problem, method), solve(problem, "exact")
    plan.verify(problem)
    exact.verify(problem)
    assert plan.served == exact.served
    assert plan.makespan_ms == pytest.approx(exact.makespan_ms, rel=1e-9)
    assert plan.bound == plan.served


@pytest.mark.slow
@pytest.mark.parametrize("block", range(5))
def test_dp_is_exact(block: int) -> None:
    for seed in range(100 * block, 100 * block + 100):
        same_as_exact(small("small-bls", seed), "dp")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dp", "greedy-plus"])
def test_dp_is_exact_when_a_model_is_part_of_another(method: Method) -> None:
    """Ascending order (Corollary 1) loads such a model for nothing when loads have a fixed cost."""
    for seed in range(0, 300, 3):  # those with a fixed cost
        same_as_exact(without_own_blocks(small("small-bls", seed), seed), method)


def test_dp_reads_the_blocks_and_not_the_annotations() -> None:
    problem = small("small-bls", 4)
    bare = tuple(msgspec.structs.replace(m, cluster=None, shared=None) for m in problem.models)
    same_as_exact(msgspec.structs.replace(problem, models=bare), "dp")


@pytest.mark.parametrize("method", ["dp", "dp-slotted", "dp-paper"])
def test_crossing_clusters_are_refused(method: Method) -> None:
    problem = small("small-general", 1)
    with pytest.raises(
        PlanError, match=rf"models\[\d\]\.blocks: .* not nested .* models\[\d\] .* {method} does"
    ):
        solve(problem, method)


def test_models_that_nobody_asks_for_do_not_spoil_the_nesting() -> None:
    problem = small("small-general", 1)
    one = tuple(user for user in problem.users if user.model == problem.users[0].model)
    same_as_exact(msgspec.structs.replace(problem, users=one), "dp")


def test_slots_cost_users_and_fine_slots_do_not() -> None:
    lost = 0
    for seed in range(40):
        problem = small("small-bls", seed)
        best = solve(problem, "dp").served
        coarse = solve(problem, "dp-slotted")
        fine = solve(msgspec.structs.replace(problem, slot_ms=0.01), "dp-slotted")
        assert coarse.served <= best
        assert fine.served == best
        lost += coarse.served < best
    assert lost >= 5


def test_slotted_plans_meet_the_deadline_in_whole_slots() -> None:
    for seed in range(40):
        problem = small("small-bls", seed, slot_ms=7.0)
        plan = solve(problem, "dp-slotted")
        slots, started_ms, model = 0, 0.0, None
        for batch, step in zip(plan.batches, plan.times(problem), strict=True):
            if batch.model != model:
                slots, visit_ms, model = slots + 1, 0.0, batch.model
                room_ms = 7.0
            visit_ms += step.end_ms - started_ms
            while visit_ms > room_ms + 1e-9:
                slots, room_ms = slots + 1, room_ms + 7.0
            started_ms = step.end_ms
        assert slots <= problem.deadline_ms // 7.0


def test_slots_too_short_for_memory_are_refused() -> None:
    for slot_ms in (1e-7, 1e-300):
        problem = small("small-bls", 0, slot_ms=slot_ms)
        with pytest.raises(PlanError, match=r"^slot_ms: \S+ slots until the deadline are too many"):
            solve(problem, "dp-slotted")
        assert solve(problem, "greedy").served == solve(problem, "greedy-continuous").served


def test_test_19_loses_a_predecessor_that_ties() -> None:
    """The literal test (19) is worse even in slotted time."""
    problem, _ = example("pl_bls_070")
    assert solve(problem, "dp-paper").served < solve(problem, "dp-slotted").served
    for seed in range(100):
        problem = small("small-bls", seed)
        assert solve(problem, "dp-paper").served <= solve(problem, "dp-slotted").served


def test_sharing_pays_at_paper_size() -> None:
    """The order of the paper's Fig. 6 at its default point; not its figures, see docs/results."""
    for seed in range(5):
        problem = paper_size("bls", seed)
        methods: tuple[Method, ...] = ("independent", "greedy", "dp-slotted", "dp")
        served = [solve(problem, method, certify=False).served for method in methods]
        assert served == sorted(served)
        assert served[-1] > 1.3 * served[0]


def test_clusters_are_told_by_what_they_share() -> None:
    problem = paper_size("bls", 0)
    facts = sharing(problem, tables(problem))
    asked = {user.model for user in problem.users}
    assert facts.nested
    assert sorted(facts.order) == sorted(asked)
    for cluster in facts.clusters:
        assert len({problem.models[i].cluster for i in cluster}) == 1
        shared = [problem.models[i].shared for i in cluster]
        assert shared == sorted(shared)

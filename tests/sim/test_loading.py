"""Loading policies on the same arrivals, in virtual time: what the benchmarks claim, in small."""

from __future__ import annotations

import msgspec
import pytest

from edged.errors import PlanError
from edged.sim.loading import Scenario, SimModel, Speed, read, run
from tools.bench.partial import Load, of_cliff, of_library, of_paper


def test_sharing_and_deadlines_beat_lru_and_loading_without_sharing_on_a_library() -> None:
    served = of_library(Load(), requests=400, seed=0)
    assert served["partial"] >= served["lru"] + 0.15
    assert served["partial"] >= served["independent"] + 0.15


def test_in_the_papers_setting_partial_comes_near_the_best_plan() -> None:
    served = of_paper(seed=0)
    assert served["partial"] >= served["independent"] + 0.2
    assert served["partial"] >= served["planned"] - 0.05


def test_a_round_robin_over_one_model_too_many_does_not_collapse() -> None:
    answers_per_s = of_cliff(rounds=40)
    assert answers_per_s["partial"] >= 3 * answers_per_s["lru"]


def scenario(**changes: object) -> Scenario:
    base = Scenario(
        block_bytes=(100, 50, 50),
        models=(SimModel((0, 1), 1.0, 1.0, "a"), SimModel((0, 2), 1.0, 1.0, "b")),
        budget_bytes=150,
        arrivals_ms=(0.0, 10.0),
        asked=(0, 1),
        deadline_ms=1000.0,
        load=Speed(bytes_per_ms=10.0),
    )
    return msgspec.structs.replace(base, **changes)


def test_a_switch_loads_only_what_is_not_shared() -> None:
    outcome = run(scenario())
    assert outcome.latency_s == pytest.approx((0.002, 0.007))
    assert outcome.loaded_bytes == 50


def test_without_sharing_a_switch_loads_the_whole_model() -> None:
    outcome = run(scenario(), "independent")
    assert outcome.latency_s == pytest.approx((0.002, 0.017))
    assert outcome.loaded_bytes == 150


def test_a_scenario_that_does_not_fit_together_is_refused_by_its_field() -> None:
    for field, value in (("asked", (0,)), ("asked", (0, 7)), ("arrivals_ms", (5.0, 1.0))):
        with pytest.raises(PlanError, match=field):
            read(msgspec.json.encode(scenario(**{field: value})))

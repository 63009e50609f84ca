"""Policies by their names: what stands behind the colon, and what is no policy."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from edged import policies
from edged.core.scheduler import Scheduler
from edged.core.settings import SchedulerSettings
from edged.errors import InvalidArgument
from edged.policies import find
from edged.sim.batching import BatchingForm

CORE = Path(policies.__file__).parents[1] / "core"


def test_the_name_of_a_policy_says_how_the_load_is_measured():
    policy = find("smooth:window_s=0.5,beat_s=0.25")
    assert policy.rate is not None
    rate = policy.rate(0.0)
    rate.add(2, 0.1)
    assert rate.next_beat_s(0.1) == 0.25
    assert rate.rows_per_s(0.5) == 4.0
    assert rate.rows_per_s(0.75) == 0.0


@pytest.mark.parametrize(
    "name",
    [
        "smooth:", "smooth:window_s", "smooth:window_s=", "smooth:window_s=0", "smooth:beat_s=nan",
        "smooth:window_s=1,window_s=2", "smooth:prepare_s=0.1", "smooth:window_s=1e9", "smooth:1",
    ],
)  # fmt: skip
def test_what_is_not_understood_behind_a_name_is_refused_with_what_there_may_be(name):
    with pytest.raises(InvalidArgument, match=r"smooth:window_s=1,beat_s=0\.1"):
        find(name)


@pytest.mark.parametrize("name", ["greedy:1", "work-conserving:", "static:4:4", "Smooth"])
def test_only_some_names_have_something_behind_a_colon(name):
    with pytest.raises(InvalidArgument, match="no batching policy is called"):
        find(name)


def test_a_scenario_says_how_the_load_is_measured_unless_the_name_does():
    form = BatchingForm("smooth", window_ms=500.0)
    assert form.settings("smooth").policy == "smooth:window_s=0.5,beat_s=0.1"
    assert form.settings("smooth:beat_s=1").policy == "smooth:beat_s=1"
    assert form.settings("static:4").policy == "static:4"


def test_a_policy_that_was_not_handed_over_is_not_replaced_by_another():
    with pytest.raises(InvalidArgument, match="'greedy' was not handed over"):
        Scheduler(SchedulerSettings(policy="greedy"))


def test_the_scheduler_knows_nothing_of_the_policies_to_compare_with():
    for path in CORE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("edged.policies"), path

"""The simulator against closed forms, published figures and itself."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from edged.core.settings import SchedulerSettings
from edged.errors import InvalidArgument, PlanError
from edged.observe.recording import Recorder, replay
from edged.sim import batching
from edged.sim.arrivals import KINDS, Arrivals, generate
from edged.sim.batching import BatchingForm, Generated, on_backbone
from edged.sim.device import DeviceModel, SharedBackbone
from edged.sim.simulator import simulate

POISSON_6 = Path(__file__).parent / "data" / "smooth_poisson_6.json"
SERVICE_S = 0.010


def unbatched(arrivals: Arrivals, lanes: int = 1, speed_up: float = 1.0):
    """A server with a fixed service time and no other delays."""
    times = SharedBackbone((1,), (SERVICE_S,), head_s=0.0)
    device = DeviceModel(times, 1e-9, 1, 0.0, 0.0, lanes=lanes, speed_up=speed_up)
    settings = SchedulerSettings(queue_rows=10**9, staging_rows=10**9, policy="unbatched")
    return simulate(on_backbone(arrivals, settings, device))


BY_POLICY = json.loads(POISSON_6.read_text())["expected"]["by_policy"]


@pytest.mark.parametrize("policy", BY_POLICY)
def test_published_figures_of_a_poisson_load(policy):
    summary = simulate(batching.read(POISSON_6.read_bytes()).scenario(policy)).summary()
    assert {key: summary[key] for key in BY_POLICY[policy]} == pytest.approx(
        BY_POLICY[policy], rel=0.01
    )


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_mean_wait_of_an_m_d_1_queue(load):
    arrivals = generate(
        "poisson", users=1, rate_per_user=load / SERVICE_S, requests=100_000, tasks=1, seed=7
    )
    mean_s = unbatched(arrivals).summary()["mean"] / 1e3
    expected_s = SERVICE_S * (1 + load / (2 * (1 - load)))  # Pollaczek-Khinchine
    assert mean_s == pytest.approx(expected_s, rel=0.03)


def test_a_fixed_rate_below_capacity_never_waits():
    arrivals = generate("fixed", users=1, rate_per_user=90, requests=500, tasks=3, seed=0)
    summary = unbatched(arrivals).summary()
    assert summary["max"] == pytest.approx(SERVICE_S * 1e3)
    assert summary["thr_rps"] == pytest.approx(90)


def test_a_saturated_server_works_at_its_capacity():
    arrivals = generate("fixed", users=1, rate_per_user=300, requests=500, tasks=3, seed=0)
    outcome = unbatched(arrivals)
    assert outcome.summary()["thr_rps"] == pytest.approx(100)
    assert outcome.device_busy_s == pytest.approx(5.0)
    two_lanes = unbatched(arrivals, lanes=2)
    assert two_lanes.summary()["thr_rps"] == pytest.approx(200, rel=1e-3)
    assert two_lanes.device_busy_s == pytest.approx(5.0)


def test_a_lone_batch_has_all_lanes_and_is_faster_by_the_speed_up():
    alone = generate("fixed", users=1, rate_per_user=1, requests=5, tasks=1, seed=0)
    outcome = unbatched(alone, lanes=4, speed_up=2.5)
    assert outcome.summary()["max"] == pytest.approx(SERVICE_S / 2.5 * 1e3)


@pytest.mark.parametrize("kind", KINDS)
def test_arrivals_keep_their_mean_rate(kind):
    arrivals = generate(kind, users=4, rate_per_user=10, requests=40_000, tasks=3, seed=3)
    assert list(arrivals.times_s) == sorted(arrivals.times_s)
    assert 40_000 / arrivals.times_s[-1] == pytest.approx(40, rel=0.06)
    assert set(arrivals.tasks) == {0, 1, 2}


@pytest.mark.parametrize("policy", ["work-conserving", "smooth"])
def test_the_same_seed_gives_the_same_trace_byte_for_byte(policy, tmp_path):
    def trace() -> str:
        file = io.StringIO()
        form = BatchingForm("smooth", arrivals=Generated("bursts", users=9, requests=400, seed=5))
        scenario = form.scenario(policy)
        simulate(scenario, trace=Recorder(file, scenario.settings).turn)
        return file.getvalue()

    first = trace()
    assert first == trace()
    path = tmp_path / "trace.jsonl"
    path.write_text(first)
    assert replay(path) == len(first.splitlines()) - 1


def test_a_deadline_refuses_what_comes_too_late():
    slow = generate("fixed", users=1, rate_per_user=300, requests=300, tasks=1, seed=0)
    device = DeviceModel(SharedBackbone((1,), (SERVICE_S,), 0.0), 1e-9, 1, 0.0, 0.0)
    settings = SchedulerSettings(queue_rows=10**9, staging_rows=4, policy="unbatched")
    outcome = simulate(on_backbone(slow, settings, device, deadline_s=0.1))
    assert outcome.summary()["max"] <= 100.0
    assert 0.4 < outcome.summary()["refused"] < 0.7


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"type": "smooth"}', "either arrivals_ms"),
        ('{"type": "smooth", "arrivals_ms": [2, 1]}', "ascending"),
        ('{"type": "smooth", "arrivals_ms": [1], "tasks": [0, 1]}', "2 entries for 1"),
        ('{"type": "smooth", "arrivals_ms": [-1]}', r"arrivals_ms\[0\]"),
        ('{"type": "smooth", "arrivals_ms": [1], "profile": {"B": [2, 1], "t_ms": [1, 2]}}', "asc"),
        ('{"type": "smooth", "arrivals": {"kind": "tides", "users": 1}}', "tides"),
        ('{"type": "j3o"}', "type"),
    ],
)
def test_a_bad_scenario_is_named(text, says):
    with pytest.raises((PlanError, InvalidArgument), match=says):
        simulate(batching.read(text.encode()).scenario())


def test_a_recorded_run_can_be_decided_by_another_policy(tmp_path):
    path = tmp_path / "run.jsonl"
    scenario = batching.read(POISSON_6.read_bytes()).scenario("wc")
    with path.open("w") as file:
        simulate(scenario, trace=Recorder(file, scenario.settings).turn)
    again = batching.of_recording(path).scenario("wc")
    assert simulate(again).summary()["p50"] == pytest.approx(
        simulate(scenario).summary()["p50"], rel=1e-6
    )

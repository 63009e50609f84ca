"""SMOOTH on a device that several backbones share, and with that device's measured times."""

from __future__ import annotations

import math

import pytest

from edged.core.batches.policies import GroupView
from edged.core.events import (
    Answer,
    Arrived,
    BatchDone,
    Command,
    DeviceUp,
    Event,
    Part,
    Prepared,
    Request,
    Run,
)
from edged.core.scheduler import Scheduler
from edged.core.settings import SchedulerSettings
from edged.policies import find
from edged.sim.arrivals import generate
from edged.sim.device import DeviceModel, SharedBackbone, SimulatedDevice
from edged.sim.engine import Engine
from tests.core.helpers import Checked, arrived
from tests.core.test_batching import TABLE_II

BACKBONES = 3
BATCHES = SharedBackbone(TABLE_II.rows, TABLE_II.time_s)
DEVICE = DeviceModel(BATCHES)


def mean_latency_s(policy: str, kind: str) -> float:
    """Three backbones of Table II on one device, each asked for 30 times a second for 20 s."""
    arrivals = generate(kind, users=9, rate_per_user=10, requests=1800, tasks=BACKBONES, seed=0)
    answered_s: dict[int, float] = {}

    def note(now: float, event: Event, commands: list[Command]) -> None:
        answered_s.update({c.rid: now for c in commands if isinstance(c, Answer)})

    rows = 10**6
    limits = SchedulerSettings(
        queue_rows=rows, staging_rows=rows, policy=policy, useful_batches=False
    )
    engine = Engine(Scheduler(limits, policy=find(policy)), SimulatedDevice(DEVICE), note)
    costs = tuple(BATCHES.cost(f"backbone-{number}") for number in range(BACKBONES))
    engine.tell(DeviceUp(costs, preparers=DEVICE.prepare_workers), 0.0)
    for rid, at in enumerate(arrivals.times_s):
        engine.advance(at)
        part = Part(f"backbone-{rid % BACKBONES}", ("head",))
        engine.tell(Arrived(Request(rid, rid % 9, (part,))), at)
    engine.finish()
    waits_s = [answered_s[rid] - at for rid, at in enumerate(arrivals.times_s)]
    return math.fsum(waits_s) / len(waits_s)


@pytest.mark.parametrize("kind", ["fixed", "poisson"])
@pytest.mark.parametrize("policy", ["smooth", "smooth-keep", "smooth-timeout"])
def test_three_backbones_that_share_a_device_do_not_drown(policy, kind):
    assert mean_latency_s(policy, kind) < 2 * mean_latency_s("work-conserving", kind)


@pytest.mark.parametrize(("others_rows_s", "rows"), [(math.inf, 4), (110, 4), (109, 16)])
def test_a_stage_that_carries_less_than_the_load_makes_no_size_feasible(others_rows_s, rows):
    view = GroupView(16, 16, 110, TABLE_II, 0.0, others_rows_s)
    assert find("smooth").rule()(view) == rows


@pytest.mark.parametrize(
    ("prepare_s", "head_s", "rows"), [(0.003, 0.0, 1), (0.1, 0.0, 16), (0.003, 0.1, 16)]
)
def test_the_times_of_the_other_stages_are_measured_on_this_device(prepare_s, head_s, rows):
    """At 50 rows/s, with two threads that prepare, and heads beyond the measured times."""
    scheduler = Checked(policy="smooth", useful_batches=False, max_batch_rows=16)
    scheduler(DeviceUp((TABLE_II,), preparers=2))
    last_rows = 0
    for rid in range(200):
        now = rid * 0.02
        commands = scheduler(arrived(rid), now)
        commands += scheduler(Prepared(rid, prepare_s), now)
        for run in [command for command in commands if isinstance(command, Run)]:
            last_rows = run.rows
            known_s = dict(zip(TABLE_II.rows, TABLE_II.time_s, strict=True))[run.rows]
            scheduler(BatchDone(run.batch, known_s + run.rows * head_s, 0.0), now + 0.001)
    assert last_rows == rows

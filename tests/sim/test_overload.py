"""More load than the device carries: goodput, deadlines and fair shares, in virtual time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edged.core.settings import SchedulerSettings
from edged.sim.arrivals import Arrivals, generate
from edged.sim.batching import BatchingForm, on_backbone
from edged.sim.simulator import simulate

TABLE_II = BatchingForm("smooth").device(exclusive=False)
CAPACITY = 16 / 0.10089  # requests/s of Table II with three heads in each batch of 16


def settings(staging_rows: int = 48) -> SchedulerSettings:
    return SchedulerSettings(queue_rows=256, staging_rows=staging_rows, max_batch_rows=16)


@pytest.mark.parametrize("kind", ["poisson", "bursts", "lognormal-1.8"])
def test_three_times_the_capacity_costs_little_goodput_and_no_deadline(kind):
    arrivals = generate(kind, users=1, rate_per_user=3 * CAPACITY, requests=20_000, tasks=3, seed=1)
    outcome = simulate(on_backbone(arrivals, settings(), TABLE_II, deadline_s=0.5))
    served = [s for s in outcome.latency_s if s is not None]
    assert len(served) / outcome.answered_s[-1] >= 0.9 * CAPACITY
    assert np.percentile(served, 99) <= 0.5 + TABLE_II.network_s


@pytest.mark.parametrize("staging_rows", [32, 48, 64])
def test_a_flood_leaves_the_others_their_fair_share(staging_rows):
    seconds, others = 20.0, 4
    share = CAPACITY / (others + 1)
    flood = generate(
        "poisson", users=1, rate_per_user=5 * CAPACITY, requests=round(5 * CAPACITY * seconds),
        tasks=3, seed=1,
    )  # fmt: skip
    calm = [
        generate(
            "poisson", users=1, rate_per_user=share, requests=round(share * seconds),
            tasks=3, seed=10 + i,
        )
        for i in range(others)
    ]  # fmt: skip
    rows = sorted(
        (at, task, client)
        for client, arrivals in enumerate([flood, *calm])
        for at, task in zip(arrivals.times_s, arrivals.tasks, strict=True)
    )
    times, tasks, clients = zip(*rows, strict=True)
    all_arrivals = Arrivals(times, tasks, clients)
    outcome = simulate(on_backbone(all_arrivals, settings(staging_rows), TABLE_II, deadline_s=0.5))
    served: Counter[int] = Counter(
        client
        for client, latency_s in zip(clients, outcome.latency_s, strict=True)
        if latency_s is not None
    )
    for client in range(1, others + 1):
        assert served[client] >= 0.8 * share * seconds
    assert sum(served.values()) >= 0.9 * CAPACITY * seconds

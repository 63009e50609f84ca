"""The numbers of metrics as values: what the front counts, and a process of its own makes text of.

The numbers are counted in the front, by its one thread: `statistics` counts requests and batches,
`blocks` counts blocks. They become text in `exporter`: a scrape costs the front what it takes to
write a `MetricsSnapshot`. Pure.

What is counted is bounded by the store. A task or a block that a reload takes away leaves with its
numbers; nothing is counted by client or by request.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import msgspec
from msgspec import field

from edged.typeinfo import describe
from edged.wire import ServerStatistics

# Upper bounds of the buckets of histograms; above the last one is one bucket more.
SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
TASKS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
AGES_S = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0)


class Distribution(msgspec.Struct, array_like=True):
    """The content of a histogram. `counts` are of single buckets; they do not add up the others."""

    counts: list[int]
    sum: float = 0.0

    def add(self, value: float, bounds: tuple[float, ...], count: int = 1) -> None:
        """Add a value, `count` times."""
        self.counts[bisect_left(bounds, value)] += count
        self.sum += value * count


def distribution(
    bounds: tuple[float, ...], values: Iterable[tuple[float, int]] = ()
) -> Distribution:
    """`values`, each with the number of times that it occurs, in buckets of these bounds."""
    made = Distribution([0] * (len(bounds) + 1))
    for value, count in values:
        made.add(value, bounds, count)
    return made


def _times() -> Distribution:
    return distribution(SECONDS)


class TaskMetrics(msgspec.Struct, array_like=True):
    """Requests for one task; one for three tasks counts in all three."""

    answered: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # number of requests, by code
    rows: int = 0  # those of answered requests
    batches: int = 0  # that had a row of the task
    open: int = 0  # requests that have arrived and have no answer
    # Times of answered requests, in seconds.
    request: Distribution = field(default_factory=_times)
    queue: Distribution = field(default_factory=_times)
    prepare: Distribution = field(default_factory=_times)
    infer: Distribution = field(default_factory=_times)
    output: Distribution = field(default_factory=_times)


class BlockMetrics(msgspec.Struct, array_like=True):
    """One block of the store."""

    models: int = 0  # that have it
    resident_bytes: int = 0  # held on the device; 0: it is not there
    loads: int = 0
    load_s: float = 0.0  # the sum of all loads
    failed_loads: int = 0
    evictions: int = 0  # orders to take it off the device
    runs: int = 0
    rows: int = 0  # the sum of all runs
    run_s: float = 0.0


class LoadMetrics(msgspec.Struct, array_like=True):
    """What comes to the device and leaves it, and who had to wait for that."""

    blocks: dict[str, BlockMetrics] = field(default_factory=dict)  # by id
    # By task: requests that found all blocks of their model on the device, and those that did not.
    hits: dict[str, int] = field(default_factory=dict)
    misses: dict[str, int] = field(default_factory=dict)
    eviction_age_s: Distribution = field(default_factory=lambda: distribution(AGES_S))
    loaded_bytes: int = 0
    evicted_bytes: int = 0


class MetricsSnapshot(msgspec.Struct, array_like=True):
    """All numbers of one scrape."""

    version: str = ""
    server: ServerStatistics = ServerStatistics()
    served_models: int = 0
    unserved_models: int = 0
    rejected: dict[str, int] = field(default_factory=dict)  # requests that were never queued
    memory: dict[str, int] = field(default_factory=dict)  # bytes, by the names of STATISTICS
    tasks: dict[str, TaskMetrics] = field(default_factory=dict)
    batch_rows: Distribution = field(default_factory=lambda: distribution(ROWS))
    batch_tasks: Distribution = field(default_factory=lambda: distribution(TASKS))
    loading: LoadMetrics = field(default_factory=LoadMetrics)


describe(MetricsSnapshot)

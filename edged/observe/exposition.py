"""Metrics in the form of Prometheus: their names, labels and explanations.

Names are those of Triton and OpenVINO Model Server where they mean the same; docs/metrics.md has
the table. Knows no sockets, and not who counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from edged.observe.metrics import (
    AGES_S,
    ROWS,
    SECONDS,
    TASKS,
    BlockMetrics,
    Distribution,
    LoadMetrics,
    MetricsSnapshot,
    TaskMetrics,
)

TIER = "edge"  # this daemon answers everything itself
STATES = ("STARTING", "READY", "RECOVERING", "DRAINING")
_SHORT = 12  # digits of a block's id that people are shown
_LINES = ("fixed", "staging", "workspace", "blocks", "unexplained")  # they add up to the total


def families(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    """All metrics, in the order in which they are written."""
    yield from _of_server(snapshot)
    yield from _of_tasks(snapshot.tasks)
    yield _histogram("batch_rows", "Rows of a batch.", snapshot.batch_rows, ROWS)
    yield _histogram("batch_tasks", "Tasks that share a batch.", snapshot.batch_tasks, TASKS)
    yield from _of_blocks(snapshot.loading.blocks)
    yield from _of_loading(snapshot.loading)
    yield from _of_memory(snapshot.memory)


def _of_server(snapshot: MetricsSnapshot) -> Iterator[Metric]:
    server = snapshot.server
    ready = server.state == "READY"
    yield _gauges("build_info", "Version of the daemon.", ["version"], [([snapshot.version], 1)])
    yield _gauge("ready", "1 when a pinned or default model can be answered.", ready)
    states = [([state], state == server.state) for state in STATES]
    yield _gauges("state", "1 for the state that the daemon is in.", ["state"], states)
    yield _gauge("uptime_seconds", "Time since the daemon started.", server.uptime_s)
    yield _counter("worker_restarts", "Device workers that have ended.", server.worker_restarts)
    yield _gauge("clients", "Clients heard of lately, or waiting for answers.", server.clients)
    yield _gauge("current_requests", "Accepted requests without an answer.", server.in_flight)
    yield _gauge("queued_requests", "Those of them that are not on the device.", server.queued)
    models = [(["served"], snapshot.served_models), (["unserved"], snapshot.unserved_models)]
    yield _gauges("models", "Models of the store.", ["state"], models)
    rejected = [([code], count) for code, count in snapshot.rejected.items()]
    yield _counters(
        "requests_rejected",
        "Requests refused before they were queued: malformed, for unknown tasks, above a limit.",
        ["reason"],
        rejected,
    )


def _of_tasks(tasks: Mapping[str, TaskMetrics]) -> Iterator[Metric]:
    labels = ["task", "tier"]
    yield _counters(
        "inference_request_success",
        "Requests answered with results.",
        labels,
        [([name, TIER], task.answered) for name, task in tasks.items()],
    )
    yield _counters(
        "inference_request_failure",
        "Accepted requests answered with an error, by its code.",
        [*labels, "reason"],
        [
            ([name, TIER, code], count)
            for name, task in tasks.items()
            for code, count in task.refused.items()
        ],
    )
    pending = [([name], task.open) for name, task in tasks.items()]
    help = "Accepted requests without an answer."
    yield _gauges("inference_pending_request_count", help, ["task"], pending)
    for name, help, number in _PER_TASK:
        samples = [([task], number(of)) for task, of in tasks.items()]
        yield _counters(name, help, ["task"], samples)
    for name, help, durations in _TIMES:
        histogram = HistogramMetricFamily(f"edged_{name}_seconds", help, labels=["task"])
        for task, of in tasks.items():
            _fill(histogram, [task], durations(of), SECONDS)
        yield histogram


_PER_TASK: tuple[tuple[str, str, Callable[[TaskMetrics], int]], ...] = (
    ("inference_count", "Rows of answered requests.", lambda task: task.rows),
    ("inference_exec_count", "Batches with a row of the task.", lambda task: task.batches),
)

_TIMES: tuple[tuple[str, str, Callable[[TaskMetrics], Distribution]], ...] = (
    ("inference_request_duration", "From receipt to reply.", lambda task: task.request),
    ("inference_queue_duration", "Waiting.", lambda task: task.queue),
    ("inference_compute_input_duration", "Decoding, resizing.", lambda task: task.prepare),
    ("inference_compute_infer_duration", "In batches.", lambda task: task.infer),
    ("inference_compute_output_duration", "Softmax, classes, copies.", lambda task: task.output),
)


def _of_blocks(blocks: Mapping[str, BlockMetrics]) -> Iterator[Metric]:
    short = {id[:_SHORT]: block for id, block in blocks.items()}
    yield _summary(
        "block_run_duration_seconds",
        "Runs of a block in batches.",
        [([id], block.runs, block.run_s) for id, block in short.items()],
    )
    yield _summary(
        "block_load_duration_seconds",
        "Loads of a block, without the wait for others.",
        [([id], block.loads, block.load_s) for id, block in short.items()],
    )
    for name, help, number in _PER_BLOCK:
        samples = [([id], number(block)) for id, block in short.items()]
        yield _counters(name, help, ["block"], samples)
    resident = [([id], block.resident_bytes) for id, block in short.items()]
    yield _gauges("block_resident_bytes", "Bytes on the device; 0: away.", ["block"], resident)
    models = [([id], block.models) for id, block in short.items()]
    yield _gauges("block_models", "Models that share the block.", ["block"], models)


_PER_BLOCK: tuple[tuple[str, str, Callable[[BlockMetrics], int]], ...] = (
    ("block_rows", "Rows that have run through a block.", lambda block: block.rows),
    ("block_load_failures", "Loads of a block that failed.", lambda block: block.failed_loads),
    ("block_evictions", "Times that a block left the device.", lambda block: block.evictions),
)


def _of_loading(loading: LoadMetrics) -> Iterator[Metric]:
    for name, help, counts in (
        ("model_hits", "Requests whose model was on the device.", loading.hits),
        ("model_misses", "Requests whose model had to be loaded.", loading.misses),
    ):
        yield _counters(name, help, ["task"], [([task], count) for task, count in counts.items()])
    yield _counter("loaded_bytes", "Bytes of all loads.", loading.loaded_bytes)
    yield _counter("evicted_bytes", "Bytes of all evictions.", loading.evicted_bytes)
    help = "Time that an evicted block was on the device."
    yield _histogram("block_age_at_eviction_seconds", help, loading.eviction_age_s, AGES_S)


def _of_memory(memory: Mapping[str, int]) -> Iterator[Metric]:
    """What is not known at the moment is left out."""
    lines = [([line], memory[f"{line}_bytes"]) for line in _LINES if f"{line}_bytes" in memory]
    help = "The account of the memory; its lines add up to edged_memory_total_bytes."
    yield _gauges("memory_bytes", help, ["line"], lines)
    for name, help, key in _MEMORY:
        known = [memory[key]] if key in memory else []
        yield _gauges(name, help, [], [([], size) for size in known])
    processes = [
        ([name], memory[f"{name}_pss_bytes"])
        for name in ("front", "worker")
        if f"{name}_pss_bytes" in memory
    ]
    help = "Proportional set size, as measured last."
    yield _gauges("process_pss_bytes", help, ["process"], processes)


_MEMORY = (
    ("memory_total_bytes", "What the account adds up to.", "total_bytes"),
    ("memory_budget_bytes", "What the account stays within.", "budget_bytes"),
    ("memory_buffer_bytes", "The part of the workspace between blocks.", "buffer_bytes"),
    ("clients_shared_bytes", "Memory that clients share, and own.", "clients_shared_bytes"),
)


# --- families of samples --------------------------------------------------------------------------

_Samples = Iterable[tuple[list[str], float]]


def _gauge(name: str, help: str, value: float) -> Metric:
    return _gauges(name, help, [], [([], value)])


def _counter(name: str, help: str, value: float) -> Metric:
    return _counters(name, help, [], [([], value)])


def _gauges(name: str, help: str, labels: list[str], samples: _Samples) -> Metric:
    family = GaugeMetricFamily(f"edged_{name}", help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counters(name: str, help: str, labels: list[str], samples: _Samples) -> Metric:
    family = CounterMetricFamily(f"edged_{name}", help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _summary(name: str, help: str, samples: Iterable[tuple[list[str], int, float]]) -> Metric:
    family = SummaryMetricFamily(f"edged_{name}", help, labels=["block"])
    for values, count, total in samples:
        family.add_metric(values, count, total)
    return family


def _histogram(
    name: str, help: str, distribution: Distribution, bounds: tuple[float, ...]
) -> Metric:
    family = HistogramMetricFamily(f"edged_{name}", help, labels=[])
    _fill(family, [], distribution, bounds)
    return family


def _fill(
    family: HistogramMetricFamily,
    labels: list[str],
    distribution: Distribution,
    bounds: tuple[float, ...],
) -> None:
    upper = [*map(str, bounds), "+Inf"]
    counts = accumulate(distribution.counts)
    family.add_metric(labels, list(zip(upper, counts, strict=True)), distribution.sum)

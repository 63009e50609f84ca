"""What metrics count, and the text that scrapers get."""

from __future__ import annotations

import timeit
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from edged import wire
from edged.config import decode
from edged.core.events import Prepared
from edged.link import messages as link
from edged.observe.exposition import families
from edged.observe.metrics import MetricsSnapshot
from tests.daemon.samples import BACKBONE, Bench, batch_done, catalog, infer, manifest
from tests.observe.scrapes import Scrape

CONFIG = decode(b"[metrics]\nbind = '127.0.0.1:9464'")
PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


def text_of(snapshot: MetricsSnapshot) -> str:
    class Numbers:
        def collect(self):
            return families(snapshot)

    registry = CollectorRegistry()
    registry.register(Numbers())
    return generate_latest(registry).decode()


def scraped(bench: Bench) -> Scrape:
    encoded = bench.front.metrics(bench.now)
    return Scrape(text_of(msgspec.msgpack.decode(encoded, type=MetricsSnapshot)))


@pytest.fixture
def bench() -> Bench:
    bench = Bench(CONFIG)
    bench.worker_is_ready()
    return bench


def test_requests_are_counted_by_task_outcome_and_reason(bench):
    for id, tasks in (("r1", ["flowers"]), ("r2", ["food"]), ("r3", ["flowers", "food"])):
        bench.ask(infer(id, *tasks))
    bench.ask(infer("r4", "food"))
    bench.ask(wire.Cancel("c", "r4"))
    bench.finish()
    bench.ask(infer("r5", "birds"))
    bench.front.on_request(b"client-2", [b"EDG1\x01", b"no map"], bench.now)
    found = scraped(bench)
    assert found.by("edged_inference_request_success_total", "task") == {"flowers": 2, "food": 2}
    assert found.total("edged_inference_request_success_total", tier="edge") == 4
    failures = "edged_inference_request_failure_total"
    assert found.total(failures, task="food", reason="CANCELLED") == 1
    assert found.by(failures, "task") == {"food": 1}
    rejected = found.by("edged_requests_rejected_total", "reason")
    assert rejected == {"NOT_FOUND": 1, "INVALID_ARG": 1}
    assert found.total("edged_inference_pending_request_count") == 0
    assert found.total("edged_inference_request_duration_seconds_count", task="flowers") == 2
    assert found.total("edged_model_hits_total") == 5


def test_times_and_batches_are_histograms(bench):
    for id in ("r1", "r2", "r3"):
        bench.ask(infer(id, "flowers" if id != "r3" else "food"))
    bench.finish()
    found = scraped(bench)
    infer_s = "edged_inference_compute_infer_duration_seconds"
    assert found.total(f"{infer_s}_sum", task="flowers") == pytest.approx(2 * 2e-3)
    assert found.total(f"{infer_s}_bucket", task="flowers", le="0.001") == 0
    assert found.total(f"{infer_s}_bucket", task="flowers", le="0.0025") == 2
    assert found.total(f"{infer_s}_bucket", task="flowers", le="+Inf") == 2
    assert found.total("edged_batch_rows_sum") == 3
    assert found.total("edged_batch_rows_count") == 2
    assert found.total("edged_batch_tasks_bucket", le="1.0") == 1
    assert found.total("edged_inference_exec_count_total", task="food") == 1


def test_time_is_told_by_block_where_the_worker_says_what_is_true(bench):
    bench.ask(infer("r1"))
    bench.front.on_worker(Prepared(bench.worker.pop().rid, 1e-3), (), bench.now)
    outputs, tensors = batch_done(bench.worker.pop())
    runs = (
        link.BlockRun(BACKBONE, 1, 1500),
        link.BlockRun("cd" * 32, 1, 7),  # no block of this store
        link.BlockRun(BACKBONE, 1, -5),
        link.BlockRun(BACKBONE, 1, 10**18),
    )
    bench.front.on_worker(msgspec.structs.replace(outputs, blocks=runs), tensors, bench.now)
    found = scraped(bench)
    assert found.total("edged_block_run_duration_seconds_sum", block=BACKBONE[:12]) == 0.0015
    assert found.by("edged_block_run_duration_seconds_count", "block") == {BACKBONE[:12]: 1}
    assert found.total("edged_block_models", block=BACKBONE[:12]) == 2


def test_a_request_that_comes_before_its_model_is_a_miss():
    bench = Bench(CONFIG)
    bench.ask(infer("r1"))
    assert scraped(bench).total("edged_model_misses_total", task="flowers") == 1
    bench.worker_is_ready()
    assert scraped(bench).total("edged_block_resident_bytes", block=BACKBONE[:12]) == 10
    bench.ask(infer("r2"))
    bench.front.on_worker_lost("it died", bench.now)
    bench.ask(infer("r3"))
    found = scraped(bench)
    assert found.total("edged_model_misses_total", task="flowers") == 2
    assert found.total("edged_model_hits_total", task="flowers") == 1
    assert found.total("edged_block_resident_bytes") == 0
    assert found.total("edged_worker_restarts_total") == 1
    assert (found.total("edged_ready"), found.total("edged_state", state="RECOVERING")) == (0, 1)


def test_an_unloaded_block_is_an_eviction_with_an_age(bench):
    bench.now = 30.0
    bench.ask_admin(wire.ModelSet("a", "flowers", "unloaded"))
    head = b"flowers".hex().ljust(64, "0")[:12]
    found = scraped(bench)
    assert found.by("edged_block_evictions_total", "block") == {head: 1}
    assert found.total("edged_block_age_at_eviction_seconds_sum") == pytest.approx(30.0)
    assert found.total("edged_evicted_bytes_total") == 10
    assert found.total("edged_loaded_bytes_total") == 30


def test_memory_is_the_account_line_by_line_as_measured_last(bench):
    assert not [s for s in scraped(bench).samples if s.name == "edged_memory_bytes"]
    bench.front.on_sweep(bench.now)
    measure = next(order for order in bench.worker if isinstance(order, link.Measure))
    bench.front.on_worker(link.WorkerMemory(measure.n, 7 << 20, 8, 9), (), bench.now)
    found = scraped(bench)
    assert found.total("edged_memory_bytes") == found.total("edged_memory_total_bytes")
    assert found.total("edged_process_pss_bytes", process="worker") == 7 << 20
    assert found.total("edged_memory_budget_bytes") > 0
    assert not bench.sent, "a scrape asks the worker nothing"
    bench.front.on_worker_lost("it died", bench.now)
    bench.worker_is_ready()
    processes = [s.labels["process"] for s in scraped(bench).samples if "_pss_" in s.name]
    assert processes == ["front"], "the figures of a worker that has ended are not the next one's"


def test_series_are_those_of_the_store_however_many_clients_and_requests(bench):
    before = {(s.name, *sorted(s.labels.items())) for s in scraped(bench).samples}
    for number in range(50):
        bench.ask(infer(f"r{number}", "flowers"), client=b"client-%d" % number)
        bench.ask(infer(f"u{number}", f"unknown{number}"), client=b"client-%d" % number)
    bench.finish()
    found = {(s.name, *sorted(s.labels.items())) for s in scraped(bench).samples}
    rejected = ("edged_requests_rejected_total", ("reason", "NOT_FOUND"))
    assert found - before == {rejected}


def test_names_are_those_of_the_page():
    described = {metric.name for metric in families(MetricsSnapshot())}
    assert {name.removeprefix("edged_") for name in described}
    missing = [name for name in described if f"`{name}" not in PAGE]
    assert not missing
    bench = Bench(CONFIG)
    names = {family.name for family in scraped(bench).families}
    assert names <= described


def test_a_scrape_of_a_hundred_tasks_takes_the_front_a_millisecond_or_two():
    """Other programs may disturb some of the trials, never speed one up."""
    bench = Bench(CONFIG, catalog(*(manifest(f"task{n}") for n in range(100))))
    bench.worker_is_ready()
    for n in range(100):
        bench.ask(infer(f"r{n}", f"task{n}"))
    bench.finish()
    took_s = min(timeit.repeat(lambda: bench.front.metrics(bench.now), number=1, repeat=20))
    assert took_s < 2e-3

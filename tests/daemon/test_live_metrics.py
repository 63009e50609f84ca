"""Metrics of the real daemon: they agree with what clients have seen, and outlive what ends."""

from __future__ import annotations

import random
import signal
import socket
import stat
from collections import Counter
from pathlib import Path

from edged.client import Client, Pending, Retry
from edged.client.admin import Admin
from edged.errors import EdgedError
from tests.colors import picture, put_tasks, write_store
from tests.daemon.live import Daemon, until
from tests.observe.scrapes import Scrape, scrape
from tests.processes import suspend

PATH = "metrics.sock"
TASKS = (["color"], ["weakest"], ["color", "weakest"])


def settings(folder: Path, more: str = "") -> str:
    return f'{more}[metrics]\nbind = "{folder}/{PATH}"\n'


def test_counters_agree_with_the_clients_count_through_a_death_and_a_reload(start, tmp_path):
    """To the request: answered, refused with each code, taken back, and never queued."""
    store = write_store(tmp_path / "own")
    more = "backend = 'fake'\noptions = {run_us = 500}\n[scheduler]\nqueue_rows = 40\n"
    daemon = start(store=store, settings=settings(tmp_path, more))
    daemon.wait_for("ready: ")
    random.seed(4)
    answered, refused, rejected = Counter(), Counter(), Counter()
    once = Retry(attempts=1)  # so that each outcome is that of one message
    with Client(daemon.endpoint, retry=once) as client, Admin(daemon.admin) as admin:
        pending = taken_back(daemon, client)
        for number in range(300):
            asked = random.choice([*TASKS, ["birds"]] if number % 10 == 0 else TASKS)
            image = picture(number % 256, 1, 2) if number % 17 else b"\x89PNG\r\n\x1a\n no picture"
            pending.append((asked, client.submit(image, asked)))
            if number == 100:
                assert client.live()  # so that there is something to lose
                daemon.worker().kill()
            if number == 200:
                put_tasks(store, weakest=-2.0)
                until(lambda: daemon.log().count("ready: ") == 2)
                assert admin.reload().changed == ("weakest",)
        for asked, one in pending:
            try:
                one.result()
            except EdgedError as error:
                (rejected if asked == ["birds"] else refused).update(
                    (task, error.code.value) for task in asked
                )
            else:
                answered.update(asked)
        until(lambda: client.statistics().server.in_flight == 0)
        found, said = scrape(tmp_path / PATH), client.statistics()
    assert sum(answered.values()) > 100
    assert {code for _, code in refused} >= {"CANCELLED", "INVALID_ARG"}
    assert found.by("edged_inference_request_success_total", "task") == answered
    assert failures(found) == refused
    assert found.by("edged_requests_rejected_total", "reason") == {
        "NOT_FOUND": rejected["birds", "NOT_FOUND"]
    }
    assert found.total("edged_worker_restarts_total") == 1
    # STATISTICS counts apart from metrics, and comes to the same.
    for task in said.tasks:
        assert task.success.count == answered[task.name]
        assert task.fail.by_code == {c: n for (t, c), n in refused.items() if t == task.name}
        assert task.windows[1].answered == answered[task.name]
        batches = found.total("edged_inference_exec_count_total", task=task.name)
        assert task.execution_count == batches
    assert sum(batch.count for batch in said.batches) == found.total("edged_batch_rows_count")
    assert found.total("edged_block_run_duration_seconds_count") > 0
    assert stat.S_IMODE((tmp_path / PATH).stat().st_mode) == 0o660
    assert daemon.stop() == 0
    assert not (tmp_path / PATH).exists()


def taken_back(daemon: Daemon, client: Client) -> list[tuple[list[str], Pending]]:
    """Requests that the daemon has, and has not answered, when they are cancelled."""
    suspend(daemon.worker())
    pending = [(asked, client.submit(picture(1, 2, 3), asked)) for asked in TASKS]
    assert client.live()
    assert all(one.cancel() for _, one in pending)
    daemon.worker().resume()
    return pending


def failures(found: Scrape) -> Counter[tuple[str, str]]:
    return +Counter(
        {
            (sample.labels["task"], sample.labels["reason"]): int(sample.value)
            for sample in found.samples
            if sample.name == "edged_inference_request_failure_total"
        }
    )


def test_the_process_of_metrics_is_replaced_and_ends_with_the_front(start):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    daemon = start(settings=f"backend = 'fake'\n[metrics]\nbind = '127.0.0.1:{port}'\n")
    daemon.wait_for("ready: ")
    assert f"metrics at tcp://127.0.0.1:{port}, where every account of this machine" in daemon.log()
    with Client(daemon.endpoint) as client:
        client.infer(picture(1, 2, 3), ["color"])
    first = daemon.exporter()
    first.send_signal(signal.SIGTERM)  # as systemd sends it to all: the front decides
    assert scrape(port).total("edged_ready") == 1
    first.kill()
    daemon.wait_for("the process that answers scrapes is started again")
    assert scrape(port).total("edged_inference_count_total", task="color") == 1
    second = daemon.exporter()
    assert second.pid != first.pid
    daemon.process.kill()
    daemon.wait()
    second.wait(30)
    with socket.create_server(("127.0.0.1", port)):
        pass  # the address is free again


def test_a_port_that_is_taken_is_named_at_the_start(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = start(settings=f"backend = 'fake'\n[metrics]\nbind = '{address}'\n")
        assert daemon.wait() == 1
    assert f"cannot listen at tcp://{address}: Address already in use" in daemon.log()

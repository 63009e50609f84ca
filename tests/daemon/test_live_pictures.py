"""Pictures that are small as files and large as work, beside a client who sends ordinary ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from edged.client import Client
from edged.errors import DeadlineExceeded, EdgedError, ResourceExhausted
from tests.colors import picture, png
from tests.daemon.live import PATIENCE_S, Daemon, until
from tests.pictures.making import png_of_zeros, progressive_of_zeros

BUDGET_BYTES = 600_000_000


@contextmanager
def innocent(daemon: Daemon) -> Iterator[list[str]]:
    """Someone who asks all the time with a time-out of 2 s; what went wrong with it."""
    wrong: list[str] = []
    answered, ended = threading.Event(), threading.Event()

    def ask() -> None:
        image = png(picture(250, 20, 10))
        with Client(daemon.endpoint, timeout_s=2.0) as client:
            while not ended.wait(0.1):
                try:
                    tensor = client.infer(image, ["color"])["color"].tensor
                except EdgedError as error:
                    wrong.append(str(error))
                    continue
                if not np.allclose(tensor[0] * 255, (250, 20, 10), atol=1e-3):
                    wrong.append(f"{tensor}")
                answered.set()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert answered.wait(PATIENCE_S)
        yield wrong
        answered.clear()
        assert answered.wait(PATIENCE_S)  # still
    finally:
        ended.set()
        thread.join()


def peak_bytes(daemon: Daemon) -> int:
    """The most that front and worker have held, each at its time."""
    total = 0
    for pid in (daemon.process.pid, daemon.worker().pid):
        (line,) = (
            text for text in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in text
        )
        total += int(line.split()[1]) * 1024
    return total


def test_pictures_that_unpack_to_hundreds_of_megabytes_stay_within_the_budget(start) -> None:
    """A budget of 600 MB has 56 for large pictures: one at a time is decoded, or none."""
    daemon = start(settings=f"[memory]\nbudget_bytes = {BUDGET_BYTES}\n")
    bomb, large = png_of_zeros(5792, 5792), png_of_zeros(2400, 2400)
    with Client(daemon.endpoint, timeout_s=60) as client:
        until(lambda: client.ready().ready)
        with innocent(daemon) as wrong:
            pending = [client.submit([bomb] * 16, ["color"]) for _ in range(4)]
            pending += [client.submit([large] * 4, ["color"]) for _ in range(3)]
            for one in pending[:4]:
                with pytest.raises(ResourceExhausted, match="there is memory for"):
                    one.result()
            for one in pending[4:]:
                assert not one.result()["color"].tensor.any()
        assert wrong == []
        account = client.statistics().memory
    assert account["staging_bytes"] > 50_000_000
    assert account["total_bytes"] <= account["budget_bytes"] == BUDGET_BYTES
    assert peak_bytes(daemon) <= BUDGET_BYTES


def test_a_picture_of_thousands_of_scans_is_refused_at_once(start) -> None:
    """Its decoding would take the lanes for minutes."""
    daemon = start()
    bomb = progressive_of_zeros(5120, 880)
    with Client(daemon.endpoint, timeout_s=60) as client:
        until(lambda: client.ready().ready)
        with innocent(daemon) as wrong:
            for _ in range(10):
                with pytest.raises(ResourceExhausted, match="save it as a baseline JPEG"):
                    client.infer(bomb, ["color"])
        assert wrong == []


def test_decoding_ends_with_the_time_out_of_its_request(start) -> None:
    daemon = start()
    many = [png_of_zeros(4000, 4000)] * 16  # seconds
    with Client(daemon.endpoint) as client:
        until(lambda: client.ready().ready)
        worker = psutil.Process(daemon.worker().pid)

        def spent_s() -> float:
            return sum(worker.cpu_times()[:2])

        client.infer(many[:2], ["color"])
        before_s = spent_s()
        client.infer(many[:4], ["color"])
        one_s = (spent_s() - before_s) / 4
        before_s = spent_s()
        with innocent(daemon) as wrong:
            pending = [client.submit(many, ["color"], timeout_s=0.3) for _ in range(6)]
            for one in pending:
                with pytest.raises(DeadlineExceeded):
                    one.result()
            client.infer(many[:1], ["color"])
        assert wrong == []
        # Of 96 pictures those are decoded that were begun in time, and one a thread besides.
        assert spent_s() - before_s < 48 * one_s

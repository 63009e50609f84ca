"""Payloads in shared memory: both clients and the real daemon, whoever of them dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from edged.client import Client
from edged.client.aio import AsyncClient
from tests.daemon.live import Daemon, until

SIDES = (200, 240)  # of images that are worth sharing
COLORS = np.random.default_rng(5).integers(0, 256, (24, 3), np.uint8)


@pytest.fixture
def daemon(start: Callable[..., Daemon]) -> Daemon:
    daemon = start()
    daemon.wait_for("ready: ")
    return daemon


def images() -> list[np.ndarray]:
    return [np.full((*SIDES, 3), color, np.uint8) for color in COLORS]


def check(answers: list[np.ndarray]) -> None:
    for color, scores in zip(COLORS, answers, strict=True):
        np.testing.assert_allclose(scores, color.astype(np.float32) / 255, atol=1e-5)


def shared_bytes(client: Client) -> int:
    return client.statistics().memory["clients_shared_bytes"]


def test_every_client_gets_answers_to_its_own_payloads(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as one, Client(daemon.endpoint) as other:
        for _ in range(2):
            pending = [
                (client.submit(image, ["color"]), image)
                for image in images()
                for client in (one, other)
            ]
            results = [p.result()["color"].tensor[0] for p, _ in pending]
            check(results[0::2])
            check(results[1::2])
        filled = shared_bytes(one)
        assert filled >= 2 * np.prod((*SIDES, 3))
        check([r["color"].tensor[0] for r in one.infer_many(images(), ["color"], in_flight=4)])
        assert shared_bytes(one) == filled  # the same memory again
    assert daemon.stop() == 0


def test_the_array_is_the_callers_again_at_once(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        client.infer(images()[0], ["color"])
        image = np.empty((*SIDES, 3), np.uint8)
        pending = []
        for color in COLORS:
            image[:] = color
            pending.append(client.submit(image, ["color"]))
        check([p.result()["color"].tensor[0] for p in pending])
        assert shared_bytes(client) > 0


def test_the_asyncio_client_shares_too(daemon: Daemon) -> None:
    async def ask() -> tuple[list[np.ndarray], int]:
        async with AsyncClient(daemon.endpoint) as client:
            await client.infer(images()[0], ["color"])
            results = await asyncio.gather(*(client.infer(i, ["color"]) for i in images()))
            memory = (await client.statistics()).memory
            return [result["color"].tensor[0] for result in results], memory["clients_shared_bytes"]

    answers, shared = asyncio.run(ask())
    check(answers)
    assert shared > 0


def test_a_worker_that_dies_costs_no_payload(daemon: Daemon) -> None:
    with Client(daemon.endpoint) as client:
        client.infer(images()[0], ["color"])
        pending = [client.submit(image, ["color"]) for image in images()]
        daemon.worker().send_signal(signal.SIGKILL)
        check([p.result()["color"].tensor[0] for p in pending])


def test_no_payload_is_taken_for_another(daemon: Daemon) -> None:
    """Memory for a few payloads only, used again and again, while requests are given up."""
    random = np.random.default_rng(11)
    answered = 0
    with Client(daemon.endpoint, share_bytes=4 * 192 * 1024) as client:
        client.infer(images()[0], ["color"])
        for turn in range(30):
            waiting = []
            for _ in range(8):
                color = random.integers(0, 256, 3, np.uint8)
                image = np.full((*SIDES, 3), color, np.uint8)
                waiting.append((color, client.submit(image, ["color"])))
            if turn == 15:
                daemon.worker().send_signal(signal.SIGKILL)
            for color, pending in waiting:
                if random.random() < 0.2 and pending.cancel():
                    continue
                scores = pending.result()["color"].tensor[0]
                np.testing.assert_allclose(scores, color.astype(np.float32) / 255, atol=1e-5)
                answered += 1
        assert 0 < shared_bytes(client) <= 4 * 192 * 1024
    assert answered > 100


def test_the_next_daemon_shares_memory_of_its_own(
    start: Callable[..., Daemon], daemon: Daemon
) -> None:
    with Client(daemon.endpoint) as client:
        client.infer(images()[0], ["color"])
        check([r["color"].tensor[0] for r in client.infer_many(images(), ["color"])])
        assert daemon.stop() == 0
        next_one = start()
        for _ in range(2):  # until the daemon has been asked
            check([r["color"].tensor[0] for r in client.infer_many(images(), ["color"])])
        assert shared_bytes(client) > 0
        assert next_one.stop() == 0


LEAVES = """
import sys, numpy as np
from edged.client import Client
client = Client(sys.argv[1]).connect()
for _ in range(3):
    client.infer(np.zeros((200, 240, 3), np.uint8), ["color"])
print(client.statistics().memory["clients_shared_bytes"], flush=True)
sys.stdin.read()
"""


def test_memory_of_a_client_that_was_killed_is_given_back(daemon: Daemon) -> None:
    command = [sys.executable, "-c", LEAVES, daemon.endpoint]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as killed:
        assert killed.stdout is not None
        assert int(killed.stdout.readline()) > 0
        assert regions_of(daemon.worker())
        killed.kill()
    with Client(daemon.endpoint) as client:
        until(lambda: not shared_bytes(client))
    until(lambda: not regions_of(daemon.worker()))


def regions_of(process: psutil.Process) -> list[str]:
    """Files in shared memory that it has open."""
    folder = Path(f"/proc/{process.pid}/fd")
    targets = [os.readlink(entry) for entry in folder.iterdir() if entry.is_symlink()]
    return [target for target in targets if target.startswith("/memfd:edged")]


def test_a_daemon_may_be_told_not_to_share(start: Callable[..., Daemon]) -> None:
    daemon = start(server="shared_memory = false")
    daemon.wait_for("ready: ")
    with Client(daemon.endpoint) as client:
        check([r["color"].tensor[0] for r in client.infer_many(images(), ["color"])])
        assert shared_bytes(client) == 0

"""Announced uploads through the real daemon, by both clients."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from edged.client import Client
from edged.client.aio import AsyncClient

# 480 kB at 1 MB/s, in leases of about 0.2 s: each upload needs several.
UPLINK = "[uplink]\nrate_bytes_s = 1_000_000\nmax_lease_s = 0.1\n"
IMAGE = np.full((400, 400, 3), (250, 20, 10), np.uint8)
MEANS = np.array([250, 20, 10], np.float32) / 255


@pytest.fixture
def daemon(start):
    daemon = start(settings=UPLINK)
    daemon.wait_for("ready: ")
    yield daemon
    assert daemon.stop() == 0


def test_uploads_take_turns_and_come_out_whole(daemon):
    with Client(daemon.endpoint) as one, Client(daemon.endpoint) as plain:
        announced = [one.submit(IMAGE, ["color"], announce=True) for _ in range(2)]
        at_once = plain.infer(IMAGE, ["color"])  # who does not announce does not wait
        assert not any(pending.done() for pending in announced)
        results = [pending.result() for pending in announced]
        for result in (at_once, *results):
            np.testing.assert_allclose(result["color"].tensor[0], MEANS, atol=1e-5)
        assert max(result.round_trip_s for result in results) > 2 * IMAGE.nbytes / 1.2e6
        assert {result.sends for result in results} == {1}


def test_the_asyncio_client_announces_too(daemon):
    async def both() -> list[np.ndarray]:
        async with AsyncClient(daemon.endpoint) as client:
            results = await asyncio.gather(
                client.infer(IMAGE, ["color"], announce=True),
                client.infer(IMAGE, ["color", "weakest"], announce=True, link_bytes_s=400_000),
            )
            return [result["color"].tensor[0] for result in results]

    for scores in asyncio.run(both()):
        np.testing.assert_allclose(scores, MEANS, atol=1e-5)


def test_a_client_that_leaves_in_the_middle_gives_its_turn_to_the_next(daemon):
    with Client(daemon.endpoint) as stays:
        with Client(daemon.endpoint) as leaves:
            leaves.submit(IMAGE, ["color"], announce=True)
            leaves.ping()  # messages come in order: the announcement is there
        result = stays.infer(IMAGE, ["color"], announce=True, timeout_s=20.0)
        assert result.sends == 1

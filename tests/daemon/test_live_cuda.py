"""The real daemon around an emulated CUDA device, which is lost again and again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edged.client import Client
from edged.errors import EdgedError
from tests.colors import SIDE
from tests.daemon.live import Daemon, until

CLIENTS, EACH = 3, 12
SETTINGS = (
    'backend = "emulated-cuda"\nhang_timeout_s = 1.0\n'
    "options = {{memory_bytes = 100_000_000, {fault}}}\n"
)
LOST, REFUSED = 719, 801


def frame(number: int) -> np.ndarray:
    """One whose strongest colour is `number` modulo 3, and which no other frame is equal to."""
    image = np.full((1, 3, SIDE, SIDE), 0.1, np.float32)
    image[0, number % 3] = 0.5 + number / 1000
    return image


def ask(endpoint: str, client_number: int) -> tuple[int, int]:
    """Requests with a right answer, and requests with an error; there is no third kind."""
    right = failed = 0
    with Client(endpoint) as client:
        for number in range(EACH):
            image = frame(EACH * client_number + number)
            try:
                tensor = client.infer({"image": image}, ["color"])["color"].tensor
            except EdgedError:
                failed += 1
            else:
                np.testing.assert_allclose(tensor, image.mean(axis=(2, 3)), rtol=1e-5)
                right += 1
    return right, failed


@pytest.mark.parametrize(("fail_at", "number"), [(170, LOST), (240, LOST), (60, REFUSED)])
def test_every_request_is_answered_once_though_the_device_fails(
    start: Callable[..., Daemon], fail_at: int, number: int
) -> None:
    fault = f"fail_at = {fail_at}, fail_number = {number}"
    daemon = start(settings=SETTINGS.format(fault=fault))
    with Client(daemon.endpoint) as watch:
        until(lambda: watch.ready().ready)
        with ThreadPoolExecutor(CLIENTS) as pool:
            found = list(pool.map(lambda n: ask(daemon.endpoint, n), range(CLIENTS)))
        restarts = watch.statistics().server.worker_restarts
    assert sum(right + failed for right, failed in found) == CLIENTS * EACH
    assert sum(right for right, _ in found) >= CLIENTS * EACH // 2
    assert (restarts > 0) == (number == LOST)
    assert ("the device is lost" in daemon.log()) == (number == LOST)
    assert daemon.stop() == 0


def test_every_request_is_answered_once_though_a_kernel_never_ends(
    start: Callable[..., Daemon],
) -> None:
    daemon = start(settings=SETTINGS.format(fault="hang_at = 40"))
    with Client(daemon.endpoint) as watch:
        until(lambda: watch.ready().ready)
        right, failed = ask(daemon.endpoint, 0)
        more, fewer = ask(daemon.endpoint, 1)
        restarts = watch.statistics().server.worker_restarts
    assert right + failed + more + fewer == 2 * EACH
    assert right + more >= EACH
    assert restarts > 0
    assert "hung: " in daemon.log()
    assert daemon.stop() == 0

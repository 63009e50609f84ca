"""A device that hangs, and a client that floods: the real daemon, and an innocent client."""

from __future__ import annotations

import secrets
import threading
from collections import Counter

import numpy as np
import pytest
import zmq

from edged import wire
from edged.client import Client
from edged.errors import EdgedError
from tests.colors import SIDE
from tests.daemon.live import Daemon, until

HANGS = 0.125  # a row that begins with it never ends
OTHERS = 6


def row(first: float) -> np.ndarray:
    image = np.full((1, 3, SIDE, SIDE), 0.5, np.float32)
    image[0, 0, 0, 0] = first
    return image


class Measuring(threading.Thread):
    """Has the worker measure its memory, and say so, again and again."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self._endpoint = daemon.endpoint
        self._ended = threading.Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        with Client(self._endpoint) as client:
            while not self._ended.wait(0.1):
                client.statistics()


def test_a_batch_that_hangs_is_found_while_the_worker_still_talks(start):
    """And who was in it is answered by the next worker."""
    daemon = start(
        settings=f"backend = 'fake'\noptions = {{hang_on = {HANGS}, run_us = 2000}}\n"
        "hang_timeout_s = 1.0\n"
    )
    with Client(daemon.endpoint) as watch, Client(daemon.endpoint) as client:
        until(lambda: watch.ready().ready)
        right = [client.infer({"image": row(n)}, ["color"])["color"].tensor for n in range(OTHERS)]
        hangs = client.submit({"image": row(HANGS)}, ["color"])
        others = [client.submit({"image": row(n)}, ["color"]) for n in range(OTHERS)]
        with Measuring(daemon):
            answers = [other.result()["color"].tensor for other in others]
            np.testing.assert_array_equal(answers, right)
            with pytest.raises(EdgedError, match="ended 2 times with it"):
                hangs.result()
        assert watch.statistics().server.worker_restarts == 2
    assert daemon.log().count("hung: a batch") == 2
    assert daemon.stop() == 0


class Flood(threading.Thread):
    """As many requests out as a client may have, without the client library's manners."""

    def __init__(self, daemon: Daemon, in_flight: int) -> None:
        super().__init__()
        self._endpoint, self._in_flight = daemon.endpoint, in_flight
        self._ended = threading.Event()
        self.replies: Counter[type] = Counter()

    def __enter__(self) -> Flood:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        shape = (1, 3, SIDE, SIDE)
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.setsockopt(zmq.ROUTING_ID, b"\x01" + secrets.token_bytes(8))
            dealer.connect(self._endpoint)
            sent = 0
            while not self._ended.is_set():
                while sent - self.replies.total() < self._in_flight:
                    header = wire.Infer(
                        str(sent),
                        (wire.InputTensor("image", "FP32", shape),),
                        (wire.RequestedOutput("color"),),
                    )
                    sent += 1
                    image = row(2 + sent % 1000)
                    dealer.send_multipart(wire.encode_request(header, [image.tobytes()]))
                if dealer.poll(100):
                    reply = wire.decode_reply(dealer.recv_multipart()).header
                    self.replies[type(reply)] += 1


def test_who_asks_little_is_answered_in_time_beside_a_flood(start):
    """A full batch takes 200 ms, in two blocks; in the order of arrival four would go before it."""
    daemon = start(
        settings="backend = 'fake'\n"
        "options = {run_us = 20000, row_us = 5000}\n"
        "[scheduler]\nmax_batch_rows = 16\nstaging_rows = 48\n"
    )
    pause = threading.Event()
    answered = 0
    with Client(daemon.endpoint) as client:
        until(lambda: client.ready().ready)
        with Flood(daemon, wire.Limits().max_in_flight) as flood:
            until(lambda: flood.replies.total() > 100)
            for number in range(20):
                try:
                    client.infer({"image": row(number)}, ["color"], timeout_s=0.65)
                    answered += 1
                except EdgedError:
                    pass
                pause.wait(0.05)
    assert answered >= 19
    assert set(flood.replies) == {wire.InferReply}

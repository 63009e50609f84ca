"""The server of scrapes: who is slow or talks nonsense troubles nobody else."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from edged.link.channel import Receiver, SharedSender, channel_pair
from edged.observe import exporter
from edged.observe.metrics import MetricsSnapshot
from tests.observe.scrapes import get, scrape


class Front:
    """Answers what the exporter asks, and ends it."""

    def __init__(self) -> None:
        self.asked = 0
        self.channel, theirs = channel_pair()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self.threads = [
            threading.Thread(target=exporter.serve, args=[theirs, listener]),
            threading.Thread(target=self._answer),
        ]
        self._sockets = [self.channel, theirs, listener]
        for thread in self.threads:
            thread.start()

    def _answer(self) -> None:
        receiver, sender = Receiver(self.channel), SharedSender(self.channel)
        while receiver.receive() is not None:
            self.asked += 1
            sender.send([msgspec.msgpack.encode(MetricsSnapshot(version=f"1.{self.asked}"))])

    def close(self) -> None:
        self.channel.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive(), "it does not end with the front"
        for each in self._sockets:
            each.close()


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    monkeypatch.setattr(exporter, "SCRAPE_S", 0.2)
    front = Front()
    yield front
    front.close()


def test_each_scrape_asks_the_front_once(front: Front) -> None:
    assert scrape(front.port).total("edged_build_info", version="1.1") == 1
    assert scrape(front.port).total("edged_build_info", version="1.2") == 1


def test_a_scraper_may_ask_for_some_metrics_alone(front: Front) -> None:
    text = get(front.port, "/metrics?name[]=edged_ready&name[]=edged_clients")
    assert [line.split()[0] for line in text.splitlines() if line[0] != "#"] == [
        "edged_ready",
        "edged_clients",
    ]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /metrics HTTP/1.1\r\nA: ",
        b"\xff\x00\r\n\r\n",
        b"GET //[ HTTP/1.1\r\n\r\n",  # Python's urlparse raises ValueError
    ],
)
def test_a_scraper_that_stalls_is_cut_off_and_others_are_served(front: Front, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", front.port), timeout=30) as stalled:
        stalled.sendall(sent)
        assert scrape(front.port).total("edged_ready") == 0
        while stalled.recv(4096):
            pass  # an error page, and then the end


def test_a_scraper_that_leaves_at_once_is_no_news(front: Front) -> None:
    for _ in range(3):
        socket.create_connection(("127.0.0.1", front.port)).close()
    assert scrape(front.port).total("edged_ready") == 0

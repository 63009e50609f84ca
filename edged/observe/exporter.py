"""The process that answers scrapes: it asks the front for the numbers and makes text of them.

The front starts it as `python -m edged.observe.exporter ASK LISTENER`, two descriptors. To write
the text takes milliseconds of Python, which would hold up requests in the front's process. A
scraper that is slow, or sends nonsense, troubles this process alone.

It ends with the front: then the channel between them is closed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import HTTPServer
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.core import Metric

from edged.errors import Unavailable
from edged.link.channel import Receiver, SharedSender
from edged.observe.exposition import families
from edged.observe.metrics import MetricsSnapshot

SCRAPE_S = 5.0  # a scraper that has not asked and read by then is cut off
_NICE = 10  # serving goes first


class FrontGone(Exception):
    """The front has closed the channel: there is nobody to serve."""


class Numbers:
    """The front's numbers, as a collector of metrics."""

    def __init__(self, front: socket.socket) -> None:
        self._sender = SharedSender(front)
        self._receiver = Receiver(front)

    def collect(self) -> Iterator[Metric]:
        """Raises FrontGone."""
        try:
            self._sender.send([b""])
        except Unavailable:
            raise FrontGone from None
        frames = self._receiver.receive()
        if frames is None:
            raise FrontGone
        return families(msgspec.msgpack.decode(frames[0], type=MetricsSnapshot))

    def describe(self) -> Iterator[Metric]:
        """All metrics that there are; so a scraper may ask for some of them."""
        return families(MetricsSnapshot())


class _Handler(MetricsHandler):
    timeout = SCRAPE_S


class ScrapeServer(HTTPServer):
    """Serves one scrape at a time at a socket that listens already."""

    def __init__(self, listener: socket.socket, handler: type) -> None:
        super().__init__(("", 0), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Bytes that trickle in cannot keep others out for ever."""
        cut = threading.Timer(SCRAPE_S, _cut, [request])
        cut.daemon = True
        cut.start()
        try:
            super().finish_request(request, client_address)
        finally:
            cut.cancel()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that leaves too early, or was cut off, is no news. Anything else is shown: it
        may be a bug, or nonsense that the library does not expect.
        """
        error = sys.exc_info()[1]
        if isinstance(error, FrontGone):
            raise error
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)


def _cut(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def serve(front: socket.socket, listener: socket.socket) -> None:
    """Answer scrapes until the front has closed its end of the channel."""
    registry = CollectorRegistry()
    registry.register(Numbers(front))
    listener.setblocking(False)  # who has connected may have left again
    server = ScrapeServer(listener, _Handler.factory(registry))
    answer: dict[int, Callable[[], None]] = {listener.fileno(): server.handle_request}
    poller = select.poll()
    for descriptor in (front.fileno(), listener.fileno()):
        poller.register(descriptor, select.POLLIN)
    with contextlib.suppress(FrontGone):
        while True:
            for descriptor, _ in poller.poll():
                if descriptor not in answer:  # the front says nothing unasked
                    return
                answer[descriptor]()


def main() -> None:
    # The front decides when to end, also when a terminal or systemd signals the whole group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    front, listener = (socket.socket(fileno=int(text)) for text in sys.argv[-2:])
    serve(front, listener)


if __name__ == "__main__":
    main()

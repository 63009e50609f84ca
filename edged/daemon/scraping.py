"""The front's end of metrics: an address that is scraped, and the process that answers there.

The front gives that process the numbers when it asks, and does nothing else for a scrape. A
process that has ended is started again; the address stays the daemon's meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import socket
import subprocess
from collections.abc import Callable, Container

from edged.children import command
from edged.daemon.peers.listening import listen
from edged.daemon.restarts import Restarts
from edged.endpoints import Endpoint, Ipc
from edged.errors import Unavailable
from edged.link.channel import Garbled, Receiver, Sender, channel_pair

log = logging.getLogger("edged")

_BACKLOG = 8  # scrapers that wait


class Scraping:
    """Owns the address and the process from `open` to `close`."""

    def __init__(
        self,
        address: Endpoint,
        mode: int,
        poller: select.poll,
        numbers: Callable[[float], bytes],
    ) -> None:
        """mode     permissions of the socket, where the address is a path
        numbers  makes an encoded MetricsSnapshot, at a time
        """
        self._address = address
        self._mode = mode
        self._poller = poller
        self._numbers = numbers
        self._listener: socket.socket | None = None
        self._locks: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._restarts = Restarts()
        self._start_at = math.inf

    def open(self, now: float) -> None:
        """Listen, and let scrapers come. Raises Unavailable."""
        self._locks = listen(self._bind, self._address, self._mode, "metrics")
        self._start(now)

    def close(self) -> None:
        """To be called when the daemon ends, also where `open` failed."""
        self._end()
        if self._listener is not None:
            self._listener.close()
            if isinstance(self._address, Ipc):
                with contextlib.suppress(OSError):
                    os.unlink(self._address.path)
        for lock in self._locks:
            os.close(lock)

    def on_ready(self, ready: Container[int], now: float) -> None:
        """Answer the process, if it has asked. `ready`: descriptors, as polled."""
        if self._process is None or self._channel.fileno() not in ready:
            return
        try:
            while self._receiver.receive() is not None:
                self._sender.put([self._numbers(now)])
            self._flush()
        except (Garbled, Unavailable) as error:
            self._lost(str(error), now)
        else:
            if self._receiver.ended:
                self._lost("it has ended", now)

    def sweep(self, now: float) -> None:
        """Each second: start the process again where it has ended."""
        if self._start_at <= now:
            self._start(now)

    def _start(self, now: float) -> None:
        assert self._listener is not None
        ours, theirs = channel_pair()
        fds = (theirs.fileno(), self._listener.fileno())
        run = [*command("edged.observe.exporter"), *map(str, fds)]
        with theirs:
            try:
                self._process = subprocess.Popen(run, stdin=subprocess.DEVNULL, pass_fds=fds)
            except OSError as error:  # no memory, descriptors or processes are left: perhaps later
                ours.close()
                log.error("no metrics: their process cannot be started: %s", error.strerror)
                self._start_at = self._restarts.on_ended(now)
                return
        self._start_at = math.inf
        self._restarts.on_ready(now)
        ours.setblocking(False)
        self._channel = ours
        self._receiver, self._sender = Receiver(ours), Sender(ours)
        self._poller.register(ours, select.POLLIN)

    def _flush(self) -> None:
        """Send what the channel takes, and be told when the rest can follow."""
        self._sender.flush()
        more = select.POLLOUT if self._sender.waits else 0
        self._poller.register(self._channel, select.POLLIN | more)

    def _lost(self, reason: str, now: float) -> None:
        log.error("the process that answers scrapes is started again: %s", reason)
        self._end()
        self._start_at = self._restarts.on_ended(now)

    def _end(self) -> None:
        if self._process is not None:
            self._poller.unregister(self._channel)
            self._channel.close()
            self._process.kill()
            self._process.wait()
            self._process = None

    def _bind(self, address: str, mode: int) -> None:
        """Raises OSError."""
        where = self._address
        target: str | tuple[str, int]
        if isinstance(where, Ipc):
            family, target = socket.AF_UNIX, where.path
        else:
            family = socket.AF_INET6 if where.is_ipv6 else socket.AF_INET
            target = ("" if where.host == "*" else where.address, where.port)
        listener = socket.socket(family, socket.SOCK_STREAM)
        before = os.umask(~mode & 0o777)
        try:
            if isinstance(where, Ipc):
                with contextlib.suppress(FileNotFoundError):  # a daemon that was killed left it
                    os.unlink(where.path)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(before)
        self._listener = listener

"""Signals as bytes on a socket, which a poll loop can wait for among its other descriptors."""

from __future__ import annotations

import signal
import socket

_NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """From `listen` to `close` the signals to end and to reload are read here. For one process."""

    def listen(self) -> None:
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self.descriptor = self._reader.fileno()
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._handlers = {n: signal.signal(n, lambda *_: None) for n in _NUMBERS}

    def read(self) -> bytes:
        """The numbers of the signals that have come, one a byte."""
        return self._reader.recv(64)

    def close(self) -> None:
        """Handle signals as before."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for end in (self._reader, self._writer):
            end.close()

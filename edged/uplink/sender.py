"""One announced upload: which bytes of a request's payload may be sent when. No I/O and no clock.

A token bucket fills at the granted rate from the start of the grant. The bytes that the daemon has
not acknowledged are bounded. So on a link that is slower than the grant the bytes wait here, where
they are counted, and not in buffers on the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edged import wire

CHUNK_S = 0.01  # time that a chunk takes at the granted rate
MIN_CHUNK_BYTES = 4_096
MAX_CHUNK_BYTES = 65_536
BURST_S = 0.05  # a driver that is late may catch up what it missed in this time
WINDOW_S = 0.25  # bytes on their way are at most what the granted rate carries in this time
KEPT_UP = 0.8  # a link that carried a smaller part of the granted rate is slower than was said


class Upload:
    """The payload of one request, and how much of it was sent. Only its session changes it."""

    def __init__(self, payload: Sequence[wire.Buffer], link_bytes_s: int | None) -> None:
        self.sizes = tuple(memoryview(frame).nbytes for frame in payload)
        self.link_bytes_s = link_bytes_s  # rate of the link when it is alone; None: not known
        self._data = memoryview(payload[0] if len(payload) == 1 else b"".join(payload)).cast("B")
        self.begin(in_one_piece=False)

    def begin(self, *, in_one_piece: bool) -> None:
        """Begin the upload anew, without a grant; with `in_one_piece` it needs none."""
        self.in_one_piece = in_one_piece
        self.sent_bytes = 0
        self._acknowledged_bytes = 0
        self._clear_grant()

    @property
    def left_bytes(self) -> int:
        return len(self._data) - self.sent_bytes

    @property
    def is_ready(self) -> bool:
        """Whether all bytes were sent, so that the request itself is next."""
        return self.in_one_piece or not self.left_bytes

    def granted(self, grant: wire.GrantReply, now: float) -> None:
        """The daemon has sent a grant for the rest."""
        if grant.rate_bytes_s is None or grant.lease_us is None:
            self.begin(in_one_piece=True)
            return
        self._rate_bytes_s = float(grant.rate_bytes_s)
        self._start_s = self._since_s = now + grant.start_us / 1e6
        self._end_s = self._start_s + grant.lease_us / 1e6
        self._acknowledged_at_start = self._acknowledged_bytes
        self._tokens = float(self._chunk_bytes)  # the first one goes out at once

    def is_over(self, now: float) -> bool:
        """Whether the grant has ended, so that the rest needs another."""
        return now >= self._end_s

    def end_grant(self, now: float) -> None:
        """Give the grant up. If the link did not keep up with it, remember how fast the link is."""
        if self._rate_bytes_s:
            received_bytes = self._acknowledged_bytes - self._acknowledged_at_start
            measured_bytes_s = received_bytes / max(now - self._start_s, 1e-3)
            if measured_bytes_s < KEPT_UP * self._rate_bytes_s:
                self.link_bytes_s = max(1, int(measured_bytes_s))
        self._clear_grant()

    def acknowledged(self, received_bytes: int) -> None:
        """The daemon has received that many bytes."""
        self._acknowledged_bytes = min(received_bytes, self.sent_bytes)

    def due_at(self, now: float) -> float:
        """When the next message is due: a chunk, the request, or another announcement."""
        if self.is_ready:
            return now
        if not self._rate_bytes_s or not self._fits_window():
            return self._end_s
        self._fill(now)
        wait_s = max(0.0, self._next_bytes() - self._tokens) / self._rate_bytes_s
        return min(max(now, self._start_s) + wait_s, self._end_s)

    def next_chunk(self, now: float) -> tuple[int, memoryview]:
        """Offset and bytes of the chunk that is due."""
        self._fill(now)
        offset, size_bytes = self.sent_bytes, self._next_bytes()
        self._tokens -= size_bytes
        self.sent_bytes += size_bytes
        return offset, self._data[offset : self.sent_bytes]

    def _clear_grant(self) -> None:
        self._rate_bytes_s = 0.0
        self._start_s = self._since_s = self._end_s = math.inf
        self._acknowledged_at_start = self._acknowledged_bytes
        self._tokens = 0.0

    def _next_bytes(self) -> int:
        return min(self._chunk_bytes, self.left_bytes)

    def _fits_window(self) -> bool:
        """Whether one more chunk may be sent before others are acknowledged."""
        window = max(2 * self._chunk_bytes, self._rate_bytes_s * WINDOW_S)
        return self.sent_bytes - self._acknowledged_bytes + self._next_bytes() <= window

    @property
    def _chunk_bytes(self) -> int:
        return min(max(int(self._rate_bytes_s * CHUNK_S), MIN_CHUNK_BYTES), MAX_CHUNK_BYTES)

    def _fill(self, now: float) -> None:
        burst = max(2.0 * self._chunk_bytes, self._rate_bytes_s * BURST_S)
        elapsed_s = max(0.0, now - self._since_s)
        self._tokens = min(self._tokens + elapsed_s * self._rate_bytes_s, burst)
        self._since_s = max(self._since_s, now)

"""One announced upload: which bytes of a request's payload may go out when. No I/O and no clock.

A token bucket fills at the granted rate from the start of the grant. What the daemon has not
acknowledged is bounded, so that on a link which is slower than the grant the bytes wait here, where
they can be counted, and not in buffers on the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edged import wire

CHUNK_S = 0.01  # of the granted rate, that a chunk takes
MIN_CHUNK_BYTES = 4_096
MAX_CHUNK_BYTES = 65_536
BURST_S = 0.05  # of the granted rate, that a driver which came late may catch up
WINDOW_S = 0.25  # of the granted rate, that may be on its way
KEPT_UP = 0.8  # of the granted rate; a link that carried less is slower than was said


class Upload:
    """The payload of one request and how far it is. Its session alone changes it."""

    def __init__(self, payload: Sequence[wire.Buffer], link_bytes_s: int | None) -> None:
        self.sizes = tuple(memoryview(frame).nbytes for frame in payload)
        self.link_bytes_s = link_bytes_s  # what the link carries alone, as far as is known
        self._data = memoryview(payload[0] if len(payload) == 1 else b"".join(payload)).cast("B")
        self.begin(in_one_piece=False)

    def begin(self, *, in_one_piece: bool) -> None:
        """Nothing has been sent, nothing was granted. `in_one_piece`: nothing needs to be."""
        self.in_one_piece = in_one_piece
        self.sent_bytes = 0
        self._acknowledged_bytes = 0
        self._clear_grant()

    @property
    def left_bytes(self) -> int:
        return len(self._data) - self.sent_bytes

    @property
    def is_ready(self) -> bool:
        """Whether the request itself is next."""
        return self.in_one_piece or not self.left_bytes

    def granted(self, grant: wire.GrantReply, now: float) -> None:
        """A grant for what is left has come."""
        if grant.rate_bytes_s is None or grant.lease_us is None:
            self.begin(in_one_piece=True)
            return
        self._rate_bytes_s = float(grant.rate_bytes_s)
        self._start_s = self._since_s = now + grant.start_us / 1e6
        self._end_s = self._start_s + grant.lease_us / 1e6
        self._acknowledged_at_start = self._acknowledged_bytes
        self._tokens = float(self._chunk_bytes)  # the first one goes out at once

    def is_over(self, now: float) -> bool:
        """Whether the grant has ended; what is left needs another."""
        return now >= self._end_s

    def end_grant(self, now: float) -> None:
        """If the link did not keep up with the grant, remember how fast it is."""
        if self._rate_bytes_s:
            received_bytes = self._acknowledged_bytes - self._acknowledged_at_start
            measured_bytes_s = received_bytes / max(now - self._start_s, 1e-3)
            if measured_bytes_s < KEPT_UP * self._rate_bytes_s:
                self.link_bytes_s = max(1, int(measured_bytes_s))
        self._clear_grant()

    def acknowledged(self, received_bytes: int) -> None:
        """So many bytes have reached the daemon."""
        self._acknowledged_bytes = min(received_bytes, self.sent_bytes)

    def due_at(self, now: float) -> float:
        """When something is to be sent: a chunk, the request, or that the grant has ended."""
        if self.is_ready:
            return now
        if not self._rate_bytes_s or not self._may_be_on_its_way():
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

    def _may_be_on_its_way(self) -> bool:
        """Whether one more chunk is not too much."""
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

"""Memory for pictures that are being decoded: a bounded room, taken before a picture is decoded.

What a picture takes is known from its header. Small ones are decoded at once: a quarter of the
room is theirs, a share for each thread. Larger ones take turns in the rest, in the order in which
they come, so that none waits for ever and no small one waits for a large one.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from edged.errors import InvalidArgument, ResourceExhausted
from edged.link.messages import INLINE_PIXELS
from edged.pictures import files
from edged.pictures.header import Bytes, PictureHeader, check, decode_bytes, most_decode_bytes

_BUDGET_SHARE = 8  # of the worker's budget one part in so many, at most


def room_bytes(budget_bytes: int | None, max_pixels: int) -> int:
    """For one of the largest pictures and smaller ones beside it, if the budget has so much.

    `budget_bytes`: of the worker; None: no limit.
    """
    wanted_bytes = 4 * most_decode_bytes(max_pixels) // 3
    return (
        wanted_bytes if budget_bytes is None else min(wanted_bytes, budget_bytes // _BUDGET_SHARE)
    )


class Room:
    """So many bytes for `threads` threads. `take` may be called by any of them."""

    def __init__(self, nbytes: int, threads: int) -> None:
        self.nbytes = nbytes
        self._small_bytes = nbytes // 4 // threads
        self._free_bytes = nbytes - nbytes // 4  # for those that are not small
        self._most_bytes = self._free_bytes
        self._turns: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """Threads that wait for their turn."""
        return len(self._turns)

    @contextlib.contextmanager
    def take(self, nbytes: int) -> Iterator[None]:
        """Hold so many bytes, when there are. Raises ResourceExhausted for what can never fit."""
        if nbytes <= self._small_bytes:
            yield
            return
        if nbytes > self._most_bytes:
            raise ResourceExhausted(
                f"the picture takes {nbytes} bytes to decode, and there is memory for "
                f"{self._most_bytes}: send a smaller picture, or raise memory.budget_bytes"
            )
        turn = object()
        with self._changed:
            self._turns.append(turn)
            self._changed.wait_for(lambda: self._turns[0] is turn and nbytes <= self._free_bytes)
            self._turns.popleft()
            self._free_bytes -= nbytes
            self._changed.notify_all()  # there may be room for the next one as well
        try:
            yield
        finally:
            with self._changed:
                self._free_bytes += nbytes
                self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Decoding:
    """What a worker's pictures may take."""

    max_pixels: int  # of one picture
    room: Room

    def look(self, data: Bytes, *, light: bool) -> PictureHeader:
        """The header of a picture that may be decoded. Raises InvalidArgument or ResourceExhausted.

        light  it was taken for one that a lane can decode, by whoever looked at its beginning
        """
        header = files.look(data)
        check(header, self.max_pixels)
        if light and (header.pixels > INLINE_PIXELS or header.is_whole):
            raise InvalidArgument(
                "the picture is another than when the request was read: leave shared memory as it "
                "is until the answer has come"
            )
        return header

    @contextlib.contextmanager
    def memory(self, header: PictureHeader | None, more_bytes: int) -> Iterator[None]:
        """Hold what it takes to decode a picture, if it is not yet, and `more_bytes`."""
        decoded_bytes = 0 if header is None else decode_bytes(header)
        with self.room.take(decoded_bytes + more_bytes):
            yield

"""The open calls of one client: which of them is sent next, and when each is due. No I/O, no clock.

Knows no messages: the session decides what becomes of a call, and the table keeps the order.
"""

from __future__ import annotations

import math
from itertools import count
from operator import attrgetter

from edged import wire
from edged.client.call import ON_THE_WAY, Call, CallStage, Rank
from edged.client.heap import LazyHeap
from edged.errors import EdgedError


class CallTable:
    """Owns the calls from submission to outcome. Their stage changes here and nowhere else."""

    def __init__(self) -> None:
        self.open: dict[str, Call] = {}  # calls without an outcome, by id
        self.infers_out = 0  # inferences that the daemon may be working on
        self._numbers = count()
        self._ended: list[Call] = []
        # A call that is sent again keeps the place that it got when it was submitted.
        self._to_send: LazyHeap[Call] = LazyHeap(attrgetter("rank", "order"))
        self._timers: LazyHeap[Call] = LazyHeap(attrgetter("wake_s", "order"))

    def add(self, call: Call) -> None:
        """Take a new call in and let it wait to be sent."""
        call.order = next(self._numbers)
        self.open[call.header.id] = call
        self.queue(call)

    def queue(self, call: Call) -> None:
        """Let a call wait to be sent, for the first time or again."""
        self.enter(call, CallStage.QUEUED, call.deadline_s)
        call.rank = Rank.INFER if call.is_infer else Rank.CONTROL
        self._to_send.push(call)

    def queue_chunk(self, call: Call) -> None:
        """Let the next chunk of a call's upload wait to be sent."""
        call.rank = Rank.CHUNK
        self._to_send.push(call)
        self.wake(call, call.deadline_s)

    def enter(self, call: Call, stage: CallStage, wake_s: float) -> None:
        """Move an open call to another stage, and look at it again at `wake_s`."""
        self._leave(call, stage)
        self.wake(call, wake_s)

    def wake(self, call: Call, at_s: float) -> None:
        """Look at a call again at that time, and not before."""
        call.wake_s = at_s
        self._timers.push(call)

    def end(self, call: Call, outcome: wire.ReplyMessage | EdgedError, now: float) -> None:
        """Give a call its outcome. Its payload is let go of, however long the call is kept."""
        self._leave(call, CallStage.ENDED)
        call.wake_s = math.inf
        call.outcome = outcome
        call.ended_s = now
        if call.piece is not None:
            call.piece.release()
        call.piece, call.payload = None, ()
        del self.open[call.header.id]
        self._ended.append(call)

    def first_to_send(self) -> Call | None:
        """The call that is sent next. It goes on waiting."""
        return self._to_send.first()

    def take_to_send(self) -> Call:
        """Take out the call that `first_to_send` has just shown."""
        call = self._to_send.pop()
        call.rank = None
        return call

    def take_due(self, now: float) -> Call | None:
        """A call whose time has come; None: no further one."""
        call = self._timers.first()
        return self._timers.pop() if call is not None and call.wake_s <= now else None

    def wakeup_at(self) -> float:
        """When the next call is due; infinity: none is."""
        first = self._timers.first()
        return math.inf if first is None else first.wake_s

    def take_ended(self) -> list[Call]:
        """The calls that have got their outcome since this was last asked."""
        ended, self._ended = self._ended, []
        return ended

    def _leave(self, call: Call, stage: CallStage) -> None:
        if call.is_infer:
            self.infers_out += (stage in ON_THE_WAY) - (call.stage in ON_THE_WAY)
        call.stage, call.rank = stage, None

"""The client's side of the protocol without I/O: which requests wait, are out, are answered.

Knows no sockets and no clock: `now` (seconds, monotonic) is an argument. A driver reports what
happens (`on_connected`, `on_message`, ...), sends what `next_to_send` hands out, calls `on_time`
at `wakeup_at()`, and collects what has ended from `take_ended`. `Client` and `AsyncClient` are
such drivers.

A request is sent again, with the same id, when the connection was lost, when the daemon said
"not now, try after ...", or when no answer came for long. Whatever comes for an id that has its
answer is dropped, so a request has one outcome however often it went out. A request that ends here
first is taken back from the daemon.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count

from msgspec.structs import replace

from edged import wire
from edged.client.heap import LazyHeap
from edged.errors import (
    Cancelled,
    DeadlineExceeded,
    EdgedError,
    InvalidArgument,
    Unavailable,
    from_code,
)


def positive_s(value: float, what: str) -> float:
    """`value` if it is a time to wait, in seconds; else InvalidArgument (bool, NaN, 0, -1, ...)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e6:
        raise InvalidArgument(f"{what} is {value!r}: give seconds above 0, at most 1e6")
    return float(value)


def positive_count(value: int, what: str) -> int:
    """`value` if it is a whole number from 1 up, else InvalidArgument."""
    if type(value) is not int or value < 1:
        raise InvalidArgument(f"{what} is {value!r}: give a whole number from 1 up")
    return value


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a request is sent again. Both waits double from send to send."""

    attempts: int = 3  # sends of one request, the first included
    resend_after_s: float = 5.0  # without any answer
    backoff_s: float = 0.1  # at least, when the daemon says "not now"

    def __post_init__(self) -> None:
        positive_count(self.attempts, "attempts")
        positive_s(self.resend_after_s, "resend_after_s")
        positive_s(self.backoff_s, "backoff_s")


class Stage(Enum):
    """Where a call is."""

    QUEUED = auto()  # to be sent as soon as the connection and the daemon's limit allow
    OUT = auto()  # sent on this connection; the daemon may be working on it
    WAITING = auto()  # the daemon said "not now"
    ENDED = auto()  # has its outcome


@dataclass(slots=True, eq=False)
class Call:
    """One request until its outcome. The session alone changes it."""

    header: wire.RequestHeader
    payload: tuple[wire.Buffer, ...]
    order: int  # of submission
    began_s: float
    deadline_s: float
    stage: Stage = Stage.QUEUED
    sends: int = 0
    wake_s: float = math.inf  # when something is due: sending it again, or its end
    outcome: wire.Reply | EdgedError | None = None
    ended_s: float = math.inf

    @property
    def id(self) -> str:
        return self.header.id


def _is_queued(order: float, call: Call) -> bool:
    return call.stage is Stage.QUEUED


def _is_due_then(at_s: float, call: Call) -> bool:
    return call.wake_s == at_s and call.stage is not Stage.ENDED


class Session:
    """All calls of one client, over as many connections as it takes."""

    def __init__(
        self,
        endpoint: str,
        retry: Retry,
        *,
        jitter: Callable[[], float] = lambda: 0.0,
        heartbeat_s: float | None = None,
    ) -> None:
        """A session without connection.

        endpoint     for messages
        jitter       in [0, 1); spreads the retries of many clients
        heartbeat_s  ping so often while inferences are out, so that the daemon drops them if this
                     client dies. Only for a driver that runs all the time
        """
        self.connected = False
        self.server: wire.ServerMetadataReply | None = None  # as last heard
        self.stray_replies = 0  # second answers, answers to abandoned requests, unreadable ones
        self._endpoint = endpoint
        self._retry = retry
        self._jitter = jitter
        self._heartbeat_s = heartbeat_s
        self._heartbeat_at = math.inf  # while inferences are out
        self._numbers = count(1)
        self._order = count()
        self._calls: dict[str, Call] = {}  # without outcome
        self._ended: list[Call] = []
        self._infers_out = 0
        self._credits: int | None = None  # of the daemon's last answer on this connection
        # By submission, so that a request that is sent again keeps its place.
        self._infers: LazyHeap[Call] = LazyHeap(_is_queued)
        self._controls: LazyHeap[Call] = LazyHeap(_is_queued)  # all but INFER; these overtake
        self._timers: LazyHeap[Call] = LazyHeap(_is_due_then)

    @property
    def limits(self) -> wire.Limits:
        """The daemon's limits; the protocol's defaults until it has been heard."""
        return self.server.limits if self.server else wire.Limits()

    @property
    def window(self) -> int:
        """Inferences that may be out: what the daemon allows, less while others wait as well."""
        most = self.limits.max_in_flight
        return most if self._credits is None else max(1, min(most, self._credits))

    def next_id(self) -> str:
        """A request id that this session has not used."""
        return str(next(self._numbers))

    # --- what the user wants ------------------------------------------------------------------

    def submit(
        self,
        header: wire.RequestHeader,
        payload: Sequence[wire.Buffer] = (),
        *,
        timeout_s: float,
        now: float,
    ) -> Call:
        """Queue a request. Raises InvalidArgument or ResourceExhausted if it cannot be served."""
        wire.check_request(header, payload, self.limits)
        if header.id in self._calls:
            raise InvalidArgument(f"request id {header.id!r} is in use: give each request its own")
        call = Call(header, tuple(payload), next(self._order), now, now + timeout_s)
        self._calls[call.id] = call
        self._queue(call, now)
        return call

    def hello(self, *, timeout_s: float, now: float) -> Call:
        """Ask for the server metadata, which `server` and `limits` come from."""
        return self.submit(wire.ServerMetadata(self.next_id()), timeout_s=timeout_s, now=now)

    def cancel(self, call: Call, *, timeout_s: float, now: float) -> Call | None:
        """Ask the daemon to take `call` back; None if that needs no answer of the daemon.

        The reply to the returned call says whether it did; `call` itself then ends as Cancelled
        by the daemon's word. A call that is not out, or has ended, is settled here.
        """
        if call.stage is Stage.OUT:
            header = wire.Cancel(self.next_id(), call.id)
            return self.submit(header, timeout_s=timeout_s, now=now)
        self.abandon(call, now)
        return None

    def abandon(self, call: Call, now: float) -> None:
        """End a call whose outcome nobody wants any more; the daemon hears of it in passing."""
        if call.stage is not Stage.ENDED:
            self._take_back(call, Cancelled(f"request {call.id} was taken back"), now)

    def close(self, now: float) -> None:
        """Abandon everything; what is left in the queues is one CANCEL for each inference."""
        for call in list(self._calls.values()):
            if not (isinstance(call.header, wire.Cancel) and call.stage is Stage.QUEUED):
                self.abandon(call, now)

    # --- what happens -------------------------------------------------------------------------

    def on_connected(self, now: float) -> None:
        """The connection stands (again). Its far end may be a new daemon: ask for its limits."""
        self.connected = True
        self._credits = None
        if not any(isinstance(call.header, wire.ServerMetadata) for call in self._calls.values()):
            self.hello(timeout_s=self._retry.resend_after_s, now=now)

    def on_disconnected(self, now: float) -> None:
        """What was out is lost; it is sent again on the next connection, or ends."""
        self.connected = False
        for call in [call for call in self._calls.values() if call.stage is Stage.OUT]:
            lost = Unavailable(
                f"the connection to {self._endpoint} broke; request {call.id} went out "
                f"{call.sends} times without an answer: see the daemon's log"
            )
            self._retry_or_end(call, 0.0, lost, now)

    def on_message(self, frames: Sequence[wire.Buffer], now: float) -> None:
        """A message has arrived."""
        try:
            reply = wire.decode_reply(frames)
        except EdgedError as error:
            self._on_stray(error, now)
            return
        header = reply.header
        if isinstance(header, wire.ErrorReply):
            self._on_error(header, now)
        elif (call := self._calls.get(header.id)) is None:
            self.stray_replies += 1
        elif not isinstance(header, wire.reply_type(call.header)):
            what = f"{type(header).__name__} answers {type(call.header).__name__} {call.id}"
            self._end(call, EdgedError(f"the daemon breaks the protocol: {what}"), now)
        else:
            if isinstance(header, wire.ServerMetadataReply):
                self.server = header
            elif isinstance(header, wire.InferReply):
                self._credits = header.parameters.credits
            self._end(call, reply, now)

    def on_time(self, now: float) -> None:
        """End what is past its deadline; queue what is due to be sent again."""
        while (first := self._timers.first()) is not None and first[0] <= now:
            call = self._timers.pop()
            if call.deadline_s <= now:
                self._take_back(call, self._too_late(call), now)
            else:
                self._queue(call, now)
        if self._heartbeat_s is not None and self._heartbeat_at <= now:
            header = wire.Ping(self.next_id(), round(self._heartbeat_s * 1e6))
            self.submit(header, timeout_s=self._heartbeat_s, now=now)
            self._heartbeat_at = now + self._heartbeat_s

    # --- what is to be done -------------------------------------------------------------------

    def can_send(self) -> bool:
        """Whether `next_to_send` has something."""
        return self._next_queue() is not None

    def next_to_send(self, now: float) -> wire.Frames | None:
        """The frames of one message that is to be sent now; the call counts as sent."""
        queue = self._next_queue()
        if queue is None:
            return None
        call = queue.pop()
        self._enter(call, Stage.OUT, now)
        resend_s = now + self._retry.resend_after_s * 2**call.sends
        call.sends += 1
        may_resend = call.sends < self._retry.attempts
        self._wake(call, min(call.deadline_s, resend_s) if may_resend else call.deadline_s)
        return wire.encode_request(self._stamped(call, now), call.payload)

    def wakeup_at(self) -> float:
        """When `on_time` has something to do; infinity: not before something else happens."""
        first = self._timers.first()
        return self._heartbeat_at if first is None else min(first[0], self._heartbeat_at)

    def take_ended(self) -> list[Call]:
        """The calls that have got their outcome since the last time."""
        ended, self._ended = self._ended, []
        return ended

    # --- inside -------------------------------------------------------------------------------

    def _on_error(self, header: wire.ErrorReply, now: float) -> None:
        after_s = None if header.retry_after_us is None else header.retry_after_us / 1e6
        error = from_code(header.code, wire.one_line(header.error), retry_after_s=after_s)
        call = self._calls.get(header.id) if header.id is not None else None
        if call is not None and after_s is not None:
            wait_s = max(after_s, self._retry.backoff_s * 2 ** max(0, call.sends - 1))
            self._retry_or_end(call, wait_s * (1 + self._jitter() / 4), error, now)
        elif call is not None:
            self._end(call, error, now)
        elif header.id is None:
            self._on_stray(error, now)
        else:
            self.stray_replies += 1

    def _on_stray(self, error: EdgedError, now: float) -> None:
        """A reply that names no request: if only one is out, it is meant."""
        self.stray_replies += 1
        out = [call for call in self._calls.values() if call.stage is Stage.OUT]
        if len(out) == 1:
            self._end(out[0], error, now)

    def _retry_or_end(self, call: Call, wait_s: float, error: EdgedError, now: float) -> None:
        if call.sends >= self._retry.attempts or now + wait_s >= call.deadline_s:
            self._end(call, error, now)
        elif wait_s:
            self._enter(call, Stage.WAITING, now)
            self._wake(call, now + wait_s)
        else:
            self._queue(call, now)

    def _queue(self, call: Call, now: float) -> None:
        self._enter(call, Stage.QUEUED, now)
        self._wake(call, call.deadline_s)
        queue = self._infers if isinstance(call.header, wire.Infer) else self._controls
        queue.push(call.order, call)

    def _next_queue(self) -> LazyHeap[Call] | None:
        """The queue whose first call is to be sent next."""
        if not self.connected:
            return None
        if self._controls.first() is not None:
            return self._controls
        has_credit = self._infers_out < self.window
        return self._infers if has_credit and self._infers.first() is not None else None

    def _enter(self, call: Call, stage: Stage, now: float) -> None:
        if isinstance(call.header, wire.Infer):
            was_out = self._infers_out
            self._infers_out += (stage is Stage.OUT) - (call.stage is Stage.OUT)
            if self._heartbeat_s is not None and bool(was_out) != bool(self._infers_out):
                self._heartbeat_at = now + self._heartbeat_s if self._infers_out else math.inf
        call.stage = stage

    def _wake(self, call: Call, at_s: float) -> None:
        call.wake_s = at_s
        self._timers.push(at_s, call)

    def _take_back(self, call: Call, error: EdgedError, now: float) -> None:
        self._end(call, error, now)
        if call.sends and isinstance(call.header, wire.Infer):
            header = wire.Cancel(self.next_id(), call.id)
            self.submit(header, timeout_s=self._retry.resend_after_s, now=now)

    def _end(self, call: Call, outcome: wire.Reply | EdgedError, now: float) -> None:
        self._enter(call, Stage.ENDED, now)
        call.outcome = outcome
        call.ended_s = now
        del self._calls[call.id]
        self._ended.append(call)

    def _stamped(self, call: Call, now: float) -> wire.RequestHeader:
        """The header with the time that is left, for the daemon's own clock."""
        if not isinstance(call.header, wire.Infer):
            return call.header
        left_us = max(1, int((call.deadline_s - now) * 1e6))
        timeout = min(left_us, self.limits.max_timeout_us)
        return replace(call.header, parameters=replace(call.header.parameters, timeout=timeout))

    def _too_late(self, call: Call) -> EdgedError:
        within = f"within {call.deadline_s - call.began_s:.3g} s"
        if not self.connected:
            return Unavailable(
                f"no daemon answers at {self._endpoint} {within}: is it running? "
                "systemctl status edged"
            )
        if not call.sends:
            return DeadlineExceeded(
                f"request {call.id} was not sent {within}: {self._infers_out} others are out, "
                f"the daemon allows {self.window}"
            )
        return DeadlineExceeded(f"no answer to request {call.id} {within}: see edged status")

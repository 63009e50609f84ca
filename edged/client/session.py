"""The client's side of the protocol without sockets: which requests wait, are out, are answered.

Knows no clock: `now` (seconds, monotonic) is an argument; and of the system only the memory that
it shares with the daemon (`edged.sharedmem.writer`). A driver reports what happens (`on_connected`,
`on_message`, ...), sends what `next_to_send` hands out as long as it `can_send()`, calls `on_time`
at `wakeup_at()`, and collects what has ended from `take_ended`. `Client` and `AsyncClient` are such
drivers.

A request is sent again, with the same id, when the connection was lost, when the daemon said
"not now, try after ...", or when no answer came for long. Whatever comes for an id that has its
answer is dropped, so a request has one outcome however often it went out. A request that ends here
first is taken back from the daemon.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count
from operator import attrgetter

from msgspec.structs import replace

from edged import wire
from edged.client.call import ON_THE_WAY, Call, Rank, Retry, Stage
from edged.client.heap import LazyHeap
from edged.errors import (
    Cancelled,
    DeadlineExceeded,
    EdgedError,
    InvalidArgument,
    Unavailable,
    from_code,
)
from edged.sharedmem.writer import LEAST_BYTES, Piece, Sharing
from edged.uplink.sender import Upload


class Session:
    """All calls of one client, over as many connections as it takes."""

    def __init__(
        self,
        endpoint: str,
        retry: Retry,
        *,
        jitter: Callable[[], float] = lambda: 0.0,
        heartbeat_s: float | None = None,
        share_bytes: int = 0,
    ) -> None:
        """A session without connection.

        endpoint     for messages
        jitter       in [0, 1); spreads the retries of many clients
        heartbeat_s  ping so often while inferences are out, so that the daemon drops them if this
                     client dies. Only for a driver that runs all the time
        share_bytes  of memory to ask a daemon on this host for
        """
        self.connected = False
        self.calls: dict[str, Call] = {}  # without outcome, by id
        self.server: wire.ServerMetadataReply | None = None  # as last heard
        self.limits = wire.Limits()  # the daemon's; the protocol's defaults until it has been heard
        self.stray_replies = 0  # second answers, answers to abandoned requests, unreadable ones
        self._endpoint = endpoint
        self._retry = retry
        self._jitter = jitter
        self._heartbeat_s = heartbeat_s
        self._heartbeat_at = math.inf  # while inferences are out
        self._sharing = Sharing(share_bytes)
        self._numbers = count(1)
        self._order = count()
        self._ended: list[Call] = []
        self._infers_out = 0
        self._credits: int | None = None  # of the daemon's last answer on this connection
        # What is to be sent; by submission, so that what is sent again keeps its place.
        self._line: LazyHeap[Call] = LazyHeap(attrgetter("rank", "order"))
        self._announced: dict[str, Call] = {}  # inferences, by the id of an open ANNOUNCE
        self._timers: LazyHeap[Call] = LazyHeap(attrgetter("wake_s", "order"))

    @property
    def window(self) -> int:
        """Inferences that may be out: what the daemon allows, less while others wait as well."""
        most = self.limits.max_in_flight
        return most if self._credits is None else max(1, min(most, self._credits))

    def next_id(self) -> str:
        """A request id that this session has not used."""
        return str(next(self._numbers))

    # --- what the user wants ------------------------------------------------------------------

    def place(self, frames: Sequence[wire.Buffer], now: float) -> Piece | None:
        """Copy a payload to memory that the daemon shares; None: it is to be sent.

        The first one that is large enough asks the daemon for such memory.
        """
        size = sum([memoryview(frame).nbytes for frame in frames])
        if size < LEAST_BYTES:
            return None
        if self._sharing.current is not None:
            return self._sharing.current.put(frames, size)
        if ask_bytes := self._sharing.bytes_to_ask(self.server):
            header = wire.Share(self.next_id(), ask_bytes)
            self.submit(header, timeout_s=self._retry.resend_after_s, now=now)
        return None

    def submit(
        self,
        header: wire.RequestHeader,
        payload: Sequence[wire.Buffer] = (),
        *,
        timeout_s: float,
        now: float,
        upload: Upload | None = None,
        piece: Piece | None = None,
    ) -> Call:
        """Queue a request; an inference with `upload` is announced first, where the daemon can.

        `piece` is where the payload was placed; it is released when the request ends.
        Raises InvalidArgument or ResourceExhausted if it cannot be served; then it is not.
        """
        wire.check_request(header, payload, self.limits)
        if header.id in self.calls:
            raise InvalidArgument(f"request id {header.id!r} is in use: give each request its own")
        call = Call(
            header,
            tuple(payload),
            order=next(self._order),
            began_s=now,
            deadline_s=now + timeout_s,
            is_infer=isinstance(header, wire.Infer),
            upload=upload,
            piece=piece,
        )
        self.calls[header.id] = call
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
        if call.stage in ON_THE_WAY:
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
        for call in list(self.calls.values()):
            if not (isinstance(call.header, wire.Cancel) and call.stage is Stage.QUEUED):
                self.abandon(call, now)
        self._sharing.close()

    def leave_memory(self) -> None:
        """Let go of what is shared with the daemon, requests or not: the last that is done with it.

        For a forked child, whose parent goes on: the child's hold would outlive the parent's.
        """
        for call in list(self.calls.values()):
            call.piece, call.payload = None, ()
        self._sharing.close()

    # --- what happens -------------------------------------------------------------------------

    def on_connected(self, now: float) -> None:
        """The connection stands (again). Its far end may be a new daemon: ask for its limits."""
        self.connected = True
        self._credits = None
        self._sharing.on_connected()
        if not any(isinstance(call.header, wire.ServerMetadata) for call in self.calls.values()):
            self.hello(timeout_s=self._retry.resend_after_s, now=now)

    def on_disconnected(self, now: float) -> None:
        """What was out is lost; it is sent again on the next connection, or ends."""
        self.connected = False
        for call in [call for call in self.calls.values() if call.stage in ON_THE_WAY]:
            if call.stage is Stage.ENDED:
                continue  # the announcement of one that was here before it
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
        elif (call := self.calls.get(header.id)) is None:
            self.stray_replies += 1
        elif isinstance(header, wire.reply_type(call.header)):
            match header:
                case wire.InferReply():
                    self._credits = header.parameters.credits
                case wire.GrantReply():
                    self._on_granted(header, now)
                case wire.ShareReply():
                    self._sharing.on_reply(header)
                case wire.ServerMetadataReply():
                    self.server, self.limits = header, header.limits
            self._end(call, reply, now)
        elif isinstance(header, wire.ChunkReply):
            self._on_received(call, header.received, now)
        else:
            what = f"{type(header).__name__} answers {type(call.header).__name__} {call.id}"
            self._end(call, EdgedError(f"the daemon breaks the protocol: {what}"), now)

    def on_time(self, now: float) -> None:
        """End what is past its deadline; queue what is due to be sent again."""
        while (call := self._timers.first()) is not None and call.wake_s <= now:
            self._timers.pop()
            if call.deadline_s <= now:
                self._take_back(call, self._too_late(call), now)
            elif call.stage is Stage.UPLOADING and call.upload is not None:
                self._pace(call, call.upload, now)
            else:
                self._queue(call, now)
        if self._heartbeat_s is not None and self._heartbeat_at <= now:
            header = wire.Ping(self.next_id(), round(self._heartbeat_s * 1e6))
            self.submit(header, timeout_s=self._heartbeat_s, now=now)
            self._heartbeat_at = now + self._heartbeat_s

    # --- what is to be done -------------------------------------------------------------------

    def can_send(self) -> bool:
        """Whether `next_to_send` has something."""
        call = self._line.first() if self.connected else None
        if call is None:
            return False
        return call.rank is not Rank.INFER or self._infers_out < self.window

    def next_to_send(self, now: float) -> wire.Frames:
        """The frames of one message that is to be sent now; the call counts as sent.

        Only for who has just heard from `can_send` that there is one.
        """
        call = self._line.pop()
        call.rank = None
        upload = call.upload
        if call.stage is Stage.QUEUED:
            call.sends += 1
            if upload is not None:
                upload.begin(in_one_piece=not self._daemon_grants)
        if upload is not None and not upload.is_ready:
            return self._next_piece(call, upload, now)
        wake_s = call.deadline_s
        if call.sends < self._retry.attempts:
            wake_s = min(wake_s, now + self._retry.resend_after_s * 2 ** (call.sends - 1))
        self._enter(call, Stage.OUT, wake_s, now)
        return self._request(call, now)

    def wakeup_at(self) -> float:
        """When `on_time` has something to do; infinity: not before something else happens."""
        first = self._timers.first()
        return self._heartbeat_at if first is None else min(first.wake_s, self._heartbeat_at)

    def take_ended(self) -> list[Call]:
        """The calls that have got their outcome since the last time."""
        ended, self._ended = self._ended, []
        return ended

    # --- inside -------------------------------------------------------------------------------

    def _on_error(self, header: wire.ErrorReply, now: float) -> None:
        after_s = None if header.retry_after_us is None else header.retry_after_us / 1e6
        error = from_code(header.code, wire.one_line(header.error), retry_after_s=after_s)
        call = None
        if header.id is not None:
            call = self._announced.get(header.id) or self.calls.get(header.id)
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
        out = [call for call in self.calls.values() if call.stage is Stage.OUT]
        if len(out) == 1:
            self._end(out[0], error, now)

    # --- announced uploads --------------------------------------------------------------------

    @property
    def _daemon_grants(self) -> bool:
        return self.server is not None and wire.GRANTS in self.server.extensions

    def _next_piece(self, call: Call, upload: Upload, now: float) -> wire.Frames:
        """The announcement of what is left, or a chunk of it."""
        if call.stage is Stage.QUEUED or upload.is_over(now):
            self._announce(call, upload, now)
            return self.next_to_send(now)  # announcements overtake
        offset, data = upload.next_chunk(now)
        self._pace(call, upload, now)
        return wire.encode_request(wire.Chunk(call.id, offset), [data])

    def _announce(self, call: Call, upload: Upload, now: float) -> None:
        infer = call.header
        assert isinstance(infer, wire.Infer), "this is a bug: no inference"
        upload.end_grant(now)
        self._enter(call, Stage.UPLOADING, call.deadline_s, now)
        header = wire.Announce(
            id=self.next_id(),
            request=call.id,
            task=infer.outputs[0].name,
            bytes=upload.left_bytes,
            sent=upload.sent_bytes,
            rows=infer.inputs[0].shape[0],
            link_bytes_s=upload.link_bytes_s,
        )
        self._announced[header.id] = call
        asked = Call(header, (), next(self._order), now, call.deadline_s)
        self.calls[header.id] = asked
        self._queue(asked, now)

    def _on_granted(self, grant: wire.GrantReply, now: float) -> None:
        call = self._announced.pop(grant.id, None)
        if call is not None and call.upload is not None:
            call.upload.granted(grant, now)
            self._pace(call, call.upload, now)

    def _on_received(self, call: Call, received_bytes: int, now: float) -> None:
        if call.stage is Stage.UPLOADING and call.upload is not None:
            call.upload.acknowledged(received_bytes)
            self._pace(call, call.upload, now)

    def _pace(self, call: Call, upload: Upload, now: float) -> None:
        """See to it that what comes next of an upload goes out in time."""
        due_s = upload.due_at(now)
        if due_s > now:
            self._wake(call, min(call.deadline_s, due_s))
        elif call.rank is None:
            call.rank = Rank.PIECE
            self._line.push(call)
            self._wake(call, call.deadline_s)

    def _close_announcement(self, id: str, now: float) -> None:
        """Its inference has ended, or begins anew."""
        del self._announced[id]
        if (asked := self.calls.get(id)) is not None:
            self._end(asked, Cancelled(f"announcement {id} is not needed any more"), now)

    # --- inside -------------------------------------------------------------------------------

    def _retry_or_end(self, call: Call, wait_s: float, error: EdgedError, now: float) -> None:
        if call.sends >= self._retry.attempts or now + wait_s >= call.deadline_s:
            self._end(call, error, now)
        elif wait_s:
            self._enter(call, Stage.WAITING, now + wait_s, now)
        else:
            self._queue(call, now)

    def _queue(self, call: Call, now: float) -> None:
        self._enter(call, Stage.QUEUED, call.deadline_s, now)
        call.rank = Rank.INFER if call.is_infer else Rank.CONTROL
        self._line.push(call)

    def _enter(self, call: Call, stage: Stage, wake_s: float, now: float) -> None:
        if call.is_infer:
            was_out = self._infers_out
            self._infers_out += (stage in ON_THE_WAY) - (call.stage in ON_THE_WAY)
            if self._heartbeat_s is not None and bool(was_out) != bool(self._infers_out):
                self._heartbeat_at = now + self._heartbeat_s if self._infers_out else math.inf
        was, call.stage, call.rank = call.stage, stage, None
        call.wake_s = wake_s
        if stage is not Stage.ENDED:
            self._timers.push(call)
        if was is Stage.UPLOADING:
            for id in [id for id, announced in self._announced.items() if announced is call]:
                self._close_announcement(id, now)

    def _wake(self, call: Call, at_s: float) -> None:
        call.wake_s = at_s
        self._timers.push(call)

    def _take_back(self, call: Call, error: EdgedError, now: float) -> None:
        self._end(call, error, now)
        if call.sends and call.is_infer:
            header = wire.Cancel(self.next_id(), call.id)
            self.submit(header, timeout_s=self._retry.resend_after_s, now=now)

    def _end(self, call: Call, outcome: wire.Reply | EdgedError, now: float) -> None:
        self._enter(call, Stage.ENDED, math.inf, now)
        call.outcome = outcome
        call.ended_s = now
        if call.piece is not None:
            call.piece.release()
        call.piece, call.payload = None, ()  # which nobody sends again, however long it is kept
        del self.calls[call.header.id]
        self._ended.append(call)

    def _request(self, call: Call, now: float) -> wire.Frames:
        """The frames of `call` itself, with the time that is left, for the daemon's own clock.

        The payload is among them unless it was uploaded or is shared; it is when it goes out again.
        """
        header, upload, piece = call.header, call.upload, call.piece
        if not isinstance(header, wire.Infer):
            return wire.encode_request(header, call.payload)
        left_us = max(1, int((call.deadline_s - now) * 1e6))
        uploaded = shared = None
        if upload is not None and not upload.in_one_piece:
            uploaded = upload.sizes
        if piece is not None and piece.region is self._sharing.current and call.sends == 1:
            shared = piece.where
        parameters = replace(
            header.parameters,
            timeout=min(left_us, self.limits.max_timeout_us),
            upload=uploaded,
            shared=shared,
        )
        payload = call.payload if uploaded is None and shared is None else ()
        return wire.encode_request(replace(header, parameters=parameters), payload)

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

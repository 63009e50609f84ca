"""The client's side of the protocol without sockets: which requests wait, are out, are answered.

Knows no clock: `now` (seconds, monotonic) is an argument. Of the system it knows only the memory
that it shares with the daemon (`edged.sharedmem.writer`). A driver, `Client` or `AsyncClient`,
reports what happens (`on_connected`, `on_message`, ...), sends what `next_to_send` hands out as
long as it `can_send()`, calls `on_time` at `wakeup_at()`, and collects what has ended from
`take_ended`.

A request is sent again, with the same id, when the connection was lost, when the daemon said "not
now", or when no answer came for long. A reply to an id that has its answer is dropped, so a request
has one outcome however often it was sent. A request that ends here first is cancelled at the
daemon.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count

from edged import wire
from edged.client.announcing import Announcing
from edged.client.call import ON_THE_WAY, Call, CallStage, Rank, Retry, request_frames
from edged.client.table import CallTable
from edged.errors import (
    Cancelled,
    DeadlineExceeded,
    EdgedError,
    InvalidArgument,
    Unavailable,
    from_code,
)
from edged.sharedmem.writer import LEAST_BYTES, MemorySharing, Piece
from edged.uplink.sender import Upload


class Session:
    """The requests of one client, over all the connections that it makes."""

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

        endpoint     named in messages of errors
        jitter       a number in [0, 1) each time; spreads the retries of many clients
        heartbeat_s  interval of pings while inferences are out, so that the daemon drops them if
                     this client dies; only for a driver that runs all the time
        share_bytes  memory to ask a daemon on this host for
        """
        self.connected = False
        self._table = CallTable()
        self.calls = self._table.open
        self.server: wire.ServerMetadataReply | None = (
            None  # the daemon's last description of itself
        )
        self.limits = wire.Limits()  # the daemon's; until it has said them, the protocol's defaults
        self.stray_replies = 0  # second answers, answers to abandoned requests, unreadable replies
        self._endpoint = endpoint
        self._retry = retry
        self._jitter = jitter
        self._heartbeat_s = heartbeat_s
        self._heartbeat_at = math.inf  # time of the next ping; infinity while no inference is out
        self._sharing = MemorySharing(share_bytes)
        self._numbers = count(1)
        self._announcing = Announcing(self._table, self.next_id)
        self._credits: int | None = None  # the last ones that the daemon sent on this connection

    @property
    def window(self) -> int:
        """How many inferences may be out: the daemon's limit, or fewer while other clients wait."""
        most = self.limits.max_in_flight
        return most if self._credits is None else max(1, min(most, self._credits))

    def next_id(self) -> str:
        """A request id that this session has not used."""
        return str(next(self._numbers))

    # --- what the user wants ------------------------------------------------------------------

    def place(self, frames: Sequence[wire.Buffer], now: float) -> Piece | None:
        """Copy a payload to memory that is shared with the daemon; None: it has to be sent.

        The first payload that is large enough asks the daemon for such memory.
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
        """Queue a request.

        upload  the upload of an inference, which is announced first if the daemon supports that
        piece   the shared memory that holds the payload; it is released when the request ends
        Raises InvalidArgument or ResourceExhausted for a request that the daemon would refuse.
        """
        wire.check_request(header, payload, self.limits)
        if header.id in self.calls:
            raise InvalidArgument(f"request id {header.id!r} is in use: give each request its own")
        call = Call(
            header,
            tuple(payload),
            began_s=now,
            deadline_s=now + timeout_s,
            is_infer=isinstance(header, wire.Infer),
            upload=upload,
            piece=piece,
        )
        self._table.add(call)
        return call

    def hello(self, *, timeout_s: float, now: float) -> Call:
        """Ask for the server metadata, which sets `server` and `limits`."""
        return self.submit(wire.ServerMetadata(self.next_id()), timeout_s=timeout_s, now=now)

    def cancel(self, call: Call, *, timeout_s: float, now: float) -> Call | None:
        """Ask the daemon to cancel `call`. The reply to the returned call says whether it did, and
        `call` itself ends when the daemon answers it.

        None: the daemon need not be asked, since `call` is not out; it has ended.
        """
        if call.stage in ON_THE_WAY:
            header = wire.Cancel(self.next_id(), call.id)
            return self.submit(header, timeout_s=timeout_s, now=now)
        self.abandon(call, now)
        return None

    def abandon(self, call: Call, now: float) -> None:
        """End a call whose outcome nobody wants any more, and tell the daemon without waiting."""
        if call.stage is not CallStage.ENDED:
            self._take_back(call, Cancelled(f"request {call.id} was taken back"), now)

    def close(self, now: float) -> None:
        """Abandon all calls; what is left to be sent is one CANCEL for each inference."""
        for call in list(self.calls.values()):
            if not (isinstance(call.header, wire.Cancel) and call.stage is CallStage.QUEUED):
                self.abandon(call, now)
        self._sharing.close()

    def leave_memory(self) -> None:
        """Let go of the memory that is shared with the daemon. The session is not used after that.

        A forked child calls this, so that the memory ends when its parent, which goes on, does.
        """
        for call in list(self.calls.values()):
            call.piece, call.payload = None, ()
        self._sharing.close()

    # --- what happens -------------------------------------------------------------------------

    def on_connected(self, now: float) -> None:
        """There is a connection, perhaps to another daemon than before: ask for its limits."""
        self.connected = True
        self._credits = None
        self._sharing.on_connected()
        if not any(isinstance(call.header, wire.ServerMetadata) for call in self.calls.values()):
            self.hello(timeout_s=self._retry.resend_after_s, now=now)

    def on_disconnected(self, now: float) -> None:
        """Each call that was out is lost: it is sent again on the next connection, or ends."""
        self.connected = False
        for call in [call for call in self.calls.values() if call.stage in ON_THE_WAY]:
            if call.stage is CallStage.ENDED:
                continue  # it announced a call that was before it in this list
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
                    self._announcing.granted(header, now)
                case wire.ShareReply():
                    self._sharing.on_reply(header)
                case wire.ServerMetadataReply():
                    self.server, self.limits = header, header.limits
            self._end(call, reply, now)
        elif isinstance(header, wire.ChunkReply):
            self._announcing.received(call, header.received, now)
        else:
            what = f"{type(header).__name__} answers {type(call.header).__name__} {call.id}"
            self._end(call, EdgedError(f"the daemon breaks the protocol: {what}"), now)

    def on_time(self, now: float) -> None:
        """End each call that is past its deadline, and queue each that is due to be sent again."""
        while (call := self._table.take_due(now)) is not None:
            if call.deadline_s <= now:
                self._take_back(call, self._too_late(call), now)
            elif call.stage is CallStage.UPLOADING and call.upload is not None:
                self._announcing.pace(call, call.upload, now)
            else:
                self._queue(call, now)
        if self._heartbeat_s is not None and self._heartbeat_at <= now:
            header = wire.Ping(self.next_id(), round(self._heartbeat_s * 1e6))
            self.submit(header, timeout_s=self._heartbeat_s, now=now)
            self._heartbeat_at = now + self._heartbeat_s

    # --- what is to be done -------------------------------------------------------------------

    def can_send(self) -> bool:
        """Whether `next_to_send` has something."""
        call = self._table.first_to_send() if self.connected else None
        if call is None:
            return False
        return call.rank is not Rank.INFER or self._table.infers_out < self.window

    def next_to_send(self, now: float) -> wire.Frames:
        """The frames of one message, which the caller sends now: its call counts as sent.

        May be called only right after `can_send` has returned True.
        """
        call = self._table.take_to_send()
        upload = call.upload
        if call.stage is CallStage.QUEUED:
            call.sends += 1
            if upload is not None:
                upload.begin(in_one_piece=not self._daemon_grants)
        if upload is not None and not upload.is_ready:
            return self._next_piece(call, upload, now)
        wake_s = call.deadline_s
        if call.sends < self._retry.attempts:
            wake_s = min(wake_s, now + self._retry.resend_after_s * 2 ** (call.sends - 1))
        self._enter(call, CallStage.OUT, wake_s, now)
        return request_frames(call, self.limits, self._sharing.current, now)

    def wakeup_at(self) -> float:
        """When to call `on_time`; infinity: nothing is due before something else happens."""
        return min(self._table.wakeup_at(), self._heartbeat_at)

    def take_ended(self) -> list[Call]:
        """The calls that have got their outcome since this was last asked."""
        return self._table.take_ended()

    # --- inside -------------------------------------------------------------------------------

    def _on_error(self, header: wire.ErrorReply, now: float) -> None:
        after_s = None if header.retry_after_us is None else header.retry_after_us / 1e6
        error = from_code(header.code, wire.one_line(header.error), retry_after_s=after_s)
        call = None
        if header.id is not None:
            call = self._announcing.find(header.id) or self.calls.get(header.id)
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
        """A reply that names no request belongs to the call that is out, if only one is."""
        self.stray_replies += 1
        out = [call for call in self.calls.values() if call.stage is CallStage.OUT]
        if len(out) == 1:
            self._end(out[0], error, now)

    # --- announced uploads --------------------------------------------------------------------

    @property
    def _daemon_grants(self) -> bool:
        return self.server is not None and wire.GRANTS in self.server.extensions

    def _next_piece(self, call: Call, upload: Upload, now: float) -> wire.Frames:
        """The frames that announce the rest of an upload, or those of its next chunk."""
        if call.stage is CallStage.QUEUED or upload.is_over(now):
            upload.end_grant(now)
            self._enter(call, CallStage.UPLOADING, call.deadline_s, now)
            self._announcing.announce(call, upload, now)
            return self.next_to_send(now)  # the announcement, which is sent before any chunk
        offset, data = upload.next_chunk(now)
        self._announcing.pace(call, upload, now)
        return wire.encode_request(wire.Chunk(call.id, offset), [data])

    # --- outcomes and stages ------------------------------------------------------------------

    def _retry_or_end(self, call: Call, wait_s: float, error: EdgedError, now: float) -> None:
        if call.sends >= self._retry.attempts or now + wait_s >= call.deadline_s:
            self._end(call, error, now)
        elif wait_s:
            self._enter(call, CallStage.WAITING, now + wait_s, now)
        else:
            self._queue(call, now)

    def _take_back(self, call: Call, error: EdgedError, now: float) -> None:
        self._end(call, error, now)
        if call.sends and call.is_infer:
            header = wire.Cancel(self.next_id(), call.id)
            self.submit(header, timeout_s=self._retry.resend_after_s, now=now)

    def _queue(self, call: Call, now: float) -> None:
        was = call.stage
        self._table.queue(call)
        self._left(call, was, now)

    def _enter(self, call: Call, stage: CallStage, wake_s: float, now: float) -> None:
        was = call.stage
        self._table.enter(call, stage, wake_s)
        self._left(call, was, now)

    def _end(self, call: Call, outcome: wire.ReplyMessage | EdgedError, now: float) -> None:
        was = call.stage
        self._table.end(call, outcome, now)
        self._left(call, was, now)

    def _left(self, call: Call, was: CallStage, now: float) -> None:
        """A call has left the stage `was`: end its announcement with it, begin or end the pings."""
        if was is CallStage.UPLOADING:
            self._announcing.close(call, now)
        if self._heartbeat_s is None:
            return
        if not self._table.infers_out:
            self._heartbeat_at = math.inf
        elif self._heartbeat_at == math.inf:
            self._heartbeat_at = now + self._heartbeat_s

    def _too_late(self, call: Call) -> EdgedError:
        within = f"within {call.deadline_s - call.began_s:.3g} s"
        if not self.connected:
            return Unavailable(
                f"no daemon answers at {self._endpoint} {within}: is it running? "
                "systemctl status edged"
            )
        if not call.sends:
            return DeadlineExceeded(
                f"request {call.id} was not sent {within}: {self._table.infers_out} others are "
                f"out, the daemon allows {self.window}"
            )
        return DeadlineExceeded(f"no answer to request {call.id} {within}: see edged status")

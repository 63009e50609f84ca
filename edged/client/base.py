"""What the blocking and the asyncio client share: options, the session, its connection. No I/O but
opening the connection.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import zmq

from edged import wire
from edged.client import forks
from edged.client.call import Call, Retry, positive_count, positive_s
from edged.client.link import DealerConnection, checked_endpoint, connect
from edged.client.questions import Questions
from edged.client.requests import Inputs, Options, Tasks, submit_infer
from edged.client.results import reply_of
from edged.client.session import Session
from edged.errors import Cancelled, EdgedError, InvalidArgument
from edged.sharedmem.writer import DEFAULT_BYTES, shared_bytes

if TYPE_CHECKING:
    from typing_extensions import Unpack


class ClientBase(Questions):
    """One session and one connection. A client that is built on it moves messages between them."""

    _STATEMENT = "with"  # how a client of this kind is opened
    _HEARTBEAT_S: float | None = None  # interval of pings while inferences are out

    def __init__(
        self,
        endpoint: str = wire.DEFAULT_ENDPOINT,
        *,
        timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        retry: Retry = Retry(),  # noqa: B008 a frozen value
        share_bytes: int = DEFAULT_BYTES,
    ) -> None:
        """A client that is not connected yet.

        timeout_s          time-out of each request that brings none of its own
        connect_timeout_s  time-out of `connect`
        retry              when a request is sent again
        share_bytes        size of the memory to share with a daemon on this host, which then reads
                           payloads there. Only ipc endpoints can; 0: none
        """
        self._endpoint = checked_endpoint(endpoint)
        self._timeout_s = positive_s(timeout_s, "timeout_s")
        self._connect_timeout_s = positive_s(connect_timeout_s, "connect_timeout_s")
        self._session = Session(
            endpoint,
            retry,
            jitter=random.random,
            heartbeat_s=self._HEARTBEAT_S,
            share_bytes=shared_bytes(endpoint, share_bytes),
        )
        self._connection: DealerConnection | None = None
        self._is_forked = False  # true in a child of the process that connected

    def _next_id(self) -> str:
        """A request id that this client has not used."""
        return self._session.next_id()

    def on_fork(self) -> None:
        """Leave the connection to the parent; called in a child by `edged.client.forks`."""
        self._session.leave_memory()
        self._session = Session(self._endpoint, Retry())
        if self._connection is not None:
            forks.leave(self._connection)
        self._connection, self._is_forked = None, True

    def _begin_connection(self, context: Callable[[], zmq.Context[Any]]) -> DealerConnection:
        if self._connection is not None:
            raise InvalidArgument("the client is connected already: connect it once")
        if self._is_forked:
            raise forks.refusal()
        self._connection = connect(context(), self._endpoint)
        forks.watch(self)
        return self._connection

    def _open(self) -> DealerConnection:
        """The connection. Raises InvalidArgument where there is none that may be used."""
        if self._connection is None:
            if self._is_forked:
                raise forks.refusal()
            raise InvalidArgument(
                f"the client is not connected: use it in {self._STATEMENT} statement"
            )
        return self._connection

    def _submit_infer(
        self, inputs: Inputs, tasks: Tasks, now: float, **options: Unpack[Options]
    ) -> Call:
        return submit_infer(
            self._session, inputs, tasks, now=now, default_timeout_s=self._timeout_s, **options
        )

    def _submit_inquiry(self, header: wire.RequestHeader, now: float) -> Call:
        return self._session.submit(header, timeout_s=self._timeout_s, now=now)


def is_cancelled(call: Call, asked: Call | None) -> bool:
    """Whether `call` was taken back; `asked` is its CANCEL, which has ended, if one was sent."""
    if asked is None:
        return isinstance(call.outcome, Cancelled)
    reply = reply_of(asked).header
    return isinstance(reply, wire.CancelReply) and reply.cancelled


class Window:
    """The inferences of one `infer_many` that are under way, in their order."""

    def __init__(
        self, many: Iterable[Inputs], in_flight: int, submit: Callable[[Inputs], Call]
    ) -> None:
        self._source = iter(many)
        self._in_flight = positive_count(in_flight, "in_flight")
        self._submit = submit
        self._under_way: deque[Call | EdgedError] = deque()

    def oldest(self) -> Call | EdgedError | None:
        """Submit as many as may be under way, and return the oldest: its call, or the error that it
        was refused with. None: all are done.
        """
        for inputs in islice(self._source, self._in_flight - len(self._under_way)):
            try:
                self._under_way.append(self._submit(inputs))
            except EdgedError as error:
                self._under_way.append(error)
        return self._under_way[0] if self._under_way else None

    def drop_oldest(self) -> None:
        self._under_way.popleft()

    def calls(self) -> list[Call]:
        """What is under way."""
        return [call for call in self._under_way if isinstance(call, Call)]

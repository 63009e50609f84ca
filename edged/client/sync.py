"""The blocking client: a driver of `Session` with one socket, used by one thread.

While a method waits for its own answer it also takes in the others', so several requests can be
out at a time (`submit`, `infer_many`) without threads.
"""

from __future__ import annotations

import math
import random
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import zmq

from edged import wire
from edged.client import forks
from edged.client.call import Call, Retry, positive_count, positive_s
from edged.client.link import Connection, Link, checked_endpoint, connect, link_event
from edged.client.requests import Inputs, Options, Tasks, submit_infer
from edged.client.results import Result, reply_of, result_of
from edged.client.session import Session
from edged.errors import Cancelled, EdgedError, InvalidArgument
from edged.sharedmem.writer import DEFAULT_BYTES, shared_bytes
from edged.sockets import has_message, has_room, receive, send

if TYPE_CHECKING:
    from typing_extensions import Unpack

R = TypeVar("R")


class Pending:
    """An inference that was submitted; `result()` waits for it."""

    def __init__(self, client: Client, call: Call) -> None:
        self._client = client
        self._call = call

    @property
    def id(self) -> str:
        return self._call.id

    def done(self) -> bool:
        """Whether `result()` returns at once. Looks, does not wait."""
        if self._call.outcome is None:
            self._client._turn(wait=False)
        return self._call.outcome is not None

    def result(self) -> Result:
        """The result. Raises the coded error that the request ended with."""
        self._client._wait(self._call)
        return result_of(self._call)

    def cancel(self) -> bool:
        """Take the request back. True: `result()` raises Cancelled. False: it was too late."""
        return self._client._cancel(self._call)


class Client:
    """A connection to a daemon.

        with Client("ipc:///run/edged/edged.sock") as client:
            result = client.infer(Path("rose.jpg"), ["flowers", "food"], top_k=3)
            print(result["flowers"].classes[0][0].label)

    Survives restarts of the daemon. Every method raises a coded error of `edged.errors`, at the
    latest after its time-out. One thread uses a client; open one for each thread, and after a fork
    one in each process: in a child, what it inherited refuses to be used.
    """

    def __init__(
        self,
        endpoint: str = wire.DEFAULT_ENDPOINT,
        *,
        timeout_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        retry: Retry = Retry(),  # noqa: B008 a frozen value
        share_bytes: int = DEFAULT_BYTES,
    ) -> None:
        """`share_bytes`: of memory to share with a daemon on this host, which then reads payloads
        there; over ipc endpoints only. 0: none.
        """
        self._endpoint = checked_endpoint(endpoint)
        self._timeout_s = positive_s(timeout_s, "timeout_s")
        self._connect_timeout_s = positive_s(connect_timeout_s, "connect_timeout_s")
        self._session = Session(
            endpoint,
            retry,
            jitter=random.random,
            share_bytes=shared_bytes(endpoint, share_bytes),
        )
        self._connection: Connection | None = None
        self._thread = 0
        self._is_forked = False  # this is a child of the process that connected

    # --- life ---------------------------------------------------------------------------------

    def connect(self) -> Client:
        """Connect and hear the daemon's limits. Raises Unavailable when no daemon answers."""
        if self._connection is not None:
            raise InvalidArgument("the client is connected already: connect it once")
        if self._is_forked:
            raise forks.refusal()
        connection = self._connection = connect(zmq.Context(), self._endpoint)
        forks.watch(self)
        self._link_changed = True  # perhaps: it was not looked at
        self._monitor_fd = connection.monitor.FD
        self._changes = select.poll()
        for descriptor in (self._monitor_fd, connection.socket.FD):
            self._changes.register(descriptor, select.POLLIN)
        self._thread = threading.get_ident()
        try:
            now = time.monotonic()
            reply_of(self._wait(self._session.hello(timeout_s=self._connect_timeout_s, now=now)))
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Leave. Requests that are out are taken back. Closing twice does no harm."""
        if self._connection is None:
            return
        self._session.close(time.monotonic())
        self._send(self._connection)
        self._connection.close()
        self._connection = None
        forks.forget(self)

    def on_fork(self) -> None:
        """For `edged.client.forks`."""
        self._session.leave_memory()
        self._session = Session(self._endpoint, Retry())
        if self._connection is not None:
            forks.leave(self._connection)
        self._connection, self._is_forked = None, True

    def __enter__(self) -> Client:
        return self.connect()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- inference ----------------------------------------------------------------------------

    def infer(self, inputs: Inputs, tasks: Tasks, **options: Unpack[Options]) -> Result:
        """Do `tasks` on the rows of `inputs`. Raises the coded error of a failure.

        inputs   one image or several (JPEG or PNG bytes or paths; uint8 RGB arrays of shape
                 (height, width, 3)), or the model's own tensors by name, of shape (rows, ...)
        tasks    names; or `wire.RequestedOutput`s, to ask for each in another way
        options  see `Options`
        """
        self._open()
        call = self._submit(inputs, tasks, options)
        try:
            return result_of(self._wait(call))
        finally:  # an interrupt must not leave the daemon at work
            self._abandon(call)

    def submit(self, inputs: Inputs, tasks: Tasks, **options: Unpack[Options]) -> Pending:
        """As `infer`, but returns at once."""
        connection = self._open()
        call = self._submit(inputs, tasks, options)
        if not self._send(connection):
            self._turn(wait=False)
        return Pending(self, call)

    @overload
    def infer_many(
        self,
        many: Iterable[Inputs],
        tasks: Tasks,
        *,
        in_flight: int = ...,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> Iterator[Result]: ...

    @overload
    def infer_many(
        self,
        many: Iterable[Inputs],
        tasks: Tasks,
        *,
        in_flight: int = ...,
        return_exceptions: bool,
        **options: Unpack[Options],
    ) -> Iterator[Result | EdgedError]: ...

    def infer_many(
        self,
        many: Iterable[Inputs],
        tasks: Tasks,
        *,
        in_flight: int = 16,
        return_exceptions: bool = False,
        **options: Unpack[Options],
    ) -> Iterator[Result | EdgedError]:
        """`infer` for each of `many`, at most `in_flight` at a time, in their order.

        An error is raised at its place, which ends the iteration; with `return_exceptions` it is
        yielded there instead. Ending the iteration early takes back what is out.
        """
        window: deque[Pending | EdgedError] = deque()
        source = iter(many)
        positive_count(in_flight, "in_flight")
        try:
            while True:
                for inputs in islice(source, in_flight - len(window)):
                    window.append(self._submit_or_error(inputs, tasks, options))
                if not window:
                    return
                outcome = _outcome(window[0])
                window.popleft()
                if isinstance(outcome, EdgedError) and not return_exceptions:
                    raise outcome
                yield outcome
        finally:
            for pending in window:
                if isinstance(pending, Pending):
                    self._abandon(pending._call)

    # --- questions ----------------------------------------------------------------------------

    def live(self) -> bool:
        """Whether the daemon's front answers."""
        return self._ask(wire.LiveReply, wire.ServerLive).live

    def ready(self) -> wire.ReadyReply:
        """Whether it takes requests, and if not, why."""
        return self._ask(wire.ReadyReply, wire.ServerReady)

    def metadata(self) -> wire.ServerMetadataReply:
        """Version, extensions, limits."""
        return self._ask(wire.ServerMetadataReply, wire.ServerMetadata)

    def models(self, *, ready: bool = False) -> tuple[wire.ModelState, ...]:
        """The models of the repository, or only those that can be used now."""
        return self._ask(wire.RepositoryIndexReply, wire.RepositoryIndex, ready).models

    def model(self, name: str) -> wire.ModelMetadataReply:
        """Inputs, outputs, labels of a task's default model, or of a model."""
        return self._ask(wire.ModelMetadataReply, wire.ModelMetadata, name)

    def model_ready(self, name: str) -> wire.ModelReadyReply:
        """Whether a task's default model, or a model, can be used now."""
        return self._ask(wire.ModelReadyReply, wire.ModelReady, name)

    def statistics(self) -> wire.StatisticsReply:
        """Counts and times since the daemon started."""
        return self._ask(wire.StatisticsReply, wire.Statistics)

    def ping(self) -> float:
        """Seconds to the daemon's front and back."""
        began_s = time.monotonic()
        self._ask(wire.PingReply, wire.Ping)
        return time.monotonic() - began_s

    # --- inside -------------------------------------------------------------------------------

    def _ask(
        self, reply_type: type[R], request_type: Callable[..., wire.RequestHeader], *fields: Any
    ) -> R:
        self._open()
        header = request_type(self._session.next_id(), *fields)
        call = self._session.submit(header, timeout_s=self._timeout_s, now=time.monotonic())
        reply = reply_of(self._wait(call)).header
        assert isinstance(reply, reply_type), "this is a bug: the session lets no other pass"
        return reply

    def _submit(self, inputs: Inputs, tasks: Tasks, options: Options) -> Call:
        return submit_infer(
            self._session,
            inputs,
            tasks,
            now=time.monotonic(),
            default_timeout_s=self._timeout_s,
            **options,
        )

    def _submit_or_error(
        self, inputs: Inputs, tasks: Tasks, options: Options
    ) -> Pending | EdgedError:
        try:
            return self.submit(inputs, tasks, **options)
        except EdgedError as error:
            return error

    def _cancel(self, call: Call) -> bool:
        if call.outcome is None:
            self._open()
        asked = self._session.cancel(call, timeout_s=self._timeout_s, now=time.monotonic())
        if asked is None:
            return isinstance(call.outcome, Cancelled)
        reply = reply_of(self._wait(asked)).header
        return isinstance(reply, wire.CancelReply) and reply.cancelled

    def _abandon(self, call: Call) -> None:
        if self._connection is not None:  # else it has ended, or is the parent's
            self._session.abandon(call, time.monotonic())

    def _wait(self, call: Call) -> Call:
        """`call` when it has ended, which its deadline makes sure of."""
        while call.outcome is None:
            self._turn()
        return call

    def _turn(self, *, wait: bool = True) -> None:
        """Send what is to be sent, wait until something happens, take it in."""
        connection = self._open()
        self._send(connection)
        if not (self._link_changed or has_message(connection.socket)):
            wait_s = max(0.0, self._session.wakeup_at() - time.monotonic()) if wait else 0.0
            changed = self._changes.poll(math.ceil(wait_s * 1e3))
            self._link_changed = self._monitor_fd in dict(changed)
        link_events: list[Link] = []
        if self._link_changed:
            self._link_changed = False
            while has_message(connection.monitor):
                link_events.append(link_event(connection.monitor.recv_multipart()))
        now = time.monotonic()
        # In this order: what had arrived when the connection broke is not lost with it.
        # When no call waits any more, nothing that matters can be there, and to look costs time.
        while self._session.calls and has_message(connection.socket):
            frames = [frame.bytes for frame in receive(connection.socket)]
            self._session.on_message(frames, now)
        for event in link_events:
            if event is Link.UP:
                self._session.on_connected(now)
            else:
                self._session.on_disconnected(now)
        self._session.on_time(now)
        self._session.take_ended()  # whoever waits looks at the call itself

    def _send(self, connection: Connection) -> bool:
        """Send what is to be sent. False: there is no room for all of it."""
        while self._session.can_send():
            if not has_room(connection.socket):
                return False
            send(connection.socket, self._session.next_to_send(time.monotonic()))
        return True

    def _open(self) -> Connection:
        if self._connection is None:
            if self._is_forked:
                raise forks.refusal()
            raise InvalidArgument("the client is not connected: use it in a with statement")
        if threading.get_ident() != self._thread:
            raise InvalidArgument("this client belongs to another thread: open one for each thread")
        return self._connection


def _outcome(pending: Pending | EdgedError) -> Result | EdgedError:
    if isinstance(pending, EdgedError):
        return pending
    try:
        return pending.result()
    except EdgedError as error:
        return error

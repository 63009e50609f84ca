"""The blocking client: a driver of `Session` with one socket, used by one thread.

While a method waits for its own answer it also takes in the answers of others, so that several
requests can be out at a time (`submit`, `infer_many`) without threads.
"""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeVar, overload

import zmq

from edged.client import forks
from edged.client.base import ClientBase, Window, is_cancelled
from edged.client.call import Call
from edged.client.link import DealerConnection, Link, link_event
from edged.client.questions import Inquiry
from edged.client.requests import Inputs, Options, Tasks
from edged.client.results import Result, reply_of, result_of
from edged.errors import EdgedError, InvalidArgument
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
        """Whether `result()` returns at once. Takes in what has arrived and does not wait."""
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


class Client(ClientBase):
    """A connection to a daemon.

        with Client("ipc:///run/edged/edged.sock") as client:
            result = client.infer(Path("rose.jpg"), ["flowers", "food"], top_k=3)
            print(result["flowers"].classes[0][0].label)

    Survives restarts of the daemon. Every method raises a coded error of `edged.errors`, at the
    latest after its time-out. One thread uses a client; open one for each thread, and after a fork
    one in each process: in a child, what it inherited refuses to be used.
    """

    _STATEMENT = "a with"
    _thread = 0  # identifier of the thread that connected

    # --- life ---------------------------------------------------------------------------------

    def connect(self) -> Client:
        """Connect, and ask for the daemon's limits. Raises Unavailable when no daemon answers."""
        connection = self._begin_connection(zmq.Context)
        self._link_changed = True  # it may have changed: the monitor was not read yet
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

        inputs   one image or several (bytes of files, or paths; uint8 RGB arrays of shape
                 (height, width, 3)), or the model's own tensors by name, of shape (rows, ...)
        tasks    names; or `wire.RequestedOutput`s, to ask for each in another way
        options  see `Options`
        """
        self._open()
        call = self._submit_infer(inputs, tasks, time.monotonic(), **options)
        try:
            return result_of(self._wait(call))
        finally:  # an interrupt must not leave the daemon at work
            self._abandon(call)

    def submit(self, inputs: Inputs, tasks: Tasks, **options: Unpack[Options]) -> Pending:
        """Begin an inference and return at once."""
        return Pending(self, self._submit(inputs, tasks, options))

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
        window = Window(many, in_flight, lambda inputs: self._submit(inputs, tasks, options))
        try:
            while (oldest := window.oldest()) is not None:
                outcome = self._outcome(oldest)
                window.drop_oldest()
                if isinstance(outcome, EdgedError) and not return_exceptions:
                    raise outcome
                yield outcome
        finally:
            for call in window.calls():
                self._abandon(call)

    # --- inside -------------------------------------------------------------------------------

    def _ask(self, inquiry: Inquiry[R]) -> R:
        self._open()
        return inquiry.read(self._wait(self._submit_inquiry(inquiry.header, time.monotonic())))

    def _submit(self, inputs: Inputs, tasks: Tasks, options: Options) -> Call:
        connection = self._open()
        call = self._submit_infer(inputs, tasks, time.monotonic(), **options)
        if not self._send(connection):
            self._turn(wait=False)
        return call

    def _outcome(self, call: Call | EdgedError) -> Result | EdgedError:
        if isinstance(call, EdgedError):
            return call
        try:
            return result_of(self._wait(call))
        except EdgedError as error:
            return error

    def _cancel(self, call: Call) -> bool:
        if call.outcome is None:
            self._open()
        asked = self._session.cancel(call, timeout_s=self._timeout_s, now=time.monotonic())
        if asked is not None:
            self._wait(asked)
        return is_cancelled(call, asked)

    def _abandon(self, call: Call) -> None:
        if self._connection is not None:  # else the call has ended, or is the parent's
            self._session.abandon(call, time.monotonic())

    def _wait(self, call: Call) -> Call:
        """`call`, when it has ended: at its deadline at the latest."""
        while call.outcome is None:
            self._turn()
        return call

    def _turn(self, *, wait: bool = True) -> None:
        """Send what can be sent; if `wait`, wait until something happens; take it in."""
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
        # Messages are read before events of the connection are told, so that none that had arrived
        # is lost when the connection broke. When no call is open no message matters, and looking
        # for one would cost time.
        while self._session.calls and has_message(connection.socket):
            frames = [frame.bytes for frame in receive(connection.socket)]
            self._session.on_message(frames, now)
        for event in link_events:
            if event is Link.UP:
                self._session.on_connected(now)
            else:
                self._session.on_disconnected(now)
        self._session.on_time(now)
        self._session.take_ended()  # `_wait` looks at the call itself

    def _send(self, connection: DealerConnection) -> bool:
        """Send what can be sent. False: the socket has no room for more."""
        while self._session.can_send():
            if not has_room(connection.socket):
                return False
            send(connection.socket, self._session.next_to_send(time.monotonic()))
        return True

    def _open(self) -> DealerConnection:
        connection = super()._open()
        if threading.get_ident() != self._thread:
            raise InvalidArgument("this client belongs to another thread: open one for each thread")
        return connection

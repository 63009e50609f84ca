"""The asyncio client: a driver of `Session` with one socket on the running event loop.

It has the methods of `edged.client.Client`; those that wait there are awaited here. Cancelling a
task that awaits an inference takes the request back from the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Coroutine, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import zmq
import zmq.asyncio

from edged.client import forks
from edged.client.base import ClientBase, Window, is_cancelled
from edged.client.call import Call
from edged.client.link import DealerConnection, Link, link_event
from edged.client.questions import Inquiry
from edged.client.requests import Inputs, Options, Tasks
from edged.client.results import Result, reply_of, result_of
from edged.errors import Cancelled, EdgedError
from edged.sockets import has_room, owned

if TYPE_CHECKING:
    from typing_extensions import Unpack

R = TypeVar("R")


class AsyncPending:
    """An inference that was submitted; await `result()` for it."""

    def __init__(self, client: AsyncClient, call: Call) -> None:
        self._client = client
        self._call = call

    @property
    def id(self) -> str:
        return self._call.id

    def done(self) -> bool:
        """Whether `result()` returns at once."""
        return self._call.outcome is not None

    async def result(self) -> Result:
        """The result. Raises the coded error that the request ended with."""
        return result_of(await self._client._wait(self._call))

    async def cancel(self) -> bool:
        """Take the request back. True: `result()` raises Cancelled. False: it was too late."""
        return await self._client._cancel(self._call)


class AsyncClient(ClientBase):
    """A connection to a daemon, for one event loop.

        async with AsyncClient("ipc:///run/edged/edged.sock") as client:
            result = await client.infer(Path("rose.jpg"), ["flowers", "food"], top_k=3)

    Survives restarts of the daemon. Any number of tasks may use it at a time. After a fork, open
    one in each process: in a child, what it inherited refuses to be used.
    """

    _STATEMENT = "an async with"
    _HEARTBEAT_S = 3.0  # it runs all the time, so that it can promise to be heard

    # --- life ---------------------------------------------------------------------------------

    async def connect(self) -> AsyncClient:
        """Connect, and ask for the daemon's limits. Raises Unavailable when no daemon answers."""
        connection = self._begin_connection(zmq.asyncio.Context)
        self._waiters: dict[Call, asyncio.Future[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._to_send = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        for job in (self._write(connection), self._read(connection), self._watch(connection)):
            self._start(job)
        try:
            now = _now()
            call = self._session.hello(timeout_s=self._connect_timeout_s, now=now)
            reply_of(await self._wait(call))
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Leave. Requests that are out are taken back. Closing twice does no harm."""
        if self._connection is None:
            return
        connection, self._connection = self._connection, None
        forks.forget(self)
        self._session.close(_now())
        self._settle()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        while self._session.can_send() and has_room(connection.socket):
            await self._send_next(connection)
        connection.close()
        for waiter in self._waiters.values():
            waiter.set_exception(Cancelled("the client was closed"))
        self._waiters.clear()

    def on_fork(self) -> None:
        connection = self._connection
        super().on_fork()
        self._waiters, self._timer = {}, None  # they belong to the parent's event loop
        if connection is not None:
            for socket in (connection.socket, connection.monitor):
                # pyzmq asks this object for events. A child that goes on with its parent's event
                # loop, if only to end it, would wait there for ever.
                socket._shadow_sock = _Closed

    async def __aenter__(self) -> AsyncClient:
        return await self.connect()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # --- inference ----------------------------------------------------------------------------

    async def infer(self, inputs: Inputs, tasks: Tasks, **options: Unpack[Options]) -> Result:
        """Do `tasks` on the rows of `inputs`; see `Client.infer`."""
        call = self._submit(inputs, tasks, options)
        try:
            return result_of(await self._wait(call))
        finally:  # a cancelled task must not leave the daemon at work
            self._abandon(call)

    def submit(self, inputs: Inputs, tasks: Tasks, **options: Unpack[Options]) -> AsyncPending:
        """Begin an inference and return at once."""
        return AsyncPending(self, self._submit(inputs, tasks, options))

    @overload
    def infer_many(
        self,
        many: Iterable[Inputs],
        tasks: Tasks,
        *,
        in_flight: int = ...,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[Options],
    ) -> AsyncIterator[Result]: ...

    @overload
    def infer_many(
        self,
        many: Iterable[Inputs],
        tasks: Tasks,
        *,
        in_flight: int = ...,
        return_exceptions: bool,
        **options: Unpack[Options],
    ) -> AsyncIterator[Result | EdgedError]: ...

    async def infer_many(
        self,
        many: Iterable[Inputs],
        tasks: Tasks,
        *,
        in_flight: int = 16,
        return_exceptions: bool = False,
        **options: Unpack[Options],
    ) -> AsyncIterator[Result | EdgedError]:
        """`infer` for each of `many`, a bounded number at a time; see `Client.infer_many`."""
        window = Window(many, in_flight, lambda inputs: self._submit(inputs, tasks, options))
        try:
            while (oldest := window.oldest()) is not None:
                outcome = await self._outcome(oldest)
                window.drop_oldest()
                if isinstance(outcome, EdgedError) and not return_exceptions:
                    raise outcome
                yield outcome
        finally:
            for call in window.calls():
                self._abandon(call)

    # --- inside -------------------------------------------------------------------------------

    async def _ask(self, inquiry: Inquiry[R]) -> R:
        self._open()
        return inquiry.read(await self._wait(self._submit_inquiry(inquiry.header, _now())))

    def _submit(self, inputs: Inputs, tasks: Tasks, options: Options) -> Call:
        self._open()
        call = self._submit_infer(inputs, tasks, _now(), **options)
        self._settle()
        return call

    async def _outcome(self, call: Call | EdgedError) -> Result | EdgedError:
        if isinstance(call, EdgedError):
            return call
        try:
            return result_of(await self._wait(call))
        except EdgedError as error:
            return error

    async def _cancel(self, call: Call) -> bool:
        if call.outcome is None:
            self._open()
        asked = self._session.cancel(call, timeout_s=self._timeout_s, now=_now())
        self._settle()
        if asked is not None:
            await self._wait(asked)
        return is_cancelled(call, asked)

    def _abandon(self, call: Call) -> None:
        if self._connection is not None:  # else the call has ended, or is the parent's
            self._session.abandon(call, _now())
            self._settle()

    async def _wait(self, call: Call) -> Call:
        """`call`, when it has ended: at its deadline at the latest."""
        self._settle()
        if call.outcome is None:
            self._open()
            waiter = self._waiters.setdefault(call, asyncio.get_running_loop().create_future())
            await asyncio.shield(waiter)
        return call

    def _settle(self) -> None:
        """Wake the tasks whose calls have ended and the writer, and set the timer anew."""
        for call in self._session.take_ended():
            if (waiter := self._waiters.pop(call, None)) is not None:
                waiter.set_result(None)
        if self._session.can_send():
            self._to_send.set()
        if self._timer is not None:
            self._timer.cancel()
        wakeup_s = self._session.wakeup_at()
        if wakeup_s < math.inf and self._connection is not None:
            self._timer = asyncio.get_running_loop().call_at(wakeup_s, self._on_timer)

    def _on_timer(self) -> None:
        self._session.on_time(_now())
        self._settle()

    async def _write(self, connection: DealerConnection) -> None:
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self._session.can_send():
                await self._send_next(connection)
            self._settle()

    async def _send_next(self, connection: DealerConnection) -> None:
        frames = owned(self._session.next_to_send(_now()))
        await connection.socket.send_multipart(frames, copy=False)

    async def _read(self, connection: DealerConnection) -> None:
        while True:
            frames = await connection.socket.recv_multipart()
            self._session.on_message(frames, _now())
            self._settle()

    async def _read_rest(self, connection: DealerConnection) -> None:
        """Read the messages that had arrived when the connection broke."""
        with contextlib.suppress(zmq.Again):
            while True:
                frames = await connection.socket.recv_multipart(zmq.NOBLOCK)
                self._session.on_message(frames, _now())

    async def _watch(self, connection: DealerConnection) -> None:
        while True:
            if link_event(await connection.monitor.recv_multipart()) is Link.UP:
                self._session.on_connected(_now())
            else:
                await self._read_rest(connection)
                self._session.on_disconnected(_now())
            self._settle()

    def _start(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(job)
        task.add_done_callback(self._on_job_done)
        self._tasks.append(task)

    def _on_job_done(self, task: asyncio.Task[None]) -> None:
        """A job runs until `close`. If one fails, every task that waits gets its error."""
        if not task.cancelled() and (error := task.exception()) is not None:
            for waiter in self._waiters.values():
                waiter.set_exception(error)
            self._waiters.clear()


class _Closed:
    """A socket as pyzmq sees it when it is closed."""

    closed = True

    @staticmethod
    def get(option: int) -> int:
        return 0


def _now() -> float:
    return asyncio.get_running_loop().time()

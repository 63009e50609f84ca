"""The asyncio client: a driver of `Session` with one socket on the running event loop.

The same surface as `edged.client.Client`; what waits there is awaited here. Cancelling a task that
awaits an inference takes the request back from the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import zmq
import zmq.asyncio

from edged import wire
from edged.client import forks
from edged.client.call import Call, Retry, positive_count, positive_s
from edged.client.link import Connection, Link, checked_endpoint, connect, link_event
from edged.client.requests import Inputs, Options, Tasks, submit_infer
from edged.client.results import Result, reply_of, result_of
from edged.client.session import Session
from edged.errors import Cancelled, EdgedError, InvalidArgument
from edged.sharedmem.writer import DEFAULT_BYTES, shared_bytes
from edged.sockets import has_room, owned

if TYPE_CHECKING:
    from typing_extensions import Unpack

R = TypeVar("R")

HEARTBEAT_S = 3.0


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


class AsyncClient:
    """A connection to a daemon, for one event loop.

        async with AsyncClient("ipc:///run/edged/edged.sock") as client:
            result = await client.infer(Path("rose.jpg"), ["flowers", "food"], top_k=3)

    Survives restarts of the daemon. Any number of tasks may use it at a time. After a fork, open
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
            heartbeat_s=HEARTBEAT_S,
            share_bytes=shared_bytes(endpoint, share_bytes),
        )
        self._connection: Connection | None = None
        self._waiters: dict[Call, asyncio.Future[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._to_send = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_forked = False  # this is a child of the process that connected

    # --- life ---------------------------------------------------------------------------------

    async def connect(self) -> AsyncClient:
        """Connect and hear the daemon's limits. Raises Unavailable when no daemon answers."""
        if self._connection is not None:
            raise InvalidArgument("the client is connected already: connect it once")
        if self._is_forked:
            raise forks.refusal()
        connection = self._connection = connect(zmq.asyncio.Context(), self._endpoint)
        forks.watch(self)
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
        """For `edged.client.forks`."""
        self._session.leave_memory()
        self._session = Session(self._endpoint, Retry())
        self._waiters, self._timer = {}, None  # of the parent's event loop
        if self._connection is not None:
            forks.leave(self._connection)
            for socket in (self._connection.socket, self._connection.monitor):
                # What pyzmq asks for events: a child that goes on with its parent's event loop, if
                # only to end it, would wait there for ever.
                socket._shadow_sock = _Closed
        self._connection, self._is_forked = None, True

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
        pending = self.submit(inputs, tasks, **options)
        try:
            return await pending.result()
        finally:  # a cancelled task must not leave the daemon at work
            self._abandon(pending)

    def submit(self, inputs: Inputs, tasks: Tasks, **options: Unpack[Options]) -> AsyncPending:
        """As `infer`, but returns at once."""
        self._open()
        call = submit_infer(
            self._session,
            inputs,
            tasks,
            now=_now(),
            default_timeout_s=self._timeout_s,
            **options,
        )
        self._settle()
        return AsyncPending(self, call)

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
        window: deque[AsyncPending | EdgedError] = deque()
        source = iter(many)
        positive_count(in_flight, "in_flight")
        try:
            while True:
                for inputs in islice(source, in_flight - len(window)):
                    window.append(self._submit_or_error(inputs, tasks, options))
                if not window:
                    return
                outcome = await _outcome(window[0])
                window.popleft()
                if isinstance(outcome, EdgedError) and not return_exceptions:
                    raise outcome
                yield outcome
        finally:
            for pending in window:
                if isinstance(pending, AsyncPending):
                    self._abandon(pending)

    # --- questions ----------------------------------------------------------------------------

    async def live(self) -> bool:
        """Whether the daemon's front answers."""
        return (await self._ask(wire.LiveReply, wire.ServerLive)).live

    async def ready(self) -> wire.ReadyReply:
        """Whether it takes requests, and if not, why."""
        return await self._ask(wire.ReadyReply, wire.ServerReady)

    async def metadata(self) -> wire.ServerMetadataReply:
        """Version, extensions, limits."""
        return await self._ask(wire.ServerMetadataReply, wire.ServerMetadata)

    async def models(self, *, ready: bool = False) -> tuple[wire.ModelState, ...]:
        """The models of the repository, or only those that can be used now."""
        return (await self._ask(wire.RepositoryIndexReply, wire.RepositoryIndex, ready)).models

    async def model(self, name: str) -> wire.ModelMetadataReply:
        """Inputs, outputs, labels of a task's default model, or of a model."""
        return await self._ask(wire.ModelMetadataReply, wire.ModelMetadata, name)

    async def model_ready(self, name: str) -> wire.ModelReadyReply:
        """Whether a task's default model, or a model, can be used now."""
        return await self._ask(wire.ModelReadyReply, wire.ModelReady, name)

    async def statistics(self) -> wire.StatisticsReply:
        """Counts and times since the daemon started."""
        return await self._ask(wire.StatisticsReply, wire.Statistics)

    async def ping(self) -> float:
        """Seconds to the daemon's front and back."""
        began_s = _now()
        await self._ask(wire.PingReply, wire.Ping)
        return _now() - began_s

    # --- inside -------------------------------------------------------------------------------

    async def _ask(
        self, reply_type: type[R], request_type: Callable[..., wire.RequestHeader], *fields: Any
    ) -> R:
        self._open()
        header = request_type(self._session.next_id(), *fields)
        call = self._session.submit(header, timeout_s=self._timeout_s, now=_now())
        reply = reply_of(await self._wait(call)).header
        assert isinstance(reply, reply_type), "this is a bug: the session lets no other pass"
        return reply

    def _submit_or_error(
        self, inputs: Inputs, tasks: Tasks, options: Options
    ) -> AsyncPending | EdgedError:
        try:
            return self.submit(inputs, tasks, **options)
        except EdgedError as error:
            return error

    async def _cancel(self, call: Call) -> bool:
        if call.outcome is None:
            self._open()
        asked = self._session.cancel(call, timeout_s=self._timeout_s, now=_now())
        self._settle()
        if asked is None:
            return isinstance(call.outcome, Cancelled)
        reply = reply_of(await self._wait(asked)).header
        return isinstance(reply, wire.CancelReply) and reply.cancelled

    def _abandon(self, pending: AsyncPending) -> None:
        if self._connection is not None:  # else it has ended, or is the parent's
            self._session.abandon(pending._call, _now())
            self._settle()

    async def _wait(self, call: Call) -> Call:
        """`call` when it has ended, which its deadline makes sure of."""
        self._settle()
        if call.outcome is None:
            self._open()
            waiter = self._waiters.setdefault(call, asyncio.get_running_loop().create_future())
            await asyncio.shield(waiter)
        return call

    def _settle(self) -> None:
        """After whatever has happened: wake those who wait, the writer, and oneself in time."""
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

    async def _write(self, connection: Connection) -> None:
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self._session.can_send():
                await self._send_next(connection)
            self._settle()

    async def _send_next(self, connection: Connection) -> None:
        frames = owned(self._session.next_to_send(_now()))
        await connection.socket.send_multipart(frames, copy=False)

    async def _read(self, connection: Connection) -> None:
        while True:
            frames = await connection.socket.recv_multipart()
            self._session.on_message(frames, _now())
            self._settle()

    async def _read_rest(self, connection: Connection) -> None:
        """What had arrived when the connection broke is not lost with it."""
        with contextlib.suppress(zmq.Again):
            while True:
                frames = await connection.socket.recv_multipart(zmq.NOBLOCK)
                self._session.on_message(frames, _now())

    async def _watch(self, connection: Connection) -> None:
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
        """A job runs until `close`; one that dies takes those who wait with it."""
        if not task.cancelled() and (error := task.exception()) is not None:
            for waiter in self._waiters.values():
                waiter.set_exception(error)
            self._waiters.clear()

    def _open(self) -> None:
        if self._connection is None:
            if self._is_forked:
                raise forks.refusal()
            raise InvalidArgument("the client is not connected: use it in an async with statement")


class _Closed:
    """A socket as pyzmq sees it when it is closed."""

    closed = True

    @staticmethod
    def get(option: int) -> int:
        return 0


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _outcome(pending: AsyncPending | EdgedError) -> Result | EdgedError:
    if isinstance(pending, EdgedError):
        return pending
    try:
        return await pending.result()
    except EdgedError as error:
        return error

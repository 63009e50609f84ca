"""The asyncio client over real sockets: what its twin's tests do not cover."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from zmq.utils import garbage

from edged import wire
from edged.client import Client, Retry
from edged.client.aio import AsyncClient
from edged.errors import (
    Cancelled,
    DeadlineExceeded,
    EdgedError,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from tests.client.fake_daemon import FakeDaemon, Received, error, infer_reply, other_reply

PATIENCE_S = 10.0


def with_client(
    daemon: FakeDaemon, test: Callable[[AsyncClient], Awaitable[None]], **options: Retry
) -> None:
    """Run `test` with a connected client."""

    async def run() -> None:
        async with AsyncClient(daemon.endpoint, timeout_s=PATIENCE_S, **options) as client:
            await test(client)

    asyncio.run(run(), debug=True)


def cancels(daemon: FakeDaemon) -> set[str]:
    """The requests that clients took back."""
    headers = (received.request.header for received in daemon.received)
    return {header.request for header in headers if isinstance(header, wire.Cancel)}


def test_many_tasks_share_one_client(daemon: FakeDaemon) -> None:
    async def test(client: AsyncClient) -> None:
        rows = [1 + n % 8 for n in range(50)]
        results = await asyncio.gather(
            *(client.infer([b"jpeg"] * n, "flowers", top_k=1) for n in rows)
        )
        assert [len(result["flowers"].classes) for result in results] == rows

    with_client(daemon, test)
    assert len({received.id for received in daemon.infers}) == 50


def test_large_payloads_need_no_collector_thread_of_pyzmq(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes parts of it twice when several threads send their first such message together."""
    collected: list[object] = []
    store = garbage.gc.store
    monkeypatch.setattr(
        garbage.gc, "store", lambda obj, event=None: collected.append(obj) or store(obj, event)
    )
    pixels = np.full((200, 300, 3), 7, np.uint8)
    file = bytes(range(256)) * 1000

    async def test(client: AsyncClient) -> None:
        await client.infer(file, "flowers")
        await client.infer(pixels, "flowers")
        await client.infer(bytearray(file), "flowers", announce=True)

    with_client(daemon, test)
    assert not collected
    sent = [b"".join(map(bytes, received.request.payload)) for received in daemon.infers]
    assert sent == [file, pixels.tobytes(), file]


def test_questions(daemon: FakeDaemon) -> None:
    async def test(client: AsyncClient) -> None:
        assert await client.live()
        assert (await client.ready()).ready
        assert (await client.metadata()).limits.max_rows == 8
        assert [model.name for model in await client.models()] == ["flowers-net", "food-net"]
        assert (await client.model("flowers")).labels[1] == "rose"
        assert (await client.model_ready("flowers")).ready
        assert (await client.statistics()).server.pid == 42
        assert 0 < await client.ping() < PATIENCE_S

    with_client(daemon, test)


def test_a_question_is_asked_through_the_class_as_well() -> None:
    """As in `pool.map(Client.ping, clients)`."""
    asked = []

    class Here:
        def _next_id(self) -> str:
            return "1"

        def _ask(self, inquiry: object) -> str:
            asked.append(inquiry)
            return "answer"

    assert Client.ping(Here()) == "answer"
    assert len(asked) == 1


def test_both_clients_have_the_same_methods_and_each_says_what_it_does() -> None:
    def methods(client: type) -> set[str]:
        return {name for name in dir(client) if not name.startswith("_")}

    assert methods(Client) == methods(AsyncClient) >= {"infer", "infer_many", "live", "ping"}
    for client in (Client, AsyncClient):
        for name in methods(client):
            assert inspect.getdoc(getattr(client, name)), name
    assert str(inspect.signature(Client.models)).startswith("(self, *, ready: 'bool' = False)")


def test_infer_many_in_order_with_errors_at_their_place(daemon: FakeDaemon) -> None:
    daemon.answer = lambda received: [
        error(received, NotFound("no"))
        if received.request.payload[0] == b"bad"
        else infer_reply(received)
    ]

    async def test(client: AsyncClient) -> None:
        many = [b"a", b"bad", b"", [b"c", b"d"]]
        outcomes = [
            outcome async for outcome in client.infer_many(many, "flowers", return_exceptions=True)
        ]
        kinds = [type(outcome).__name__ for outcome in outcomes]
        assert kinds == ["Result", "NotFound", "InvalidArgument", "Result"]
        with pytest.raises(NotFound):
            async for _ in client.infer_many(many, "flowers"):
                pass

    with_client(daemon, test)


def test_a_cancelled_task_takes_its_request_back(daemon: FakeDaemon) -> None:
    arrived = threading.Event()

    def swallow(received: Received) -> list[wire.Frames]:
        arrived.set()
        return []

    daemon.answer = swallow

    async def test(client: AsyncClient) -> None:
        task = asyncio.create_task(client.infer(b"jpeg", "flowers"))
        assert await asyncio.to_thread(arrived.wait, PATIENCE_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.ping()
        assert cancels(daemon) == {daemon.infers[0].id}

    with_client(daemon, test)


def test_cancel_is_answered_by_the_daemon(daemon: FakeDaemon) -> None:
    daemon.answer = lambda received: []

    def cancelled(received: Received) -> list[wire.Frames]:
        header = received.request.header
        if not isinstance(header, wire.Cancel):
            return [other_reply(received)]
        return [
            wire.encode_error(Cancelled("taken back"), header.request),
            wire.encode_reply(wire.CancelReply(header.id, True)),
        ]

    daemon.answer_others = cancelled

    async def test(client: AsyncClient) -> None:
        pending = client.submit(b"jpeg", "flowers")
        await client.ping()  # it is out
        assert await pending.cancel()
        assert pending.done()
        with pytest.raises(Cancelled):
            await pending.result()
        daemon.answer = lambda received: [infer_reply(received)]
        pending = client.submit(b"jpeg", "flowers")
        await pending.result()
        assert not await pending.cancel()

    with_client(daemon, test)


def test_a_restart_of_the_daemon_costs_no_request(daemon: FakeDaemon) -> None:
    arrived = threading.Event()

    def swallow(received: Received) -> list[wire.Frames]:
        arrived.set()
        return []

    daemon.answer = swallow

    async def test(client: AsyncClient) -> None:
        pending = client.submit(b"jpeg", "flowers")
        await asyncio.to_thread(arrived.wait, PATIENCE_S)
        daemon.stop()
        daemon.answer = lambda received: [infer_reply(received)]
        daemon.start()
        await pending.result()

    with_client(daemon, test, retry=Retry(resend_after_s=1000.0))
    before, after = daemon.infers
    assert (before.client, before.id) == (after.client, after.id)


def test_answers_that_came_before_the_connection_broke_count(daemon: FakeDaemon) -> None:
    asked = threading.Semaphore(0)

    def count(received: Received) -> list[wire.Frames]:
        asked.release()
        return [infer_reply(received)]

    daemon.answer = count

    async def test(client: AsyncClient) -> None:
        pending = [client.submit(b"jpeg", "flowers") for _ in range(4)]
        for _ in pending:
            assert await asyncio.to_thread(asked.acquire, timeout=PATIENCE_S)
        daemon.stop()  # the loop stands still meanwhile
        assert [(await p.result()).sends for p in pending] == [1] * 4

    with_client(daemon, test, retry=Retry(attempts=1))


def test_no_answer_in_time(daemon: FakeDaemon) -> None:
    daemon.answer = lambda received: []

    async def test(client: AsyncClient) -> None:
        with pytest.raises(DeadlineExceeded):
            await client.infer(b"jpeg", "flowers", timeout_s=0.05)
        await client.ping()
        assert cancels(daemon) == {daemon.infers[0].id}

    with_client(daemon, test)


def test_close_ends_those_who_wait_and_takes_their_requests_back(daemon: FakeDaemon) -> None:
    arrived = threading.Event()
    told = threading.Event()

    def swallow(received: Received) -> list[wire.Frames]:
        arrived.set()
        return []

    def note_cancel(received: Received) -> list[wire.Frames]:
        if isinstance(received.request.header, wire.Cancel):
            told.set()
        return [other_reply(received)]

    daemon.answer, daemon.answer_others = swallow, note_cancel

    async def run() -> None:
        client = await AsyncClient(daemon.endpoint).connect()
        task = asyncio.create_task(client.infer(b"jpeg", "flowers"))
        await asyncio.to_thread(arrived.wait, PATIENCE_S)
        await client.close()
        await client.close()
        with pytest.raises(Cancelled):
            await task
        with pytest.raises(InvalidArgument, match="not connected"):
            await client.ping()

    asyncio.run(run(), debug=True)
    assert told.wait(PATIENCE_S)


def test_close_ends_those_who_wait_for_a_cancel_that_has_not_gone_out(daemon: FakeDaemon) -> None:
    daemon.answer = lambda received: []

    async def run() -> None:
        client = await AsyncClient(daemon.endpoint).connect()
        pending = client.submit(b"jpeg", "flowers")
        await client.ping()  # it is out
        cancelling = asyncio.create_task(pending.cancel())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(Cancelled):
            await asyncio.wait_for(cancelling, PATIENCE_S)

    asyncio.run(run(), debug=True)


def test_a_bug_in_a_job_reaches_those_who_wait(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(client: AsyncClient) -> None:
        monkeypatch.setattr(client._session, "on_message", lambda frames, now: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await client.ping()

    with_client(daemon, test)


def test_nobody_there(tmp_path: Path) -> None:
    client = AsyncClient(
        f"ipc://{tmp_path}/none.sock", connect_timeout_s=0.05, retry=Retry(attempts=1)
    )
    with pytest.raises(Unavailable, match="is it running"):
        asyncio.run(client.connect(), debug=True)


def test_somebody_else_there(daemon: FakeDaemon) -> None:
    daemon.answer_others = lambda received: [[b"HTTP/1.1 400"]]
    with pytest.raises(EdgedError, match="reply"):
        asyncio.run(AsyncClient(daemon.endpoint).connect(), debug=True)

"""Announced uploads at the front, without sockets: grants, chunks, and every way they end."""

from __future__ import annotations

from typing import Any

import pytest

from edged import wire
from edged.config import Config
from edged.errors import Code
from edged.uplink.grants import UplinkSettings
from tests.daemon.samples import OTHER_BACKBONE, Bench, catalog, infer, manifest

GATHER_S = 0.01
UPLINK = 1_000_000


def bench_with(**options: Any) -> Bench:
    uplink = UplinkSettings(**{"rate_bytes_s": UPLINK, "gather_s": GATHER_S, **options})
    models = catalog(manifest("flowers"), manifest("food"), manifest("b", backbone=OTHER_BACKBONE))
    bench = Bench(Config(uplink=uplink), models)
    bench.worker_is_ready()
    return bench


@pytest.fixture
def bench() -> Bench:
    return bench_with()


def announce(
    bench: Bench, client: bytes = b"one", size: int = 8, id: str = "a1", **more: Any
) -> None:
    bench.ask(
        wire.Announce(id, **{"request": "r1", "task": "flowers", **more}, bytes=size), client=client
    )


def chunk(bench: Bench, data: bytes, offset: int = 0, client: bytes = b"one") -> None:
    bench.front.on_request(client, wire.encode_request(wire.Chunk("r1", offset), [data]), bench.now)


def sent(bench: Bench, size: int, offset: int = 0, client: bytes = b"one") -> None:
    """A chunk that is taken."""
    chunk(bench, bytes(size), offset, client)
    assert bench.reply().header == wire.ChunkReply("r1", offset + size)


def uploaded(*sizes: int, rows: int = 1) -> wire.Infer:
    return infer("r1", shape=(rows,), parameters=wire.InferParameters(upload=sizes))


def pass_time(bench: Bench, seconds: float) -> None:
    """As the loop does: wake the front whenever it wants to be."""
    until = bench.now + seconds
    while (at := bench.front.wakeup_at()) <= until:
        bench.now = max(bench.now, at)
        bench.front.on_woke(bench.now)
    bench.now = until


def grants(bench: Bench) -> dict[bytes, wire.GrantReply]:
    pass_time(bench, GATHER_S)
    sent, bench.sent = bench.sent, []
    assert all(isinstance(reply.header, wire.GrantReply) for _, reply in sent)
    return {client: reply.header for client, reply in sent}


def test_chunks_become_the_payload_of_the_request(bench):
    announce(bench, size=11)
    (grant,) = grants(bench).values()
    assert grant == wire.GrantReply("a1", 0, UPLINK, grant.lease_us)
    chunk(bench, b"JPEG1")
    chunk(bench, b"JPEG-2", offset=5)
    assert [reply.header.received for _, reply in bench.sent] == [5, 11]
    bench.sent.clear()
    bench.ask(uploaded(5, 6, rows=2), (), client=b"one")
    assert [bytes(frame) for frame in bench.payloads[0]] == [b"JPEG1", b"JPEG-2"]
    bench.finish()
    assert isinstance(bench.reply().header, wire.InferReply)
    pass_time(bench, 60.0)
    assert bench.sent == []


def test_requests_of_one_batch_are_granted_together_and_others_after_them(bench):
    announce(bench, b"one", size=1000)
    announce(bench, b"two", size=3000, task="food")
    announce(bench, b"three", size=100, task="b")
    together = grants(bench)
    assert {client: grant.rate_bytes_s for client, grant in together.items()} == {
        b"one": UPLINK // 4,
        b"two": UPLINK * 3 // 4,
    }
    sent(bench, 1000, client=b"one")
    sent(bench, 3000, client=b"two")
    assert set(grants(bench)) == {b"three"}


def test_where_nothing_is_shared_out_the_answer_says_so():
    bench = Bench()
    bench.worker_is_ready()
    announce(bench)
    assert grants(bench) == {b"one": wire.GrantReply("a1")}


def test_a_client_that_does_not_announce_is_served_at_once(bench):
    announce(bench, size=10_000_000)
    grants(bench)
    bench.ask(infer("r2"), client=b"two")
    bench.finish()
    assert bench.reply().header.id == "r2"


def test_a_repeated_announcement_is_answered_once_and_a_new_one_replaces_it(bench):
    announce(bench)
    announce(bench)
    announce(bench, id="a2", size=9)
    pass_time(bench, GATHER_S)
    (_, old), (_, new) = bench.sent
    assert (old.header.id, old.header.code) == ("a1", Code.CANCELLED.value)
    assert isinstance(new.header, wire.GrantReply)
    assert new.header.id == "a2"


def test_an_upload_that_stops_is_given_up_and_said_once(bench):
    announce(bench, size=100)
    grants(bench)
    sent(bench, 10)
    pass_time(bench, 3.0)
    error = bench.reply().header
    assert (error.id, error.code, error.retry_after_us) == ("r1", "UNAVAILABLE", 0)
    chunk(bench, bytes(10), offset=10)
    assert bench.sent == []
    bench.ask(uploaded(100), (), client=b"one")
    error = bench.reply().header
    assert (error.id, error.code, error.retry_after_us) == ("r1", "UNAVAILABLE", 0)


def test_an_upload_goes_on_under_a_second_grant():
    bench = bench_with(max_lease_s=1.0)
    announce(bench, size=2_000_000)
    grants(bench)
    sent(bench, 1_500_000)
    announce(bench, size=500_000, sent=1_500_000, id="a2")
    (grant,) = grants(bench).values()
    assert grant.id == "a2"
    sent(bench, 500_000, offset=1_500_000)
    bench.ask(uploaded(2_000_000), (), client=b"one")
    bench.finish()
    assert isinstance(bench.reply().header, wire.InferReply)


@pytest.mark.parametrize(
    ("data", "offset", "code"), [(b"12", 3, "UNAVAILABLE"), (bytes(9), 0, "INVALID_ARG")]
)
def test_chunks_that_do_not_fit_end_the_upload_with_one_error(bench, data, offset, code):
    announce(bench, size=8)
    grants(bench)
    chunk(bench, data, offset)
    chunk(bench, data, offset + len(data))
    error = bench.reply().header
    assert (error.id, error.code) == ("r1", code)


@pytest.mark.parametrize(
    ("sizes", "code", "says"),
    [((9,), "INVALID_ARG", "9 bytes were uploaded, 8 came"), ((4, 4), "INVALID_ARG", "2 payload")],
)
def test_a_request_whose_sizes_are_not_those_that_came_is_refused(bench, sizes, code, says):
    announce(bench, size=8)
    grants(bench)
    sent(bench, 8)
    bench.ask(uploaded(*sizes), (), client=b"one")
    error = bench.reply().header
    assert (error.id, error.code) == ("r1", code)
    assert says in error.error


def test_a_request_that_nobody_uploaded_is_refused(bench):
    bench.ask(uploaded(8), (), client=b"one")
    assert bench.reply().header.code == "UNAVAILABLE"


def test_cancelling_gives_the_grant_back_and_answers_everything(bench):
    announce(bench, b"one", size=10_000_000)
    grants(bench)
    announce(bench, b"two")
    bench.ask(wire.Cancel("c1", "r1"), client=b"two")
    bench.ask(wire.Cancel("c2", "r1"), client=b"one")
    announce(bench, b"three")
    pass_time(bench, GATHER_S)
    told = sorted((client, reply.header.id, type(reply.header)) for client, reply in bench.sent)
    assert told == sorted(
        [
            (b"one", "c2", wire.CancelReply),
            (b"one", "r1", wire.ErrorReply),
            (b"three", "a1", wire.GrantReply),
            (b"two", "a1", wire.ErrorReply),
            (b"two", "c1", wire.CancelReply),
            (b"two", "r1", wire.ErrorReply),
        ]
    )


def test_a_vanished_client_is_passed_over(bench):
    announce(bench, b"one", size=10_000_000)
    announce(bench, b"two", task="b")
    bench.gone.add(b"one")
    pass_time(bench, GATHER_S)
    assert [client for client, _ in bench.sent] == [b"two"]


def test_unknown_tasks_are_refused_before_anything_is_uploaded(bench):
    announce(bench, task="birds")
    assert bench.reply().header.code == "NOT_FOUND"


def test_a_daemon_that_shuts_down_grants_nothing(bench):
    announce(bench)
    bench.front.on_drain(bench.now)
    announce(bench, b"two")
    pass_time(bench, GATHER_S)
    codes = {(client, reply.header.id, reply.header.code) for client, reply in bench.sent}
    assert codes == {(b"one", "a1", "UNAVAILABLE"), (b"two", "a1", "UNAVAILABLE")}


def test_one_client_cannot_fill_the_table():
    bench = bench_with()
    for n in range(100):
        announce(bench, id=f"a{n}", request=f"r{n}")
    refused = [reply.header for _, reply in bench.sent]
    assert len(refused) == 100 - Config().limits.max_in_flight
    assert {error.code for error in refused} == {"RESOURCE_EXHAUSTED"}
    bench.sent.clear()
    announce(bench, b"two")
    assert bench.sent == []


def test_what_was_uploaded_is_known_to_be_held_until_its_request_is_answered(bench: Bench) -> None:
    """Else a large upload would look like a message that never ends, and clients be cut off."""
    announce(bench, size=800)
    pass_time(bench, GATHER_S)
    assert isinstance(bench.reply().header, wire.GrantReply)
    sent(bench, 500)
    assert bench.front.received_bytes == 500
    sent(bench, 300, offset=500)
    assert bench.front.received_bytes == 800
    bench.ask(uploaded(4, 796, rows=2), (), client=b"one")
    assert bench.front.received_bytes == 800
    bench.finish()
    assert bench.front.received_bytes == 0

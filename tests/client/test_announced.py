"""Announced uploads in virtual time: what a session sends when, and every way an upload can end."""

from __future__ import annotations

import pytest

from edged import wire
from edged.client.call import Call, CallStage, Retry
from edged.client.session import Session
from edged.errors import Cancelled, NotFound, Unavailable
from edged.uplink.sender import WINDOW_S, Upload

RATE = 100_000
SIZE = 50_000
RETRY = Retry(attempts=3, resend_after_s=5.0, backoff_s=0.5)


def connected(*extensions: str) -> Session:
    """A session at time 0 that has heard what the daemon can do."""
    session = Session("ipc:///x", RETRY)
    session.on_connected(0.0)
    ((hello, _),) = sent(session, 0.0)
    reply = wire.ServerMetadataReply(hello.id, "edged", "1", extensions or ("grants",))
    session.on_message(wire.encode_reply(reply), 0.0)
    return session


def sent(session: Session, now: float) -> list[tuple[wire.RequestHeader, bytes]]:
    """Everything that the session wants to be sent now."""
    messages = []
    while session.can_send():
        request = wire.decode_request(session.next_to_send(now), wire.Limits())
        messages.append((request.header, b"".join(bytes(frame) for frame in request.payload)))
    return messages


def submit(session: Session, payload: bytes, *, link: int | None = None, now: float = 0.0) -> Call:
    header = wire.Infer(
        session.next_id(),
        (wire.InputTensor("image", "BYTES", (1,)),),
        (wire.RequestedOutput("flowers"),),
    )
    upload = Upload([payload], link)
    return session.submit(header, [payload], timeout_s=30.0, now=now, upload=upload)


def announced(session: Session, now: float) -> wire.Announce:
    ((header, _),) = sent(session, now)
    assert isinstance(header, wire.Announce)
    return header


def grant(
    session: Session,
    announce: wire.Announce,
    now: float,
    *,
    lease_s: float = 1.0,
    start_s: float = 0.0,
) -> None:
    reply = wire.GrantReply(announce.id, round(start_s * 1e6), RATE, round(lease_s * 1e6))
    session.on_message(wire.encode_reply(reply), now)


def acknowledge(session: Session, call: Call, received: int, now: float) -> None:
    session.on_message(wire.encode_reply(wire.ChunkReply(call.id, received)), now)


def upload(
    session: Session, call: Call, now: float, until: float, *, acknowledging: bool = True
) -> list[tuple[float, wire.RequestHeader, bytes]]:
    """Drive the session; what it sends, and when."""
    log = []
    while True:
        for header, payload in sent(session, now):
            log.append((now, header, payload))
            if isinstance(header, wire.Chunk) and acknowledging:
                acknowledge(session, call, header.offset + len(payload), now)
        if session.can_send():
            continue
        if session.wakeup_at() > until:
            return log
        now = max(now, session.wakeup_at())
        session.on_time(now)


def test_an_upload_is_announced_and_paced_and_followed_by_its_request():
    session = connected()
    payload = bytes(range(250)) * (SIZE // 250)
    call = submit(session, payload, link=2 * RATE)
    announce = announced(session, 0.0)
    assert announce == wire.Announce(
        announce.id, call.id, "flowers", SIZE, rows=1, link_bytes_s=2 * RATE
    )
    assert session.wakeup_at() > 1.0
    grant(session, announce, 1.0, start_s=0.5)
    assert sent(session, 1.0) == []
    log = upload(session, call, 1.0, 3.0)
    *chunks, (ended_s, last, nothing) = log
    assert b"".join(data for _, _, data in chunks) == payload
    assert last.parameters.upload == (SIZE,)
    assert nothing == b""
    first_s, _, first = chunks[0]
    assert first_s == 1.5
    assert len(first) == 4096
    for at, header, data in chunks:
        assert header.offset + len(data) <= len(first) + RATE * (at - first_s) + 1e-3
    assert ended_s == pytest.approx(1.5 + (SIZE - len(first)) / RATE)
    assert last.parameters.timeout == pytest.approx((30.0 - ended_s) * 1e6, rel=1e-3)
    session.on_message(
        wire.encode_reply(
            wire.InferReply(call.id, (wire.OutputTensor("flowers", "n", "x", "UINT8", (1,)),)),
            [b"\1"],
        ),
        3.0,
    )
    assert isinstance(call.outcome, wire.ReplyMessage)
    assert session.stray_replies == 0


def test_a_late_driver_catches_up_only_a_little():
    session = connected()
    call = submit(session, bytes(SIZE))
    grant(session, announced(session, 0.0), 0.0)
    sent(session, 0.0)
    acknowledge(session, call, 4096, 0.0)
    session.on_time(0.4)
    at_once = sum(len(data) for _, data in sent(session, 0.4))
    assert 4096 < at_once <= 3 * 4096


@pytest.mark.parametrize("extension", ["grants", "none"])
def test_where_nothing_is_shared_out_it_goes_in_one_piece(extension):
    session = connected(extension)
    call = submit(session, bytes(SIZE))
    if extension == "grants":
        announce = announced(session, 0.0)
        session.on_message(wire.encode_reply(wire.GrantReply(announce.id)), 0.1)
    ((header, payload),) = sent(session, 0.1)
    assert (header.id, header.parameters.upload) == (call.id, None)
    assert payload == bytes(SIZE)


def test_what_is_not_acknowledged_is_bounded():
    session = connected()
    call = submit(session, bytes(SIZE))
    grant(session, announced(session, 0.0), 0.0)
    log = upload(session, call, 0.0, 0.9, acknowledging=False)
    assert sum(len(data) for _, _, data in log) <= RATE * WINDOW_S
    acknowledge(session, call, 20_000, 0.9)
    assert session.can_send()


def test_when_the_lease_ends_the_rest_is_announced_with_the_measured_rate():
    session = connected()
    call = submit(session, bytes(SIZE))
    first = announced(session, 0.0)
    grant(session, first, 0.0, lease_s=0.5)
    upload(session, call, 0.0, 0.4, acknowledging=False)
    acknowledge(session, call, 10_000, 0.4)
    *chunks, (at, again, _) = upload(session, call, 0.4, 1.0, acknowledging=False)
    assert at == 0.5
    assert isinstance(again, wire.Announce)
    assert again.id != first.id
    assert again.sent + again.bytes == SIZE
    assert again.sent == chunks[-1][1].offset + len(chunks[-1][2])
    assert again.link_bytes_s == 10_000 / 0.5
    acknowledge(session, call, again.sent, 1.0)
    grant(session, again, 1.0)
    *_, (_, last, _) = upload(session, call, 1.0, 4.0)
    assert last.parameters.upload == (SIZE,)


def test_a_link_that_keeps_up_is_not_said_to_be_slow():
    session = connected()
    call = submit(session, bytes(SIZE), link=7)
    grant(session, announced(session, 0.0), 0.0, lease_s=0.25)
    *_, (_, again, _) = upload(session, call, 0.0, 1.0)
    assert again.link_bytes_s == 7


def test_an_error_of_the_announcement_is_that_of_the_request():
    session = connected()
    call = submit(session, b"jpeg")
    announce = announced(session, 0.0)
    session.on_message(wire.encode_error(NotFound("no such task"), announce.id), 0.1)
    assert isinstance(call.outcome, NotFound)
    assert session.wakeup_at() == float("inf")


@pytest.mark.parametrize("names", ["the announcement", "the request"])
def test_not_now_announces_again_from_the_beginning(names):
    session = connected()
    call = submit(session, bytes(SIZE))
    announce = announced(session, 0.0)
    if names == "the request":
        grant(session, announce, 0.0)
        upload(session, call, 0.0, 0.2)
    not_now = Unavailable("full", retry_after_s=1.0)
    id = announce.id if names == "the announcement" else call.id
    session.on_message(wire.encode_error(not_now, id), 0.2)
    assert sent(session, 0.5) == []
    session.on_time(1.2)
    again = announced(session, 1.2)
    assert (again.request, again.sent, again.bytes) == (call.id, 0, SIZE)
    assert again.id != announce.id


def test_a_broken_connection_loses_the_upload():
    session = connected()
    call = submit(session, bytes(SIZE))
    waits = submit(session, bytes(SIZE))
    (first, _), _ = sent(session, 0.0)
    grant(session, first, 0.0)
    upload(session, call, 0.0, 0.2)
    session.on_disconnected(0.2)
    session.on_connected(1.0)
    _, *again = [header for header, _ in sent(session, 1.0)]
    assert [(header.request, header.sent) for header in again] == [(call.id, 0), (waits.id, 0)]


def test_a_request_that_is_given_up_takes_its_upload_back():
    session = connected()
    call = submit(session, bytes(SIZE))
    announce = announced(session, 0.0)
    session.abandon(call, 0.1)
    ((cancel, _),) = sent(session, 0.1)
    assert isinstance(cancel, wire.Cancel)
    assert cancel.request == call.id
    grant(session, announce, 0.2)  # it crossed the CANCEL
    assert sent(session, 0.2) == []
    assert isinstance(call.outcome, Cancelled)


def test_cancelling_asks_the_daemon():
    session = connected()
    call = submit(session, bytes(SIZE))
    announced(session, 0.0)
    asked = session.cancel(call, timeout_s=5.0, now=0.1)
    assert asked is not None
    session.on_message(wire.encode_error(Cancelled("cancelled"), call.id), 0.2)
    assert call.stage is CallStage.ENDED


def test_several_uploads_of_a_client_go_side_by_side_and_count_as_out():
    session = connected()
    calls = [submit(session, bytes(SIZE)) for _ in range(2)]
    for announce, _ in sent(session, 0.0):
        grant(session, announce, 0.0)
    log = upload(session, calls[0], 0.0, 0.1, acknowledging=False)
    ids = [header.id for _, header, _ in log]
    assert ids.count(calls[0].id) == ids.count(calls[1].id) > 1

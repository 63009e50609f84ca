"""The session in virtual time: what goes out, when again, and how each request ends once."""

from __future__ import annotations

import math
import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edged import wire
from edged.client.call import Call, CallStage, Retry, positive_s
from edged.client.session import Session
from edged.errors import (
    Cancelled,
    DeadlineExceeded,
    EdgedError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unsupported,
)

RETRY = Retry(attempts=3, resend_after_s=5.0, backoff_s=0.5)


def infer_header(session: Session) -> wire.Infer:
    return wire.Infer(
        session.next_id(),
        (wire.InputTensor("image", "BYTES", (1,)),),
        (wire.RequestedOutput("flowers"),),
    )


def submit(session: Session, now: float = 0.0, timeout_s: float = 30.0) -> Call:
    return session.submit(infer_header(session), [b"jpeg"], timeout_s=timeout_s, now=now)


def sent(session: Session, now: float) -> list[wire.RequestHeader]:
    """Everything that the session wants to be sent now."""
    headers = []
    while session.can_send():
        frames = session.next_to_send(now)
        headers.append(wire.decode_request(frames, wire.Limits()).header)
    return headers


def answer(call: Call, credits: int | None = None) -> wire.Frames:
    output = wire.OutputTensor("flowers", "net", "logits", "UINT8", (1, 2))
    reply = wire.InferReply(call.id, (output,), wire.InferTimes(credits=credits))
    return wire.encode_reply(reply, [b"\1\2"])


def connected(limits: wire.Limits | None = None, **options: float) -> Session:
    """A session at time 0 that has heard the daemon's limits."""
    session = Session("ipc:///x", RETRY, **options)
    session.on_connected(0.0)
    (hello,) = sent(session, 0.0)
    reply = wire.ServerMetadataReply(hello.id, "edged", "1", (), limits or wire.Limits())
    session.on_message(wire.encode_reply(reply), 0.0)
    session.take_ended()
    return session


def test_a_request_waits_for_the_connection_and_ends_with_its_reply() -> None:
    session = Session("ipc:///x", RETRY)
    call = submit(session)
    assert sent(session, 0.0) == []
    session.on_connected(1.0)
    assert [type(header) for header in sent(session, 1.0)] == [wire.ServerMetadata, wire.Infer]
    session.on_message(answer(call), 1.5)
    assert session.take_ended() == [call]
    assert isinstance(call.outcome, wire.ReplyMessage)
    assert call.outcome.payload == (b"\1\2",)
    assert (call.began_s, call.ended_s, call.sends) == (0.0, 1.5, 1)


def test_the_daemon_is_told_the_time_that_is_left() -> None:
    session = connected(wire.Limits(max_timeout_us=20_000_000))
    submit(session, timeout_s=30.0)
    submit(session, timeout_s=8.0)
    long, short = sent(session, 2.5)
    assert long.parameters.timeout == 20_000_000
    assert short.parameters.timeout == 5_500_000


def test_a_broken_connection_sends_again_with_the_same_ids_in_the_same_order() -> None:
    session = connected()
    calls = [submit(session) for _ in range(3)]
    assert [header.id for header in sent(session, 0.0)] == [call.id for call in calls]
    late = submit(session)
    session.on_message(answer(calls[1]), 0.5)
    session.on_disconnected(1.0)
    assert not session.can_send()
    session.on_connected(2.0)
    hello, *again = sent(session, 2.0)
    assert isinstance(hello, wire.ServerMetadata)
    assert [header.id for header in again] == [calls[0].id, calls[2].id, late.id]
    assert again[0].parameters.timeout == 28_000_000


def test_a_request_ends_when_the_connection_breaks_too_often() -> None:
    session = connected()
    call = submit(session)
    for now in (1.0, 2.0, 3.0):
        session.on_connected(now)
        sent(session, now)
        session.on_disconnected(now)
    assert isinstance(call.outcome, Unavailable)
    assert "went out 3 times" in str(call.outcome)
    session.on_connected(4.0)
    assert not any(isinstance(header, wire.Infer) for header in sent(session, 4.0))


def test_silence_sends_again_twice_and_then_waits_for_the_deadline() -> None:
    session = connected()
    call = submit(session, timeout_s=40.0)
    times = []
    now = 0.0
    while call.outcome is None:
        for header in sent(session, now):
            assert header.id == call.id
            times.append(now)
        now = session.wakeup_at()
        session.on_time(now)
    assert times == [0.0, 5.0, 15.0]
    assert now == 40.0
    assert isinstance(call.outcome, DeadlineExceeded)


def test_not_now_sends_again_after_the_time_that_the_daemon_names() -> None:
    session = connected(jitter=lambda: 0.5)
    call = submit(session)
    not_now = wire.encode_error(Unavailable("the queue is full", retry_after_s=2.0), call.id)
    sent(session, 0.0)
    session.on_message(not_now, 1.0)
    assert session.wakeup_at() == pytest.approx(1.0 + 2.0 * 1.125)
    session.on_time(3.2)
    assert sent(session, 3.2) == []
    session.on_time(3.25)
    assert [header.id for header in sent(session, 3.25)] == [call.id]
    session.on_message(answer(call), 4.0)
    assert isinstance(call.outcome, wire.ReplyMessage)


def test_the_wait_grows_when_the_daemon_names_none_worth_the_name() -> None:
    session = connected()
    call = submit(session)
    at_once = wire.encode_error(Unavailable("starting", retry_after_s=0.0), call.id)
    sent(session, 0.0)
    session.on_message(at_once, 0.0)
    assert session.wakeup_at() == 0.5
    session.on_time(0.5)
    sent(session, 0.5)
    session.on_message(at_once, 0.5)
    assert session.wakeup_at() == 1.5
    session.on_time(1.5)
    sent(session, 1.5)
    session.on_message(at_once, 1.5)
    assert isinstance(call.outcome, Unavailable)
    assert call.sends == RETRY.attempts


def test_not_now_until_after_the_deadline_is_the_answer() -> None:
    session = connected()
    call = submit(session, timeout_s=3.0)
    sent(session, 0.0)
    session.on_message(wire.encode_error(Unavailable("full", retry_after_s=3.0), call.id), 0.5)
    assert isinstance(call.outcome, Unavailable)
    assert call.outcome.retry_after_s == 3.0


@pytest.mark.parametrize("error", [NotFound("no such task"), Unavailable("draining")])
def test_an_error_without_a_time_to_come_back_is_the_answer(error: EdgedError) -> None:
    session = connected()
    call = submit(session)
    sent(session, 0.0)
    session.on_message(wire.encode_error(error, call.id), 0.1)
    assert type(call.outcome) is type(error)
    assert str(call.outcome) == str(error)


def test_second_answers_are_dropped() -> None:
    session = connected()
    call = submit(session)
    sent(session, 0.0)
    session.on_time(5.0)
    sent(session, 5.0)
    session.on_message(answer(call), 6.0)
    first = call.outcome
    session.on_message(answer(call), 6.1)
    session.on_message(wire.encode_error(NotFound("?"), call.id), 6.2)
    assert session.take_ended() == [call]
    assert call.outcome is first
    assert session.stray_replies == 2


def test_an_answer_to_the_first_send_stops_the_second() -> None:
    session = connected()
    call = submit(session)
    sent(session, 0.0)
    session.on_time(5.0)
    session.on_message(answer(call), 5.0)
    assert sent(session, 5.0) == []
    assert call.sends == 1


def test_the_daemon_limit_holds_back_inferences_but_nothing_else() -> None:
    session = connected(wire.Limits(max_in_flight=2))
    calls = [submit(session) for _ in range(4)]
    assert [header.id for header in sent(session, 0.0)] == [calls[0].id, calls[1].id]
    asked = session.submit(wire.StatisticsQuery(session.next_id()), timeout_s=1.0, now=0.0)
    assert [header.id for header in sent(session, 0.0)] == [asked.id]
    session.on_message(answer(calls[1]), 1.0)
    assert [header.id for header in sent(session, 1.0)] == [calls[2].id]
    session.on_time(30.0)
    assert "the daemon allows 2" in str(calls[3].outcome)


def test_credits_narrow_the_window_until_the_next_answer_or_connection() -> None:
    session = connected(wire.Limits(max_in_flight=4))
    calls = [submit(session) for _ in range(12)]
    sent(session, 0.0)
    session.on_message(answer(calls[0], credits=2), 1.0)
    assert sent(session, 1.0) == []  # three are out
    session.on_message(answer(calls[1], credits=2), 1.0)
    session.on_message(answer(calls[2], credits=2), 1.0)
    assert [header.id for header in sent(session, 1.0)] == [calls[4].id]
    session.on_message(answer(calls[3], credits=100), 2.0)
    assert len(sent(session, 2.0)) == 3  # never more than the limit
    session.on_message(answer(calls[4], credits=0), 3.0)
    for call in calls[5:8]:
        session.on_message(answer(call, credits=0), 3.0)
    assert len(sent(session, 3.0)) == 1  # or nothing would ever raise it again
    session.on_disconnected(4.0)
    session.on_connected(4.0)
    assert len([h for h in sent(session, 4.0) if isinstance(h, wire.Infer)]) == 4


def test_a_request_past_its_deadline_is_taken_back_from_the_daemon() -> None:
    session = connected(wire.Limits(max_in_flight=1))
    call, held_back = submit(session, timeout_s=2.0), submit(session, timeout_s=4.0)
    sent(session, 0.0)
    session.on_time(2.0)
    assert isinstance(call.outcome, DeadlineExceeded)
    cancel, other = sent(session, 2.0)  # in this order, or the daemon would count two
    assert cancel == wire.Cancel(cancel.id, call.id)
    assert other.id == held_back.id


def test_without_a_daemon_the_deadline_says_what_to_look_at() -> None:
    session = Session("ipc:///run/edged/edged.sock", RETRY)
    call = session.hello(timeout_s=5.0, now=0.0)
    assert session.wakeup_at() == 5.0
    session.on_time(5.0)
    assert isinstance(call.outcome, Unavailable)
    assert str(call.outcome) == (
        "no daemon answers at ipc:///run/edged/edged.sock within 5 s: is it running? "
        "systemctl status edged"
    )


def test_cancel_leaves_the_last_word_to_the_daemon() -> None:
    session = connected()
    call = submit(session)
    sent(session, 0.0)
    asked = session.cancel(call, timeout_s=1.0, now=1.0)
    assert asked is not None
    (header,) = sent(session, 1.0)
    assert header == wire.Cancel(asked.id, call.id)
    session.on_message(wire.encode_reply(wire.CancelReply(asked.id, True)), 1.1)
    assert call.outcome is None
    session.on_message(wire.encode_error(Cancelled("on request"), call.id), 1.2)
    assert isinstance(call.outcome, Cancelled)


def test_cancel_of_a_request_that_never_went_out_tells_nobody() -> None:
    session = connected(wire.Limits(max_in_flight=1))
    submit(session)
    call = submit(session)
    sent(session, 0.0)
    assert session.cancel(call, timeout_s=1.0, now=0.0) is None
    assert isinstance(call.outcome, Cancelled)
    assert sent(session, 0.0) == []


def test_cancel_after_the_answer_changes_nothing() -> None:
    session = connected()
    call = submit(session)
    sent(session, 0.0)
    session.on_message(answer(call), 0.5)
    assert session.cancel(call, timeout_s=1.0, now=1.0) is None
    assert isinstance(call.outcome, wire.ReplyMessage)
    assert sent(session, 1.0) == []


def test_close_takes_back_what_is_out() -> None:
    session = connected(wire.Limits(max_in_flight=1))
    calls = [submit(session), submit(session)]
    sent(session, 0.0)
    session.close(1.0)
    assert [type(call.outcome) for call in calls] == [Cancelled, Cancelled]
    (cancel,) = sent(session, 1.0)
    assert cancel == wire.Cancel(cancel.id, calls[0].id)


def test_an_error_without_id_ends_the_request_only_if_no_other_can_be_meant() -> None:
    session = connected()
    first, second = submit(session), submit(session)
    sent(session, 0.0)
    no_id = wire.encode_error(Unsupported("protocol version 1"), None)
    session.on_message(no_id, 1.0)
    assert (first.outcome, second.outcome) == (None, None)
    assert session.stray_replies == 1
    session.on_message(answer(first), 1.0)
    session.on_message(no_id, 1.0)
    assert isinstance(second.outcome, Unsupported)


def test_an_unreadable_reply_is_an_error_not_a_result() -> None:
    session = connected()
    call = submit(session)
    sent(session, 0.0)
    session.on_message([b"EDG1\x01", b"\xc1"], 1.0)
    assert isinstance(call.outcome, EdgedError)


def test_a_reply_of_another_operation_is_an_error() -> None:
    session = connected()
    call = submit(session)
    sent(session, 0.0)
    session.on_message(wire.encode_reply(wire.PingReply(call.id)), 1.0)
    assert isinstance(call.outcome, EdgedError)
    assert "breaks the protocol" in str(call.outcome)


def test_requests_over_the_limits_never_go_out() -> None:
    session = connected(wire.Limits(max_message_bytes=1000))
    with pytest.raises(ResourceExhausted, match="limit of 1000"):
        session.submit(infer_header(session), [b"x" * 1000], timeout_s=1.0, now=0.0)
    assert sent(session, 0.0) == []
    assert session.wakeup_at() == math.inf


def test_a_new_daemon_brings_its_own_limits() -> None:
    session = connected(wire.Limits(max_rows=4))
    session.on_disconnected(1.0)
    session.on_connected(2.0)
    (hello,) = sent(session, 2.0)
    reply = wire.ServerMetadataReply(hello.id, "edged", "2", (), wire.Limits(max_rows=2))
    session.on_message(wire.encode_reply(reply), 2.0)
    assert session.limits.max_rows == 2


def test_pings_while_inferences_are_out_and_only_then() -> None:
    session = connected(heartbeat_s=2.0)
    assert session.wakeup_at() == math.inf
    call = submit(session, now=1.0)
    sent(session, 1.0)
    for now in (3.0, 5.0):
        assert session.wakeup_at() == now
        session.on_time(now)
        (ping,) = sent(session, now)
        assert ping == wire.Ping(ping.id, 2_000_000)
        session.on_message(wire.encode_reply(wire.PingReply(ping.id)), now)
    session.on_message(answer(call), 5.5)
    assert session.wakeup_at() == math.inf


def test_an_answered_request_keeps_no_memory() -> None:
    class Image(bytearray):
        """Bytes that can be watched."""

    session = connected()
    images = []
    for _ in range(1000):
        image = Image(b"jpeg")
        images.append(weakref.ref(image))
        call = session.submit(infer_header(session), [image], timeout_s=30.0, now=0.0)
        del image
        sent(session, 0.0)
        session.on_message(answer(call), 0.0)
        session.take_ended()
    del call
    assert sum(image() is not None for image in images) < 100


def test_ids_are_used_once() -> None:
    session = connected()
    header = infer_header(session)
    session.submit(header, [b"x"], timeout_s=1.0, now=0.0)
    with pytest.raises(InvalidArgument, match="in use"):
        session.submit(header, [b"x"], timeout_s=1.0, now=0.0)


@pytest.mark.parametrize("value", [0, -1, True, math.nan, math.inf, "5", None])
def test_times_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(InvalidArgument, match="timeout_s"):
        positive_s(value, "timeout_s")
    with pytest.raises(InvalidArgument, match="resend_after_s"):
        Retry(resend_after_s=value)


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_attempts_are_counted_in_whole_numbers(value: int) -> None:
    with pytest.raises(InvalidArgument, match="attempts"):
        Retry(attempts=value)


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Whatever happens in whatever order: one outcome each, bounded sends, no busy timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.session = connected(wire.Limits(max_in_flight=2), heartbeat_s=1.0)
        self.calls: list[Call] = []
        self.ended: list[Call] = []

    def pick(self, data: st.DataObject) -> Call | None:
        return data.draw(st.sampled_from(self.calls)) if self.calls else None

    @rule(timeout_s=st.sampled_from([0.5, 3.0, 40.0]))
    def submit(self, timeout_s: float) -> None:
        self.calls.append(submit(self.session, self.now, timeout_s))

    @rule()
    def send(self) -> None:
        if self.session.can_send():
            self.session.next_to_send(self.now)

    @rule(up=st.booleans())
    def connection(self, up: bool) -> None:
        if up:
            self.session.on_connected(self.now)
        else:
            self.session.on_disconnected(self.now)

    @rule(data=st.data(), credits=st.sampled_from([None, 0, 1, 9]))
    def answer(self, data: st.DataObject, credits: int | None) -> None:
        if (call := self.pick(data)) is not None:
            self.session.on_message(answer(call, credits), self.now)

    @rule(data=st.data(), after_s=st.sampled_from([None, 0.0, 2.0]))
    def refuse(self, data: st.DataObject, after_s: float | None) -> None:
        if (call := self.pick(data)) is not None:
            error = Unavailable("no", retry_after_s=after_s)
            self.session.on_message(wire.encode_error(error, call.id), self.now)

    @rule(data=st.data(), by_asking=st.booleans())
    def take_back(self, data: st.DataObject, by_asking: bool) -> None:
        if (call := self.pick(data)) is not None:
            if by_asking:
                self.session.cancel(call, timeout_s=1.0, now=self.now)
            else:
                self.session.abandon(call, self.now)

    @rule(step_s=st.sampled_from([0.0, 0.3, 5.0]))
    def time_passes(self, step_s: float) -> None:
        self.now += step_s
        self.session.on_time(self.now)
        assert self.session.wakeup_at() > self.now

    @invariant()
    def bounded(self) -> None:
        out = [call for call in self.calls if call.stage is CallStage.OUT]
        assert len(out) <= self.session.limits.max_in_flight
        assert all(call.sends <= RETRY.attempts for call in self.calls)

    @invariant()
    def one_outcome_each(self) -> None:
        self.ended += [c for c in self.session.take_ended() if isinstance(c.header, wire.Infer)]
        assert len(self.ended) == len(set(self.ended))
        assert {call for call in self.calls if call.outcome is not None} == set(self.ended)

    def teardown(self) -> None:
        self.now += 50.0
        self.session.on_time(self.now)
        self.one_outcome_each()
        assert len(self.ended) == len(self.calls)


AnyOrderOfEvents.TestCase.settings = settings(max_examples=200)
TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase

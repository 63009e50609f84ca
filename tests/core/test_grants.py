"""Grants in virtual time: who uploads when and how fast, and what ends a grant."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edged.errors import InvalidArgument, ResourceExhausted, Unavailable
from edged.uplink.grants import FIRST_S, TRANSIT_S, Announcement, Grant, Grants, Key, UplinkSettings

UPLINK = 1_000_000
GATHER_S = 0.01


def grants(**options: Any) -> Grants:
    options = {"rate_bytes_s": UPLINK, "gather_s": GATHER_S, **options}
    return Grants(UplinkSettings(**options), max_rows=4, max_client_uploads=3)


def announce(
    table: Grants, client: int, size_bytes: int, now: float = 0.0, **more: Any
) -> Announcement:
    announcement = Announcement(
        (client, "r"), **{"group": "g", "rows": 1, **more}, size_bytes=size_bytes
    )
    table.announce(announcement, now)
    return announcement


def granted(table: Grants, now: float) -> dict[int, Grant]:
    expired, new = table.turn(now)
    assert not expired
    return {grant.key[0]: grant for grant in new}


def test_uploads_of_a_batch_share_the_uplink_and_end_together():
    table = grants()
    for client, size_bytes in ((1, 100_000), (2, 300_000), (3, 600_000)):
        announce(table, client, size_bytes)
    assert table.wakeup_at() == GATHER_S
    assert granted(table, 0.0) == {}
    given = granted(table, GATHER_S)
    assert [given[n].rate_bytes_s for n in (1, 2, 3)] == pytest.approx([1e5, 3e5, 6e5])
    assert {grant.start_s for grant in given.values()} == {GATHER_S}


def test_a_poor_link_gets_a_larger_part_for_the_same_bytes():
    table = grants()
    announce(table, 1, 100_000)
    announce(table, 2, 100_000, link_bytes_s=UPLINK / 4)
    rates = {n: grant.rate_bytes_s for n, grant in granted(table, GATHER_S).items()}
    # 0.1 s and 0.4 s alone: one fifth of the uplink, and four fifths of what the poor link carries.
    assert rates == pytest.approx({1: UPLINK / 5, 2: UPLINK / 4 * 4 / 5})


def test_equal_shares_let_the_small_upload_end_first():
    table = grants(shares="equal")
    announce(table, 1, 100_000)
    announce(table, 2, 300_000)
    given = granted(table, GATHER_S)
    assert given[1].rate_bytes_s == given[2].rate_bytes_s == UPLINK / 2
    assert given[1].end_s < given[2].end_s


def test_the_next_round_begins_when_the_last_byte_of_this_one_is_there():
    table = grants()
    announce(table, 1, 100_000)
    announce(table, 2, 100_000)
    granted(table, GATHER_S)
    announce(table, 3, 100_000, now=0.05)
    table.received((1, "r"), 0, 100_000, 0.1)
    assert granted(table, 0.1) == {}
    table.received((2, "r"), 0, 100_000, 0.2)
    assert granted(table, 0.2)[3].rate_bytes_s == UPLINK


def test_a_grant_may_be_given_just_before_the_uplink_is_free():
    table = grants()
    announce(table, 1, 100_000)
    first = granted(table, GATHER_S)[1]
    announce(table, 2, 100_000, now=0.02)
    assert table.wakeup_at() == pytest.approx(first.end_s - GATHER_S)
    assert granted(table, first.end_s - GATHER_S)[2].start_s == first.end_s


def test_groups_take_turns_and_a_round_is_no_larger_than_a_batch():
    table = grants()
    for client in range(1, 6):
        announce(table, client, 1000, group="a" if client != 2 else "b")
    announce(table, 6, 1000, group="a")
    assert set(granted(table, GATHER_S)) == {1, 3, 4, 5}
    for client in (1, 3, 4, 5):
        table.end((client, "r"))
    assert set(granted(table, GATHER_S)) == {2}
    table.end((2, "r"))
    assert set(granted(table, GATHER_S)) == {6}


def test_a_long_upload_takes_turns_and_goes_on_where_it_was():
    table = grants(max_lease_s=1.0)
    announce(table, 1, 10_000_000)
    first = granted(table, GATHER_S)[1]
    assert 1.0 < first.end_s - first.start_s < 1.3
    announce(table, 2, 1000, now=0.5)
    table.received((1, "r"), 0, 1_100_000, 1.0)
    announce(table, 1, 8_900_000, now=1.1, sent_bytes=1_100_000)
    assert set(granted(table, 1.1)) == {2}
    table.received((2, "r"), 0, 1000, 1.2)
    assert set(granted(table, 1.2)) == {1}
    assert table.received((1, "r"), 1_100_000, 1000, 1.3)


def test_a_client_that_vanishes_holds_the_uplink_for_no_longer_than_it_may_be_silent():
    table = grants(stall_s=0.5)
    announce(table, 1, 5_000_000)
    granted(table, GATHER_S)
    announce(table, 2, 1000, now=0.1)
    assert table.wakeup_at() == pytest.approx(GATHER_S + 0.5)
    expired, new = table.turn(GATHER_S + 0.5)
    assert expired == ((1, "r"),)
    assert [grant.key for grant in new] == [(2, "r")]
    assert not table.received((1, "r"), 0, 1000, 1.0)


def test_those_who_announce_and_send_nothing_hold_up_an_honest_one_for_a_moment():
    """Twenty clients announce all that they may, again and again, and send nothing."""
    table = grants(max_bytes=268_435_456)
    dishonest = range(20)

    def announce_all(now: float) -> None:
        for client in dishonest:
            for n in range(3):
                with contextlib.suppress(Unavailable, ResourceExhausted):
                    table.announce(Announcement((client, str(n)), "g", 1, 4_000_000), now)

    announce_all(0.0)
    waits, now = [], 0.05
    for _ in range(30):
        asked_s = now
        table.announce(Announcement((99, "honest"), "g", 1, 20_000), now)
        while True:
            _, new = table.turn(now)
            if any(grant.key == (99, "honest") for grant in new):
                break
            now = max(now, table.wakeup_at())
        waits.append(now - asked_s)
        assert table.received((99, "honest"), 0, 20_000, now)
        table.end((99, "honest"))
        now += 0.2
        announce_all(now)
    assert max(waits) < 20 * FIRST_S + 0.5  # each of them is believed once
    assert sum(waits) / len(waits) < 1.5
    assert max(waits[15:]) < 4.0


def test_a_client_that_sent_nothing_gets_its_next_grant_later_and_has_longer_then():
    table = grants(stall_s=2.0)
    announce(table, 1, 1000)
    granted(table, GATHER_S)
    table.turn(GATHER_S + FIRST_S)
    announce(table, 1, 1000, now=1.0)
    assert table.wakeup_at() == pytest.approx(1.0 + 2.0 + GATHER_S)
    assert set(granted(table, 3.0 + GATHER_S)) == {1}
    assert table.received((1, "r"), 0, 1000, 3.2)
    table.end((1, "r"))
    announce(table, 1, 1000, now=4.0)
    assert set(granted(table, 4.0 + GATHER_S)) == {1}  # it is believed again


def test_clients_take_turns_however_much_they_announce():
    table = grants()
    for n in range(3):
        table.announce(Announcement((1, str(n)), "g", 2, 1000), 0.0)
    announce(table, 2, 1000, rows=2)
    assert set(granted(table, GATHER_S)) == {1, 2}


def test_what_is_on_its_way_when_the_lease_ends_is_still_taken():
    table = grants()
    announce(table, 1, 100_000)
    end_s = granted(table, GATHER_S)[1].end_s
    assert granted(table, end_s) == {}
    assert table.received((1, "r"), 0, 100, end_s)
    assert table.turn(end_s + TRANSIT_S)[0] == ((1, "r"),)


def test_a_complete_upload_whose_request_never_comes_is_forgotten():
    table = grants(stall_s=0.5)
    announce(table, 1, 100)
    granted(table, GATHER_S)
    table.received((1, "r"), 0, 100, 0.1)
    assert table.turn(0.6) == (((1, "r"),), ())
    assert len(table) == 0
    assert table.wakeup_at() == math.inf


def test_bytes_that_are_missing_or_too_many_end_the_upload():
    table = grants()
    for client in (1, 2):
        announce(table, client, 1000)
    granted(table, GATHER_S)
    with pytest.raises(Unavailable, match="missing"):
        table.received((1, "r"), 500, 100, 0.1)
    with pytest.raises(InvalidArgument, match="1 bytes more"):
        table.received((2, "r"), 0, 1001, 0.1)
    assert len(table) == 0


def test_what_was_sent_under_a_grant_that_is_gone_has_to_be_sent_again():
    table = grants()
    with pytest.raises(Unavailable, match="from its beginning"):
        announce(table, 1, 500, sent_bytes=500)


def test_announcements_are_bounded_by_client_and_in_all():
    table = grants(max_client_bytes=1000, max_bytes=1500)
    announce(table, 1, 600)
    with pytest.raises(ResourceExhausted, match="1200 bytes"):
        table.announce(Announcement((1, "other"), "g", 1, 600), 0.0)
    with pytest.raises(Unavailable) as full:
        announce(table, 2, 1000)
    assert full.value.retry_after_s == pytest.approx(600 / UPLINK)
    for n in range(2):
        table.announce(Announcement((1, str(n)), "g", 1, 1), 0.0)
    with pytest.raises(ResourceExhausted, match="3 uploads"):
        table.announce(Announcement((1, "more"), "g", 1, 1), 0.0)
    announce(table, 1, 1000 - 2)  # anew, in place of the 600


class Uplink(RuleBasedStateMachine):
    """Clients that announce, upload, vanish, come back and give back, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = grants(max_lease_s=0.5, stall_s=0.3, max_bytes=3_000_000)
        self.links: dict[Key, float] = {}
        self.received: dict[Key, int] = {}
        self.given: list[tuple[Grant, float]] = []  # with what the link carries alone

    def turn(self) -> None:
        expired, new = self.table.turn(self.now)
        for key in expired:
            self.received.pop(key)
            self.stop(key)
        for grant in new:
            assert grant.start_s >= self.now
            self.given.append((grant, self.links[grant.key]))

    @rule(
        client=st.integers(1, 4),
        size_bytes=st.integers(1, 1_000_000),
        link=st.sampled_from([None, 50_000.0, 700_000.0, 5e6]),
        group=st.sampled_from("ab"),
        rows=st.integers(1, 3),
        goes_on=st.booleans(),
    )
    def announce(
        self, client: int, size_bytes: int, link: float | None, group: str, rows: int, goes_on: bool
    ) -> None:
        key = (client, "r")
        sent = self.received.get(key, 0) if goes_on else 0
        try:
            self.table.announce(Announcement(key, group, rows, size_bytes, sent, link), self.now)
        except (ResourceExhausted, Unavailable):
            assert set(self.table._uploads) == set(self.received)
        else:
            self.stop(key)
            self.received[key] = sent
            self.links[key] = min(link or UPLINK, UPLINK)
        self.turn()

    def stop(self, key: Key) -> None:
        """From now on nobody uploads under this grant."""
        self.given = [
            (replace(grant, end_s=min(grant.end_s, self.now)) if grant.key == key else grant, link)
            for grant, link in self.given
        ]

    @precondition(lambda self: self.table.active)
    @rule(data=st.data(), part=st.floats(0.1, 1.0))
    def upload(self, data: st.DataObject, part: float) -> None:
        grant = data.draw(st.sampled_from(self.table.active))
        upload = self.table._uploads[grant.key]
        size_bytes = math.ceil(upload.left_bytes * part)
        assert self.table.received(grant.key, self.received[grant.key], size_bytes, self.now)
        self.received[grant.key] += size_bytes
        if not upload.left_bytes:
            self.stop(grant.key)
        self.turn()

    @rule(client=st.integers(1, 4))
    def give_back(self, client: int) -> None:
        key = (client, "r")
        assert self.table.end(key) == (key in self.received)
        self.received.pop(key, None)
        self.stop(key)
        self.turn()

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.2, 1.0]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.table.wakeup_at()) <= until:
            self.now = max(self.now, at)
            self.turn()
            again = self.table.wakeup_at()
            assert again > self.now, "it would spin"
        self.now = until

    @invariant()
    def grants_never_sum_to_more_than_the_uplink(self) -> None:
        moments = {grant.start_s for grant, _ in self.given}
        for moment in moments:
            active = [g for g in self.given if g[0].start_s <= moment < g[0].end_s]
            assert sum(grant.rate_bytes_s / link for grant, link in active) <= 1 + 1e-9
            assert sum(grant.rate_bytes_s for grant, _ in active) <= UPLINK * (1 + 1e-9)

    @invariant()
    def the_table_holds_what_was_announced_and_no_more(self) -> None:
        assert set(self.table._uploads) == set(self.received)
        sizes = [upload.size_bytes for upload in self.table._uploads.values()]
        assert self.table._bytes == sum(sizes) == sum(self.table._client_bytes.values())
        assert self.table._bytes <= 3_000_000

    def teardown(self) -> None:
        """Whatever happened, in the end everybody has been granted or given up."""
        for _ in range(100):
            at = self.table.wakeup_at()
            if at == math.inf:
                break
            self.now = max(self.now, at)
            self.turn()
        assert len(self.table) == 0


TestUplink = Uplink.TestCase
TestUplink.settings = settings(max_examples=80, stateful_step_count=30)

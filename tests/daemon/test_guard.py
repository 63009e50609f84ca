"""Who is cut off when memory hides, who is kept out, and who is let in; without processes."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from edged import wire
from edged.config import Config
from edged.core.residency.ledger import Account
from edged.daemon.endpoint import Endpoint
from edged.daemon.peers.door import WAITING, Door
from edged.daemon.peers.guard import MOST_KEPT_OUT_S, Caught
from edged.daemon.peers.hidden import GIVE_UP_S, SETTLE_S, Hidden, Remedy
from edged.daemon.peers.room import BufferLimits, kept_bytes
from tests.daemon.live import until

LIMIT = 100
MIB = 1 << 20


def steps(hidden: Hidden, taken: int, now: float) -> list[Remedy]:
    """All that is asked for at one look."""
    found = []
    while (step := hidden.look(taken, LIMIT, now)) is not Remedy.NOTHING:
        found.append(step)
    return found


def test_memory_up_to_the_limit_is_nobodys_fault() -> None:
    hidden = Hidden()
    assert not steps(hidden, 1000, 0.0)
    assert not steps(hidden, 1000 + LIMIT, 1.0)
    assert not steps(hidden, 500, 2.0)
    assert steps(hidden, 501 + LIMIT, 3.0)  # above what it took at its best


def test_peers_are_cut_off_step_by_step_and_all_of_them_ever_more_rarely() -> None:
    hidden, now, cuts = Hidden(), 0.0, []
    hidden.look(0, LIMIT, now)
    for _ in range(95):
        for step in steps(hidden, 1000, now):
            if step is not Remedy.TRIM:
                cuts.append((step, now))
        now += SETTLE_S + 0.001
    assert [step for step, _ in cuts[:3]] == [Remedy.CUT_SENDING, Remedy.CUT_SILENT, Remedy.CUT_ALL]
    of_all = [at for step, at in cuts if step is Remedy.CUT_ALL]
    gaps = [later - sooner for sooner, later in itertools.pairwise(of_all)]
    assert len(of_all) >= 3
    assert all(later > 1.5 * sooner for sooner, later in itertools.pairwise(gaps))
    assert sum(step is Remedy.CUT_SENDING for step, _ in cuts) > 30  # these at each look


def test_after_a_cut_it_waits_for_what_comes_of_it() -> None:
    hidden = Hidden()
    hidden.look(0, LIMIT, 0.0)
    assert hidden.look(1000, LIMIT, 1.0) is Remedy.CUT_SENDING
    hidden.settle(1.0)
    assert not steps(hidden, 1000, 1.0 + SETTLE_S / 2)
    assert not steps(hidden, 50, 1.0 + SETTLE_S)  # that was it


def test_what_no_cut_helps_against_is_taken_for_something_else() -> None:
    hidden, now = Hidden(), 0.0
    hidden.look(0, LIMIT, now)
    while Remedy.GIVE_UP not in steps(hidden, 1000, now):
        now += SETTLE_S
    assert now == pytest.approx(GIVE_UP_S, abs=1.0)
    assert not steps(hidden, 1000, now + 1.0)


def test_who_is_caught_again_is_kept_out_for_longer() -> None:
    caught = Caught()
    caught.catch(7, 0.0)
    assert caught.is_kept_out(7, 0.9)
    assert not caught.is_kept_out(7, 1.1)
    assert not caught.is_kept_out(8, 0.5)
    caught.catch(7, 2.0)
    assert caught.is_kept_out(7, 3.9)
    caught.catch(None, 2.0)
    assert not caught.is_kept_out(None, 2.0)
    caught.catch(9, 5.0, at_least_s=MOST_KEPT_OUT_S)
    assert caught.is_kept_out(9, 64.9)


def account(total: int, unexplained: int = 0, budget: int = 600 * MIB) -> Account:
    return Account(budget, total, 0, 0, 0, 0, unexplained)


def test_what_blocks_leave_free_is_for_what_clients_send() -> None:
    config = Config()
    half = BufferLimits.of(config, account(200 * MIB))
    assert half.payload_bytes == half.hidden_bytes == half.unread_bytes == 100 * MIB
    assert BufferLimits.of(
        config, account(200 * MIB, 40 * MIB), held_bytes=100 * MIB
    ).payload_bytes == (
        110 * MIB  # what payloads take now is not missing
    )
    full = BufferLimits.of(config, account(590 * MIB))
    assert full.payload_bytes == kept_bytes(config, 600 * MIB) == 16 * MIB
    rich = BufferLimits.of(config, account(200 * MIB, budget=100_000 * MIB))
    assert rich == BufferLimits.of(config, None) == BufferLimits(256 * MIB, 128 * MIB, 128 * MIB)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with zmq.Context() as context:
        endpoint = Endpoint(lambda: context.socket(zmq.ROUTER), wire.Limits())
        yield endpoint
        endpoint.close(linger=0)


def connect(path: Path, count: int) -> list[socket.socket]:
    """So many, of those that are not refused."""
    found = []
    for _ in range(count):
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        try:
            one.connect(str(path))
            found.append(one)
        except BlockingIOError:
            one.close()
    return found


def test_never_more_are_let_in_than_there_are_descriptors(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    """A thousand connect while nobody looks; all that are let in were counted before."""
    path, taken = tmp_path / "a.sock", [0]
    door = Door(100, lambda: taken[0])
    door.bind(endpoint, f"ipc://{path}", 0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    connected: list[socket.socket] = []
    come = 0
    while door.is_open:
        connected += connect(path, 1_000)
        assert len(connected) <= come + WAITING + 2
        door.let_in()
        before = come

        def all_came(before: int = before) -> bool:
            nonlocal come
            arrived, gone = endpoint.update(0.0)
            door.update(endpoint, arrived, gone)
            come += len(arrived)
            taken[0] = come + 1
            return come > before or not door.is_open

        until(all_came)
    assert 10 < come < 100
    for one in connected:
        one.close()
    taken[0] = 0
    assert door.try_open()
    found: list[socket.socket] = []

    def one_waits() -> bool:  # behind those who have left again
        door.let_in()
        door.update(endpoint, *endpoint.update(0.0))
        found.extend(connect(path, 1))
        return bool(found)

    until(one_waits)
    found[0].close()
    door.close()
    assert not path.exists()


def test_a_file_of_somebody_is_not_replaced(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "a.sock").write_text("mine")
    door = Door(100)
    with pytest.raises(FileExistsError):
        door.bind(endpoint, f"ipc://{tmp_path}/a.sock", 0o600)
    assert (tmp_path / "a.sock").read_text() == "mine"
    door.close()


def test_a_client_stays_connected_while_others_come_and_go(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    path = tmp_path / "a.sock"
    door = Door(10_000)
    door.bind(endpoint, f"ipc://{path}", 0o600)

    def serve() -> list[bytes]:
        door.let_in()
        door.update(endpoint, *endpoint.update(0.0))
        door.try_open()
        return [bytes(frames[0]) for _, frames in endpoint.messages(0.0)]

    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger = 0
        client.connect(f"ipc://{path}")
        for number in range(20):
            client.send(b"%d" % number)
            found: list[bytes] = []
            until(lambda found=found: bool(found.extend(serve()) or found))
            assert found == [b"%d" % number]
            for one in connect(path, 3):
                one.close()
            serve()
    until(lambda: bool(serve()) or not len(endpoint.connections))
    (gate,) = door._gates.values()
    until(lambda: bool(serve()) or not gate.batches)
    door.close()

"""The front's end of memory that clients share: files, who may use which, and when they end."""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edged import wire
from edged.errors import InvalidArgument, ResourceExhausted, Unavailable, Unsupported
from edged.link import messages as link
from edged.sharedmem.owner import MAX_ASKING, MAX_REGIONS, SharedRegions
from edged.sharedmem.writer import Region
from tests.daemon.samples import Bench, infer

SIZE = 1 << 20
TIMEOUT_S = 10.0


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[SharedRegions]:
    regions = SharedRegions(0o640)
    regions.open([f"ipc://{tmp_path}/edged.sock"])
    yield regions
    regions.close()


@pytest.fixture
def fetch(regions: SharedRegions) -> Iterator[Callable[[wire.ShareReply], Region]]:
    """Let a client open its region, while the front hands regions out."""
    fetched: list[Region] = []

    def one(reply: wire.ShareReply) -> Region:
        with ThreadPoolExecutor(1) as client:
            opening = client.submit(Region, reply)
            while not opening.done():
                serve(regions, 0.01)
        fetched.append(opening.result())
        return fetched[-1]

    yield one
    for region in fetched:
        region.close()


def serve(regions: SharedRegions, patience_s: float) -> None:
    assert regions.descriptor is not None
    if select.select([regions.descriptor], [], [], patience_s)[0]:
        regions.hand_out()


def share(regions: SharedRegions, client: bytes = b"a") -> wire.ShareReply:
    return regions.share(client, wire.Share("1", SIZE))


def test_a_client_has_one_region_which_others_cannot_have(
    regions: SharedRegions, fetch, tmp_path: Path
) -> None:
    reply = share(regions)
    assert reply.path == f"{tmp_path}/edged.sock.shared"
    assert stat.S_IMODE(os.stat(reply.path).st_mode) == 0o640
    again = regions.share(b"a", wire.Share("2", 2 * SIZE))
    assert (again.id, again.region, again.bytes) == ("2", reply.region, SIZE)
    assert share(regions, b"b").region != reply.region
    assert regions.nbytes == 0
    region = fetch(reply)
    assert region.put([b"x"], 1) is not None
    assert regions.nbytes > 0
    guessed = wire.ShareReply("1", "0" * 32, reply.path, SIZE)
    with pytest.raises(Unavailable, match="does not hand it out"):
        fetch(guessed)


def test_what_a_client_writes_is_what_the_worker_reads(regions: SharedRegions, fetch) -> None:
    reply = share(regions)
    piece = fetch(reply).put([b"one", b"three"], 8)
    where = regions.find(b"a", piece.where)
    with open(where.path, "rb") as file:
        frames = [os.pread(file.fileno(), size, offset) for offset, size in where.frames]
    assert frames == [b"one", b"three"]


def test_no_client_can_change_the_size_of_its_region(regions: SharedRegions, fetch) -> None:
    region = fetch(share(regions))
    descriptor = region._file.fileno()
    for change in (
        lambda: os.ftruncate(descriptor, 8 << 30),
        lambda: os.posix_fallocate(descriptor, SIZE, 8 << 30),
        lambda: os.pwrite(descriptor, b"x", SIZE),
        lambda: os.ftruncate(descriptor, 1),
        lambda: os.truncate(f"/proc/self/fd/{descriptor}", 8 << 30),
    ):
        with pytest.raises(PermissionError):
            change()
    with pytest.raises(OSError, match="Invalid argument"):  # its path is no file at all
        os.truncate(share(regions).path, 8 << 30)
    assert os.fstat(descriptor).st_size == SIZE


def test_only_its_own_client_finds_a_payload_and_only_inside(regions: SharedRegions) -> None:
    reply = share(regions)
    frames = ((0, 10), (SIZE - 10, 10))
    assert regions.find(b"a", wire.SharedPayload(reply.region, frames)).frames == frames
    for client, region in ((b"b", reply.region), (b"a", "another")):
        with pytest.raises(Unavailable, match="in the message") as caught:
            regions.find(client, wire.SharedPayload(region, frames))
        assert caught.value.retry_after_s == 0.0
    with pytest.raises(InvalidArgument, match=f"byte {SIZE + 1} of shared memory that has {SIZE}"):
        regions.find(b"a", wire.SharedPayload(reply.region, ((0, 10), (SIZE - 9, 10))))


def test_a_region_ends_with_its_lock_or_with_a_client_that_never_took_one(
    regions: SharedRegions, fetch
) -> None:
    locked, plain = share(regions, b"locked"), share(regions, b"plain")
    region = fetch(locked)
    paths = {
        name: regions.find(client, wire.SharedPayload(name, ((0, 1),))).path
        for client, name in ((b"locked", locked.region), (b"plain", plain.region))
    }
    assert not list(regions.sweep(lambda client: client == b"plain"))
    region.close()
    assert list(regions.sweep(lambda client: True)) == [paths[locked.region]]
    assert list(regions.sweep(lambda client: False)) == [paths[plain.region]]
    with pytest.raises(Unavailable):
        regions.find(b"plain", wire.SharedPayload(plain.region, ((0, 1),)))


def test_regions_are_bounded(regions: SharedRegions) -> None:
    for number in range(MAX_REGIONS):
        share(regions, b"%d" % number)
    with pytest.raises(ResourceExhausted, match="the limit"):
        share(regions, b"one more")
    share(regions, b"0")


def test_those_who_come_and_say_nothing_keep_nobody_out(regions: SharedRegions, fetch) -> None:
    reply = share(regions)
    silent = []
    for _ in range(3 * MAX_ASKING):
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(TIMEOUT_S)
        one.connect(reply.path)
        silent.append(one)
        serve(regions, TIMEOUT_S)
    fetch(reply)
    with silent[0]:
        assert silent[0].recv(1) == b""  # it had its time
    for one in silent[1:]:
        one.close()


def test_a_size_that_the_kernel_refuses_leaves_nothing(regions: SharedRegions, monkeypatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(27, "File too large")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("os.ftruncate", refuse)
    with pytest.raises(Unavailable, match="cannot be shared: File too large"):
        share(regions)
    monkeypatch.undo()
    assert len(os.listdir("/proc/self/fd")) == before
    share(regions)


def test_what_a_killed_daemon_left_is_replaced(regions: SharedRegions, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/other.sock.shared")
    other = SharedRegions(0o600)
    other.open([f"ipc://{tmp_path}/other.sock"])
    assert share(other).path == f"{tmp_path}/other.sock.shared"
    other.close()
    assert not os.path.exists(f"{tmp_path}/other.sock.shared")


def test_where_the_socket_cannot_be_made_nothing_is_shared(tmp_path: Path, caplog) -> None:
    (tmp_path / "edged.sock.shared").mkdir()
    regions = SharedRegions(0o600)
    regions.open([f"ipc://{tmp_path}/edged.sock"])
    assert "no memory is shared with clients" in caplog.text
    with pytest.raises(Unsupported):
        share(regions)


def test_clients_of_other_hosts_share_nothing() -> None:
    regions = SharedRegions(0o600)
    regions.open(["tcp://127.0.0.1:5555"])
    assert not regions.are_open
    with pytest.raises(Unsupported):
        share(regions)


# --- through the front ----------------------------------------------------------------------------


def shared_infer(region: str, *frames: tuple[int, int], id: str = "r1") -> wire.Infer:
    where = wire.SharedPayload(region, frames or ((0, 4),))
    return infer(id, parameters=wire.InferParameters(shared=where))


def test_the_worker_is_told_where_the_payload_lies(regions: SharedRegions) -> None:
    bench = Bench(regions=regions)
    bench.worker_is_ready()
    bench.ask(wire.ServerMetadata("m"))
    assert "shared_memory" in bench.reply().header.extensions
    bench.ask(wire.Share("s", SIZE))
    reply = bench.reply().header
    bench.ask(shared_infer(reply.region, (8, 100)), ())
    (prepare,) = bench.worker
    assert prepare.shared == regions.find(
        b"client-1", wire.SharedPayload(reply.region, ((8, 100),))
    )
    assert bench.payloads == [[]]
    bench.finish()
    assert bench.reply().header.id == "r1"


def test_when_the_worker_dies_the_payload_is_still_there(regions: SharedRegions) -> None:
    bench = Bench(regions=regions)
    bench.worker_is_ready()
    bench.ask(wire.Share("s", SIZE))
    bench.ask(shared_infer(bench.reply().header.region), ())
    (first,) = bench.worker
    bench.worker.clear()
    bench.front.on_worker_lost("it died", bench.now)
    bench.worker_is_ready()
    (again,) = [order for order in bench.worker if isinstance(order, link.PayloadHeader)]
    assert again == first
    bench.finish()
    assert bench.reply().header.id == "r1"


def test_memory_of_a_daemon_that_was_before_is_refused_for_now(regions: SharedRegions) -> None:
    bench = Bench(regions=regions)
    bench.worker_is_ready()
    bench.ask(shared_infer("of-another"), ())
    error = bench.reply().header
    assert (error.code, error.retry_after_us, error.id) == ("UNAVAILABLE", 0, "r1")


def test_the_worker_closes_what_a_client_left(regions: SharedRegions) -> None:
    bench = Bench(regions=regions)
    bench.worker_is_ready()
    bench.ask(wire.Share("s", SIZE))
    region = bench.reply().header.region
    path = regions.find(b"client-1", wire.SharedPayload(region, ((0, 1),))).path
    bench.front.on_sweep(30.0)
    assert not any(isinstance(order, link.Close) for order in bench.worker)
    bench.front.on_sweep(61.0)
    assert link.Close(path) in bench.worker


def test_a_daemon_that_shares_nothing_says_so() -> None:
    bench = Bench()
    bench.ask(wire.ServerMetadata("m"))
    assert "shared_memory" not in bench.reply().header.extensions
    bench.ask(wire.Share("s", SIZE))
    assert bench.reply().header.code == "UNSUPPORTED"

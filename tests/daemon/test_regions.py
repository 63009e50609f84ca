"""The front's end of memory that clients share: files, who may use which, and when they end."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edged import wire
from edged.daemon.regions import MAX_REGIONS, Regions, _make, _remove_left
from edged.device import link
from edged.errors import InvalidArgument, ResourceExhausted, Unavailable, Unsupported
from tests.daemon.samples import Bench, infer

SIZE = 1 << 20


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory that is memory."""
    place = Path("/dev/shm")
    if place not in {Path(p.mountpoint) for p in psutil.disk_partitions(all=True)}:
        pytest.skip("needs /dev/shm: without it nothing is shared")
    folder = place / f"test-edged-{os.getpid()}-{tmp_path.name}"
    folder.mkdir()
    yield folder
    for left in folder.iterdir():
        left.unlink()
    folder.rmdir()


@pytest.fixture
def regions(memory: Path) -> Iterator[Regions]:
    regions = Regions(0o640)
    regions.open([f"ipc://{memory}/edged.sock"])
    yield regions
    regions.close()


def share(regions: Regions, client: bytes = b"a") -> wire.ShareReply:
    return regions.share(client, wire.Share("1", SIZE))


def test_a_client_has_one_region_which_others_cannot_find(regions: Regions, memory: Path) -> None:
    reply = share(regions)
    path = Path(reply.path)
    assert (path.stat().st_size, reply.bytes) == (SIZE, SIZE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.parent == memory / "edged.sock.shared"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o711
    again = regions.share(b"a", wire.Share("2", 2 * SIZE))
    assert (again.id, again.region, again.bytes) == ("2", reply.region, SIZE)
    assert share(regions, b"b").region != reply.region
    assert regions.nbytes == 0
    path.write_bytes(b"x")
    assert regions.nbytes == 4096


def test_only_its_own_client_finds_a_payload_and_only_inside(regions: Regions) -> None:
    reply = share(regions)
    frames = ((0, 10), (SIZE - 10, 10))
    found = regions.find(b"a", wire.Shared(reply.region, frames))
    assert found == link.Shared(reply.path, frames)
    for client, region in ((b"b", reply.region), (b"a", "another")):
        with pytest.raises(Unavailable, match="in the message") as caught:
            regions.find(client, wire.Shared(region, frames))
        assert caught.value.retry_after_s == 0.0
    with pytest.raises(InvalidArgument, match=f"byte {SIZE + 1} of shared memory that has {SIZE}"):
        regions.find(b"a", wire.Shared(reply.region, ((0, 10), (SIZE - 9, 10))))


def test_a_region_ends_with_its_lock_or_with_a_client_that_never_took_one(
    regions: Regions,
) -> None:
    locked, plain = share(regions, b"locked"), share(regions, b"plain")
    with open(locked.path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not list(regions.sweep(lambda client: client == b"plain"))
    assert list(regions.sweep(lambda client: True)) == [locked.path]
    assert not os.path.exists(locked.path)
    assert list(regions.sweep(lambda client: False)) == [plain.path]
    with pytest.raises(Unavailable):
        regions.find(b"plain", wire.Shared(plain.region, ((0, 1),)))


def test_regions_are_bounded(regions: Regions) -> None:
    for number in range(MAX_REGIONS):
        share(regions, b"%d" % number)
    with pytest.raises(ResourceExhausted, match="the limit"):
        share(regions, b"one more")
    share(regions, b"0")


def test_a_size_that_the_file_system_refuses_leaves_nothing(
    regions: Regions, memory: Path, monkeypatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(27, "File too large")

    monkeypatch.setattr("os.ftruncate", refuse)
    with pytest.raises(Unavailable, match="cannot be shared: File too large"):
        share(regions)
    monkeypatch.undo()
    assert not list((memory / "edged.sock.shared").iterdir())
    share(regions)


def test_what_a_killed_daemon_left_is_removed_and_what_a_living_one_has_is_not(
    regions: Regions, memory: Path
) -> None:
    kept = Path(share(regions).path)
    other = Regions(0o600)
    other.open([f"ipc://{memory}/edged.sock"])  # the lock of the socket keeps daemons from that
    assert kept.exists()
    left = memory / "other.sock.shared" / "left"
    left.parent.mkdir()
    left.write_bytes(b"x")
    other.open([f"ipc://{memory}/other.sock"])
    assert not left.parent.exists()
    assert share(other).path.startswith(str(left.parent))
    other.close()
    assert not left.parent.exists()


def test_a_directory_that_others_take_away_while_it_is_made_is_made_again(memory: Path) -> None:
    """Daemons that start together look for what killed ones have left."""
    place = memory / "busy.sock.shared"
    done = threading.Event()

    def remove() -> None:
        while not done.is_set():
            _remove_left(place)

    removers = [threading.Thread(target=remove) for _ in range(3)]
    for remover in removers:
        remover.start()
    try:
        for _ in range(200):
            lock = _make(place)
            kept = place / "region"
            kept.write_bytes(b"x")
            assert os.path.samestat(os.fstat(lock), place.stat())
            kept.unlink()
            place.rmdir()
            os.close(lock)
    finally:
        done.set()
        for remover in removers:
            remover.join()


def test_a_place_that_is_not_ours_is_not_used(memory: Path, caplog) -> None:
    (memory / "edged.sock.shared").write_bytes(b"")
    regions = Regions(0o600)
    regions.open([f"ipc://{memory}/edged.sock"])
    with pytest.raises(Unavailable):
        share(regions)
    assert "no memory is shared with clients" in caplog.text


def test_beside_a_socket_on_disk_there_is_no_memory(
    tmp_path: Path, memory: Path, monkeypatch
) -> None:
    """A payload must not wear out a disk: the memory is elsewhere."""
    monkeypatch.setattr("edged.daemon.regions._is_memory", lambda path: path == Path("/dev/shm"))
    regions = Regions(0o600)
    regions.open([f"ipc://{tmp_path}/edged.sock"])
    parent = Path(share(regions).path).parent
    assert parent.parent == Path("/dev/shm")
    regions.close()
    assert not parent.exists()


def test_clients_of_other_hosts_share_nothing() -> None:
    regions = Regions(0o600)
    regions.open(["tcp://127.0.0.1:5555"])
    assert not regions.are_open
    with pytest.raises(Unsupported):
        share(regions)


# --- through the front ----------------------------------------------------------------------------


def shared_infer(region: str, *frames: tuple[int, int], id: str = "r1") -> wire.Infer:
    where = wire.Shared(region, frames or ((0, 4),))
    return infer(id, parameters=wire.InferParameters(shared=where))


def test_the_worker_is_told_where_the_payload_lies(regions: Regions) -> None:
    bench = Bench(regions=regions)
    bench.worker_is_ready()
    bench.ask(wire.ServerMetadata("m"))
    assert "shared_memory" in bench.reply().header.extensions
    bench.ask(wire.Share("s", SIZE))
    reply = bench.reply().header
    bench.ask(shared_infer(reply.region, (8, 100)), ())
    (prepare,) = bench.worker
    assert (prepare.shared.path, prepare.shared.frames) == (reply.path, ((8, 100),))
    assert bench.payloads == [[]]
    bench.finish()
    assert bench.reply().header.id == "r1"


def test_when_the_worker_dies_the_payload_is_still_there(regions: Regions) -> None:
    bench = Bench(regions=regions)
    bench.worker_is_ready()
    bench.ask(wire.Share("s", SIZE))
    bench.ask(shared_infer(bench.reply().header.region), ())
    (first,) = bench.worker
    bench.worker.clear()
    bench.front.on_worker_lost("it died", bench.now)
    bench.worker_is_ready()
    (again,) = [order for order in bench.worker if isinstance(order, link.Prepare)]
    assert again == first
    bench.finish()
    assert bench.reply().header.id == "r1"


def test_memory_of_a_daemon_that_was_before_is_refused_for_now(regions: Regions) -> None:
    bench = Bench(regions=regions)
    bench.worker_is_ready()
    bench.ask(shared_infer("of-another"), ())
    error = bench.reply().header
    assert (error.code, error.retry_after_us, error.id) == ("UNAVAILABLE", 0, "r1")


def test_the_worker_closes_what_a_client_left(regions: Regions) -> None:
    bench = Bench(regions=regions)
    bench.worker_is_ready()
    bench.ask(wire.Share("s", SIZE))
    path = bench.reply().header.path
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

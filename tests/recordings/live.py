"""Seven recordings of the real daemon, with real sockets, workers and signals.

What is recorded depends on the machine's timing, so no two are the same. Each covers one part of
what a daemon goes through.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from edged.client import Client, Pending, Retry
from edged.client.admin import Admin
from edged.errors import EdgedError
from edged.store import Store
from tests.backends.blocks import dense
from tests.colors import SIDE, picture, png, write_store
from tests.daemon.live import Daemon, until
from tests.device.rig import Model, make_store

TASKS = (["color"], ["weakest"], ["color", "weakest"])
FAIL_ON = 0.125  # a batch with a row that begins with it fails
AT_ONCE = Retry(attempts=1)  # what is refused is not sent again
MIB = 1 << 20

Live = Callable[[Path], Path]
"""Runs a daemon in an empty directory and returns its recording."""


def mixed(folder: Path) -> Path:
    """Tasks, priorities, clients, rows and payloads of all kinds; more than is done in time."""
    settings = (
        f"backend = 'fake'\noptions = {{run_us = 1500, fail_on = {FAIL_ON}}}\n"
        "[scheduler]\nqueue_rows = 60\nmax_batch_rows = 8\nstaging_rows = 24\n"
    )
    chance = random.Random(1)
    with _daemon(folder, settings) as daemon, _clients(daemon, 5) as clients:
        pending = []
        for number in range(400):
            rows = np.random.default_rng(number).random((1 + number % 3, 3, SIDE, SIDE), np.float32)
            if number % 60 == 30:
                rows[0, 0, 0, 0] = FAIL_ON
            image = picture(number % 250, 7, 9)
            given = ({"image": rows}, image, png(image), b"no image")[number % 10 // 3]
            pending.append(
                clients[number % 5].submit(
                    given,
                    TASKS[number % 3],
                    priority=chance.randrange(1, 4),
                    timeout_s=chance.choice((0.05, 0.2, 5.0)),
                )
            )
            if number % 100 == 99:
                _finish(pending)
                pending.clear()
    return daemon.recording


def killed_worker(folder: Path) -> Path:
    """A worker that is killed twice with requests on the device, and comes back."""
    settings = (
        "backend = 'fake'\noptions = {run_us = 3000}\n[scheduler]\nqueue_rows = 300\n"
        "max_batch_rows = 4\n"
    )
    with _daemon(folder, settings) as daemon, _clients(daemon, 3) as clients:
        for _ in range(2):
            pending = [clients[n % 3].submit(picture(n, 1, 2), TASKS[n % 3]) for n in range(80)]
            until(pending[0].done)
            daemon.worker().kill()
            _finish(pending)
    return daemon.recording


def drain(folder: Path) -> Path:
    """SIGTERM while requests wait: they are answered, and newer ones refused."""
    settings = (
        "backend = 'fake'\noptions = {run_us = 20000}\n[scheduler]\nmax_batch_rows = 2\n"
        "staging_rows = 8\n"
    )
    with _daemon(folder, settings) as daemon, _clients(daemon, 2) as clients:
        accepted = [clients[0].submit(picture(n, 1, 2), TASKS[n % 3]) for n in range(60)]
        until(lambda: accepted[0].done())
        daemon.process.terminate()
        until(lambda: accepted[10].done())
        refused = [clients[1].submit(picture(n, 1, 2), TASKS[n % 3]) for n in range(10)]
        _finish([*accepted, *refused])
    return daemon.recording


def partial_loading(folder: Path) -> Path:
    """Six models of which three fit: they are loaded, evicted, pinned, unloaded and asked for.

    A damaged block cannot be loaded, and the worker is killed once.
    """
    names = ["ant", "bee", "cat", "dog", "eel", "fox"]
    base = dense(1448, 1448, seed=1, relu=False)
    models = [
        Model(name, base, dense(1448, 1448, seed=seed, relu=False))
        for seed, name in enumerate(names, 2)
    ]
    store = make_store(folder / "store", models).path
    settings = f"[memory]\nbudget_bytes = {_besides(folder, store) + 36 * MIB}\n"
    rows = {"x": np.random.default_rng(0).standard_normal((2, 1448)).astype(np.float32)}
    order = [str(name) for name in np.random.default_rng(1).permutation(names * 12)]
    damaged = Store(store).block_path(models[4].blocks[1].id)
    with (
        _daemon(folder, settings, store) as daemon,
        _clients(daemon, 2) as clients,
        Admin(daemon.admin) as admin,
    ):
        asked: Iterator[str] = iter(order)
        admin.set_model("fox", "pinned")
        _finish(clients[0].submit(rows, next(asked)) for _ in range(8))
        admin.set_model("bee", "unloaded")
        _finish([clients[n % 2].submit(rows, next(asked), timeout_s=3.0) for n in range(16)])
        admin.set_model("bee", "loaded")
        admin.set_model("fox", "unpinned")
        _finish([clients[0].submit(rows, pair) for pair in (["ant", "bee"], ["dog", "fox"], names)])
        whole = damaged.read_bytes()
        damaged.write_bytes(bytes(len(whole)))
        for entry in (folder / "cache").glob(f"{models[4].blocks[1].id}*/*"):
            entry.unlink()
        _finish([clients[0].submit(rows, name) for name in ("eel", "ant", "eel", "bee")])
        damaged.write_bytes(whole)
        _finish([clients[n % 2].submit(rows, next(asked), timeout_s=0.1) for n in range(12)])
        daemon.worker().kill()
        _finish(clients[n % 2].submit(rows, name) for n, name in enumerate(asked))
    return daemon.recording


def uploads(folder: Path) -> Path:
    """Announced uploads that take turns on a slow uplink, beside requests that do not announce."""
    settings = "[uplink]\nrate_bytes_s = 1_000_000\nmax_lease_s = 0.1\n"
    large = np.full((300, 300, 3), (250, 20, 10), np.uint8)
    with _daemon(folder, settings) as daemon, _clients(daemon, 3) as clients:
        announced = [
            clients[n % 2].submit(large, TASKS[n % 3], announce=True, timeout_s=20.0)
            for n in range(6)
        ]
        for number in range(60):
            _finish([clients[2].submit(picture(number, 1, 2), TASKS[number % 3])])
        _finish(announced)
    return daemon.recording


def streams(folder: Path) -> Path:
    """Streams answered in turn, streams of which the latest frame counts, and cancels in both."""
    settings = (
        "backend = 'fake'\noptions = {run_us = 4000}\n[scheduler]\nmax_batch_rows = 4\n"
        "staging_rows = 8\n"
    )
    chance = random.Random(2)
    with _daemon(folder, settings) as daemon, _clients(daemon, 3) as clients:
        pending = []
        for number in range(240):
            ordered = number % 2 == 0
            pending.append(
                clients[number % 3].submit(
                    b"no image" if number % 20 == 5 else png(picture(number, 1, 2)),
                    TASKS[number % 3],
                    priority=1 + number % 2,
                    stream=f"camera-{number % 4}" if number % 5 else None,
                    ordered=ordered,
                )
            )
            if chance.random() < 0.1:
                chance.choice(pending).cancel()
            if number % 60 == 59:
                _finish(pending)
                pending.clear()
        for number in range(20):
            clients[2].submit(picture(number, 2, 3), ["color"])
        clients[2].close()  # with requests that nobody waits for any more
        _finish([clients[0].submit(picture(2, 2, 3), ["color"])])
    return daemon.recording


def started(folder: Path) -> Path:
    """A daemon that starts with nothing known: it answers, and measures its models when it is idle.

    Its next worker and its next start measure only what is left.
    """
    settings = "backend = 'fake'\noptions = {run_us = 2000}\n[scheduler]\nmax_batch_rows = 8\n"
    with _daemon(folder, settings) as daemon, _clients(daemon, 2) as clients:
        daemon.wait_for("is measured")
        daemon.worker().kill()
        for number in range(40):
            _finish([clients[number % 2].submit(picture(number, 1, 2), TASKS[number % 3])])
        until(lambda: daemon.log().count("is measured") == 2)
        _finish([clients[n % 2].submit(picture(n, 1, 2), TASKS[n % 3]) for n in range(60)])
    return daemon.recording


LIVE: dict[str, Live] = {
    "live-started": started,
    "live-mixed": mixed,
    "live-killed-worker": killed_worker,
    "live-drain": drain,
    "live-partial-loading": partial_loading,
    "live-uploads": uploads,
    "live-streams": streams,
}


@contextlib.contextmanager
def _daemon(folder: Path, settings: str, store: Path | None = None) -> Iterator[Daemon]:
    """A daemon that is ready; it is ended in good order, so that its recording is whole."""
    daemon = Daemon(folder, store or write_store(folder / "store"), settings=settings, record=True)
    try:
        daemon.wait_for("ready: ")
        yield daemon
        status = daemon.stop() if daemon.process.poll() is None else daemon.wait()
        assert status == 0, daemon.log()
    finally:
        daemon.close()


@contextlib.contextmanager
def _clients(daemon: Daemon, count: int) -> Iterator[list[Client]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Client(daemon.endpoint, retry=AT_ONCE, share_bytes=0))
            for _ in range(count)
        ]


def _finish(pending: Iterable[Pending]) -> None:
    """Wait for the end of each, good or bad."""
    for one in pending:
        with contextlib.suppress(EdgedError):
            one.result()


def _besides(folder: Path, store: Path) -> int:
    """Bytes that a daemon takes besides the blocks of this store."""
    place = folder / "besides"
    place.mkdir()
    daemon = Daemon(place, store)
    try:
        daemon.wait_for("ready: ")
        with Client(daemon.endpoint) as client:
            found = client.statistics().memory
            return int(found["total_bytes"] - found["blocks_bytes"])
    finally:
        daemon.close()

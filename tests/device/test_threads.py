"""No thread of the worker ends in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edged.core.events import BlockLoaded, BlockLoadFailed, BlockUnloaded, Load, Unload
from edged.link import messages as link
from edged.store import Store
from tests.backends.blocks import dense
from tests.device.rig import Model, Rig, make_store, worker

BODY, HEAD = dense(6, 4, seed=1), dense(4, 3, seed=2)
X = np.ones((1, 6), np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store", [Model("cat", BODY, HEAD)])


@pytest.fixture
def break_in_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run a line in the worker when it gets ready; `boom` and `deny` raise when they are called."""

    def write(line: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import pathlib\n"
            'if "edged.device" in pathlib.Path("/proc/self/cmdline").read_text():\n'
            "    from edged.device import batches, loader, staging, worker\n"
            "    def boom(*args, **kwargs): raise RuntimeError('boom')\n"
            "    def deny(*args, **kwargs): raise OSError(24, 'Too many open files')\n"
            "    serve = worker.Worker.serve\n"
            "    def spoiled(self):\n"
            f"        {line}\n"
            "        serve(self)\n"
            "    worker.Worker.serve = spoiled\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")

    return write


def measure(rig: Rig) -> None:
    rig.send(link.Measure(1))


def prepare(rig: Rig) -> None:
    rig.prepare(X, "cat")


def load_two(rig: Rig) -> None:
    """The second is read ahead."""
    for block in (BODY, HEAD):
        rig.send(Unload(block.id))
        rig.expect(BlockUnloaded)
    for block in (BODY, HEAD, BODY, HEAD):
        rig.send(Load(block.id))


def run(rig: Rig) -> None:
    rig.run((rig.prepared(X, "cat"), ["cat"]))


@pytest.mark.parametrize(
    ("broken", "order"),
    [
        ("worker.footprint = boom", measure),
        ("staging.Staging.settle = boom", prepare),
        ("loader.Loader.read_ahead = boom", load_two),
        ("staging.Staging.begin = boom", run),
        ("batches.Batches._prepare_deferred = boom", run),
    ],
)
def test_a_thread_that_cannot_go_on_ends_the_worker_and_says_why(
    store: Store,
    break_in_worker: Callable[[str], None],
    broken: str,
    order: Callable[[Rig], None],
) -> None:
    break_in_worker(broken)
    with worker(store) as rig:
        order(rig)
        while not isinstance((message := rig.next()[0]), link.WorkerFailed):
            assert isinstance(message, BlockLoaded | BlockLoadFailed)
        assert "RuntimeError: boom; this is a bug" in message.message
        assert rig.ended() == "the device worker ended with status 1"


def test_memory_that_cannot_be_measured_now_is_measured_later(
    store: Store, break_in_worker: Callable[[str], None]
) -> None:
    """As without a descriptor left."""
    break_in_worker(
        "n, ok = [], worker.footprint; "
        "worker.footprint = lambda: (n.append(1), ok() if len(n) > 1 else deny())[1]"
    )
    with worker(store) as rig:
        rig.send(link.Measure(1))
        rig.send(link.Measure(2))
        assert rig.expect(link.WorkerMemory).n == 2

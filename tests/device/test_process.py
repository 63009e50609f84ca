"""How a worker starts, fails to start, and ends."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edged.core.events import BatchFailed, BlockLoadFailed, Load
from edged.device.process import WorkerProcess
from edged.device.settings import Settings
from edged.errors import Code, Unavailable
from edged.link import messages as link
from edged.manifest import Preprocess
from edged.store import Store
from tests.backends.blocks import dense, mean_of_image
from tests.device.rig import TIMEOUT_S, Model, make_store, worker

CHECKOUT = Path(__file__).parents[2]
BODY, HEAD = dense(6, 16, seed=1), dense(16, 4, seed=2)
ONE = np.ones((1, 6), np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store", [Model("cat", BODY, HEAD)])


def failure(store: Store | Path, **settings: Any) -> link.WorkerFailed:
    """What a worker says that cannot start."""
    with worker(store, ready=False, **settings) as rig:
        failed = rig.expect(link.WorkerFailed)
        assert rig.ended() == "the device worker ended with status 1"
        assert "\n" not in failed.message
        return failed


@pytest.mark.parametrize("backend", ["fake", "onnxruntime"])
def test_a_flipped_bit_in_the_store(store: Store, backend: str) -> None:
    path = store.block_path(HEAD.id)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with worker(store, backend=backend) as rig:
        failed = rig.failed[HEAD.id]
        assert failed.code is Code.INTERNAL
        assert f"block {HEAD.id[:12]} is damaged" in failed.message
        assert BODY.id in rig.bytes_used


def test_a_missing_block(store: Store) -> None:
    store.block_path(HEAD.id).unlink()
    with worker(store) as rig:
        assert f"block {HEAD.id[:12]} is missing" in rig.failed[HEAD.id].message


def test_a_block_that_does_not_load(store: Store) -> None:
    with worker(store, options={"fail_on_load": 2}) as rig:
        assert rig.failed[HEAD.id].code is Code.INTERNAL
        assert "was made to fail" in rig.failed[HEAD.id].message


def test_a_model_that_cannot_be_measured_is_served_without(store: Store) -> None:
    with worker(store, options={"fail_on": 0.5}) as rig:
        assert rig.calibrate("cat", 4).warm_ups == ()
        rid = rig.prepared(ONE, "cat")
        assert (rid, "cat") in rig.ran((rid, ["cat"])).tensors


def test_a_missing_store(tmp_path: Path) -> None:
    assert "there is no store at" in failure(tmp_path / "nothing").message


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ({"backend": "tpu"}, Code.INVALID_ARG, "there is no backend 'tpu'"),
        ({"options": {"run_ms": 3}}, Code.INVALID_ARG, "options of backend fake: .*`run_ms`"),
        ({"models": ["dog"]}, Code.NOT_FOUND, "dog"),
    ],
)
def test_what_else_keeps_it_from_starting(
    store: Store, settings: dict[str, Any], code: Code, says: str
) -> None:
    failed = failure(store, **settings)
    assert failed.code is code
    assert re.search(says, failed.message)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"preprocess": Preprocess(8, 8)}, r"makes FP32 \[3, 8, 8\], which is not its input"),
        ({"labels": ("one", "two")}, r"2 labels for an output of shape \[3\]"),
    ],
)
def test_a_manifest_that_contradicts_itself(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    store = make_store(tmp_path / "store", [Model("cat", mean_of_image(size=4), **fields)])
    assert re.search(says, failure(store).message)


def test_only_the_models_that_are_named(tmp_path: Path) -> None:
    models = [Model("cat", BODY, HEAD), Model("dog", dense(6, 3, seed=9))]
    with worker(make_store(tmp_path / "store", models), models=["dog"]) as rig:
        assert rig.ready.models == ("dog",)
        assert list(rig.bytes_used) == [models[1].blocks[0].id]
        rig.send(Load(BODY.id))
        assert "is of no model here" in rig.expect(BlockLoadFailed).message


def test_blocks_that_run_are_held_in_the_store(store: Store) -> None:
    with worker(store):
        with store.update() as change:
            change.remove_model("cat")
        assert set(store.gc().held) == {BODY.id, HEAD.id}
    assert set(store.gc().removed) == {BODY.id, HEAD.id}


def test_stop_finishes_what_was_begun(store: Store) -> None:
    with worker(store, options={"run_us": 5_000}) as rig:
        rids = [rig.prepared(ONE * n, "cat") for n in range(3)]
        for rid in rids:
            rig.run((rid, ["cat"]))
        rig.send(link.Stop())
        assert [rig.expect(link.BatchOutputs).answers[0].rid for _ in rids] == rids
        assert rig.ended() == "the device worker ended with status 0"


def test_signals_to_the_whole_group_are_the_fronts_business(store: Store) -> None:
    with worker(store) as rig:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(rig.worker.pid, number)
        rig.read_all()


def test_a_worker_that_is_killed(store: Store) -> None:
    with worker(store) as rig:
        os.kill(rig.worker.pid, signal.SIGKILL)
        assert select.select([rig.worker.death_fd], [], [], TIMEOUT_S)[0]
        assert rig.ended() == "the device worker was ended by SIGKILL (out of memory?)"
        assert not rig.worker.alive()


def test_a_batch_that_is_made_to_fail(store: Store) -> None:
    with worker(store, options={"fail_on": 666.0}) as rig:
        good, bad = rig.prepared(ONE, "cat"), rig.prepared(ONE * 666, "cat")
        rig.run((good, ["cat"]), (bad, ["cat"]))
        assert rig.expect(BatchFailed).message == "a block was made to fail"
        assert (good, "cat") in rig.ran((good, ["cat"])).tensors


def test_a_backend_that_dies_in_a_batch(store: Store) -> None:
    with worker(store, options={"die_on": 666.0}) as rig:
        rig.run((rig.prepared(ONE * 666, "cat"), ["cat"]))
        assert "SIGKILL" in rig.ended()


def test_a_device_that_is_lost_takes_the_worker_with_it(store: Store) -> None:
    with worker(store, options={"lose_on": 666.0}) as rig:
        rig.run((rig.prepared(ONE * 666, "cat"), ["cat"]))
        assert rig.expect(link.WorkerFailed).message == "the device was made to fail"
        assert "status 1" in rig.ended()


def test_a_backend_that_hangs_leaves_the_other_threads_free(store: Store) -> None:
    with worker(store, options={"hang_on": 666.0}) as rig:
        rig.run((rig.prepared(ONE * 666, "cat"), ["cat"]))
        rig.read_all()
        rig.prepared(ONE, "cat")


def test_sending_to_a_worker_that_is_gone(store: Store) -> None:
    with worker(store) as rig:
        rig.worker.kill()
        rig.ended()

        with pytest.raises(Unavailable, match="gone"):
            rig.send(link.Measure(1))


PARENT = """
import select, sys, time
from edged.device.process import WorkerProcess
from edged.device.settings import Settings
settings = Settings(store=sys.argv[1], cache_dir=sys.argv[1], backend="fake")
worker = WorkerProcess(settings)
if sys.argv[2] == "ready":
    assert select.select([worker.receiver.descriptor], [], [], 60)[0]
print(worker.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("when", ["starting", "ready"])
def test_it_ends_with_its_parent(store: Store, when: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(store.path), when],
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        death = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        assert select.select([death], [], [], TIMEOUT_S)[0], "the worker outlives its parent"
        os.close(death)


def test_closing_leaves_nothing(store: Store, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    settings = Settings(store=str(store.path), cache_dir=str(tmp_path / "cache"), backend="fake")
    process = WorkerProcess(settings)
    pid = process.pid
    process.close()
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# --- what it imports ----------------------------------------------------------------------------

TRAP = "raise SystemExit('a module of the working directory was run')"


@pytest.mark.parametrize("module", ["cv2", "msgspec", "numpy", "runpy", "edged", "logging"])
def test_modules_of_the_working_directory_are_not_imported(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    folder = tmp_path / "anywhere"
    folder.mkdir()
    (folder / f"{module}.py").write_text(TRAP)
    monkeypatch.chdir(folder)
    with worker(store, backend="fake") as rig:
        assert rig.ready.backend == "fake"


def test_neither_does_the_front_run_as_a_module(tmp_path: Path) -> None:
    for module in ("msgspec", "argparse", "zmq"):
        (tmp_path / f"{module}.py").write_text(TRAP)
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-m", "edged", "check", str(CHECKOUT / "configs" / "none.toml")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert "name a configuration that exists" in done.stderr


def test_a_checkout_runs_from_its_own_directory() -> None:
    """Also without any other word of where it is."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    shown = "from edged.children import command; print(command('edged')[2])"
    done = subprocess.run(
        [sys.executable, "-c", shown], cwd=CHECKOUT, env=environment, capture_output=True, text=True
    )
    assert f"'{CHECKOUT}'" in done.stdout
    assert "''" not in done.stdout

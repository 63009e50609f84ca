"""The daemon with backend tensorrt, on the fake: it builds what is missing while it serves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edged.client import Client
from edged.client.admin import Admin
from edged.errors import EdgedError, Unavailable
from edged.store import Store
from tests.backends.blocks import dense
from tests.backends.fake_tensorrt.rig import SITE
from tests.daemon.live import Daemon, until
from tests.device.rig import Model, make_store

ROOT = Path(__file__).parents[2]
BACKBONE = dense(8, 16, seed=9)
TENSORRT = 'backend = "tensorrt"\noptions = { arena_bytes = 8388608 }\n'


def task(number: int) -> Model:
    return Model(f"task{number}", BACKBONE, dense(16, 2 + number, seed=number, relu=False))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the fake what processes import; the file has a line for each engine that is built."""
    count = tmp_path / "builds"
    count.touch()
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{SITE}")
    monkeypatch.setenv("FAKE_TENSORRT", f'{{"count": "{count}"}}')
    return count


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "store", [task(number) for number in range(5)])


@pytest.fixture
def daemon(tmp_path: Path, store: Store, fake: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path, tmp_path / "store", settings=TENSORRT)
    yield made
    made.close()


def builds(count: Path) -> int:
    return len(count.read_text().splitlines())


def ask(client: Client, model: Model) -> None:
    x = np.random.default_rng(0).random((3, 8), dtype=np.float32)
    found = client.infer({"x": x}, [model.manifest.task])[model.manifest.task].tensor
    np.testing.assert_allclose(found, model.twin(x), rtol=1e-2, atol=5e-2)


def test_a_first_start_builds_and_serves_and_a_new_task_needs_no_engine(
    daemon: Daemon, store: Store, fake: Path, tmp_path: Path
) -> None:
    daemon.wait_for("ready: 5 models")
    assert "building engine 1 of" in daemon.log()
    assert builds(fake) == 2  # the backbone's engine, and the one of all heads
    with Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        for number in range(5):
            ask(client, task(number))
        make_store(tmp_path / "store", [task(5)])
        assert admin.reload().added == ("task5",)
        ask(client, task(5))
        ask(client, task(0))
    assert builds(fake) == 2
    assert daemon.stop() == 0


def test_a_second_start_builds_nothing(
    daemon: Daemon, fake: Path, tmp_path: Path, store: Store
) -> None:
    daemon.wait_for("ready: 5 models")
    assert daemon.stop() == 0
    before = builds(fake)
    again = Daemon(tmp_path, tmp_path / "store", settings=TENSORRT)
    try:
        again.wait_for("ready: 5 models")
        with Client(again.endpoint) as client:
            ask(client, task(3))
        assert "building" not in again.log()
    finally:
        again.close()
    assert builds(fake) == before


def test_what_is_built_is_served_while_another_engine_is_being_built(
    daemon: Daemon, store: Store, fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new model's build does not end: until it does, all is as before the reload."""
    daemon.wait_for("ready: 5 models")
    assert daemon.stop() == 0
    other = Model("other", dense(8, 4, seed=77))
    make_store(tmp_path / "store", [other])
    monkeypatch.setenv("FAKE_TENSORRT", '{"fault": "wait"}')
    again = Daemon(tmp_path, tmp_path / "store", settings=TENSORRT)
    try:
        again.wait_for("building engine 1 of 1")
        with Client(again.endpoint) as client:
            for number in range(5):
                until(lambda number=number: served(client, task(number)))
                ask(client, task(number))
            with pytest.raises(Unavailable, match="is being built"):
                ask(client, other)
        assert again.stop() == 0
    finally:
        again.close()


def served(client: Client, model: Model) -> bool:
    try:
        ask(client, model)
    except Unavailable:
        return False
    return True


def test_an_engine_that_cannot_be_built_is_named_and_the_others_serve(
    daemon: Daemon, store: Store, fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.wait_for("ready: 5 models")
    assert daemon.stop() == 0
    other = Model("other", dense(8, 4, seed=77))
    make_store(tmp_path / "store", [other])
    monkeypatch.setenv("FAKE_TENSORRT", '{"fault": "none"}')
    again = Daemon(tmp_path, tmp_path / "store", settings=TENSORRT)
    try:
        again.wait_for("unbuilt: TensorRT")
        with Client(again.endpoint) as client:
            until(lambda: served(client, task(0)))
            with pytest.raises(EdgedError, match=r"unbuilt: .* could not be allocated"):
                ask(client, other)
        assert again.stop() == 0
    finally:
        again.close()


def test_prepare_builds_beforehand(store: Store, fake: Path, tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, tmp_path / "store", settings=TENSORRT)
    daemon.close()  # only its configuration is wanted
    command = [sys.executable, "-m", "edged", "prepare", "--config", str(tmp_path / "edged.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "0 of 6 blocks are prepared" in done.stdout
    assert done.stdout.count(": prepared, ") == 6
    assert builds(fake) == 2
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "6 of 6 blocks are prepared\n"

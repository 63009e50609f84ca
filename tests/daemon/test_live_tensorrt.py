"""The daemon with backend tensorrt, on the fake: it builds what is missing while it serves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edged.client import Client
from edged.client.admin import Admin
from edged.errors import EdgedError, Unavailable
from tests.backends.blocks import dense
from tests.backends.fake_tensorrt.rig import SITE
from tests.daemon.live import Daemon, until
from tests.device.rig import Model, make_store

ROOT = Path(__file__).parents[2]
BACKBONE = dense(8, 16, seed=9)
TENSORRT = 'backend = "tensorrt"\noptions = { arena_bytes = 8388608 }\n'


def task(number: int) -> Model:
    return Model(f"task{number}", BACKBONE, dense(16, 2 + number, seed=number, relu=False))


OTHER = Model("other", dense(8, 4, seed=77))  # no linear head: it needs an engine of its own


@dataclass(frozen=True)
class Prepared:
    """What `edged prepare` said, and left in its cache."""

    done: subprocess.CompletedProcess[str]
    again: subprocess.CompletedProcess[str]
    cache: Path
    builds: int


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    make_store(folder / "store", [task(0), task(1)])
    config = folder / "edged.toml"
    config.write_text(
        f'store = "{folder}/store"\n[device]\ncache_dir = "{folder}/cache"\n{TENSORRT}'
    )
    count = folder / "builds"
    environment = {"PYTHONPATH": f"{ROOT}:{SITE}", "FAKE_TENSORRT": f'{{"count": "{count}"}}'}

    def prepare() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edged", "prepare", "--config", str(config)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return Prepared(prepare(), prepare(), folder / "cache", builds(count))


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the fake what processes import. The file has a line for each engine that is built."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{SITE}")
    ask_for(monkeypatch, tmp_path, "")
    (tmp_path / "builds").touch()
    return tmp_path / "builds"


def ask_for(monkeypatch: pytest.MonkeyPatch, folder: Path, fault: str) -> None:
    monkeypatch.setenv("FAKE_TENSORRT", f'{{"count": "{folder / "builds"}", "fault": "{fault}"}}')


@pytest.fixture
def start(tmp_path: Path, count: Path) -> Iterator[Callable[[], Daemon]]:
    daemons: list[Daemon] = []

    def begin() -> Daemon:
        daemons.append(Daemon(tmp_path, tmp_path / "store", settings=TENSORRT))
        return daemons[-1]

    yield begin
    for daemon in daemons:
        daemon.close()


def builds(count: Path) -> int:
    return len(count.read_text().splitlines())


def ask(client: Client, model: Model) -> None:
    x = np.random.default_rng(0).random((3, 8), dtype=np.float32)
    found = client.infer({"x": x}, [model.manifest.task])[model.manifest.task].tensor
    np.testing.assert_allclose(found, model.twin(x), rtol=1e-2, atol=5e-2)


def served(client: Client, model: Model) -> bool:
    try:
        ask(client, model)
    except Unavailable:
        return False
    return True


def test_a_first_start_builds_and_serves_and_a_new_task_needs_no_engine(
    start: Callable[[], Daemon], count: Path, tmp_path: Path
) -> None:
    make_store(tmp_path / "store", [task(number) for number in range(5)])
    daemon = start()
    daemon.wait_for("ready: 5 models")
    assert "preparing block 1 of" in daemon.log()
    assert builds(count) == 2  # the backbone's engine, and the one of all heads
    with Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        for number in range(5):
            ask(client, task(number))
        make_store(tmp_path / "store", [task(5)])
        assert admin.reload().added == ("task5",)
        ask(client, task(5))
        ask(client, task(0))
    assert builds(count) == 2
    assert daemon.stop() == 0


def test_prepare_builds_beforehand(prepared: Prepared) -> None:
    assert prepared.done.returncode == 0, prepared.done.stderr
    assert "0 of 3 blocks are prepared" in prepared.done.stdout
    assert prepared.done.stdout.count(": prepared, ") == 3
    assert prepared.again.stdout == "3 of 3 blocks are prepared\n"
    assert prepared.builds == 2


def test_what_is_built_is_served_while_another_engine_is_being_built(
    start: Callable[[], Daemon],
    prepared: Prepared,
    count: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_store(tmp_path / "store", [OTHER, task(0), task(1)])
    shutil.copytree(prepared.cache, tmp_path / "cache")
    ask_for(monkeypatch, tmp_path, "wait")
    daemon = start()
    daemon.wait_for("preparing block 1 of 1")
    with Client(daemon.endpoint) as client:
        for number in range(2):
            until(lambda number=number: served(client, task(number)))
        with pytest.raises(Unavailable, match="is being built"):
            ask(client, OTHER)
    assert daemon.stop() == 0
    assert builds(count) == 1  # the one that was begun


def test_an_engine_that_cannot_be_built_is_named_and_the_others_serve(
    start: Callable[[], Daemon],
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_store(tmp_path / "store", [OTHER, task(0)])
    shutil.copytree(prepared.cache, tmp_path / "cache")
    ask_for(monkeypatch, tmp_path, "none")
    daemon = start()
    daemon.wait_for("unbuilt: TensorRT")
    with Client(daemon.endpoint) as client:
        until(lambda: served(client, task(0)))
        with pytest.raises(EdgedError, match=r"unbuilt: .* could not be allocated"):
            ask(client, OTHER)
    assert daemon.stop() == 0

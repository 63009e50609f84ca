"""`edged profile` on real blocks, and a daemon that uses the profile."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from edged import profiles
from edged.cli import main
from edged.client import Client
from edged.core.events import DeviceUp
from edged.observe.recording import turns
from edged.profiles.form import encode, group_costs
from edged.store import Store
from tests.colors import write_store
from tests.daemon.live import Daemon


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "store")


def config(folder: Path, store: Path, device: str = "") -> Path:
    path = folder / "profile.toml"
    path.write_text(f'store = "{store}"\n[device]\ncache_dir = "{folder}/cache"\n{device}')
    return path


@pytest.fixture(scope="module")
def measured(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profile")
    found = folder / "profile.json"
    options = ["--seconds", "0.05", "--rows", "4,1", "--out", str(found)]
    assert main(["profile", "--config", str(config(folder, store)), *options]) == 0
    return found


def test_every_block_of_the_store_is_measured(store, measured, capsys):
    profile = profiles.read(str(measured))
    blocks = {step.block for m in Store(store).models().values() for step in m.steps}
    assert profile.blocks.keys() == blocks
    assert (profile.backend, profile.machine) == ("onnxruntime", profiles.machine())
    assert {"edged", "onnxruntime"} <= profile.versions.keys()
    for block in profile.blocks.values():
        assert block.rows == (1, 4)
        assert min(block.time_s) > 0.0
        assert block.weight_bytes > 0
        assert block.workspace_bytes is not None
        assert min(block.load_cold_s, block.load_warm_s) > 0.0
        assert (block.wide_s is None) == (profile.lanes == 1)
    assert main(["profile", "--show", str(measured)]) == 0
    shown = capsys.readouterr().out
    assert all(name[:12] in shown for name in blocks)


def test_the_daemon_takes_its_costs_from_the_profile(start, store, measured):
    daemon = start(store=store, settings=f'profile = "{measured}"\n', record=True)
    daemon.wait_for("ready")
    with Client(daemon.endpoint) as client:
        assert client.ready().ready
    assert daemon.stop() == 0
    (up,) = (t.event for t in turns(daemon.recording) if isinstance(t.event, DeviceUp))
    profile = profiles.read(str(measured))
    assert set(up.costs) == set(group_costs(profile, Store(store).models().values()))
    assert all((cost.speed_up is None) == (profile.lanes == 1) for cost in up.costs)


def test_the_daemon_refuses_the_profile_of_another_device(start, store, measured, tmp_path):
    other = tmp_path / "other.json"
    other.write_bytes(encode(replace(profiles.read(str(measured)), machine="a toaster")))
    daemon = start(store=store, settings=f'profile = "{other}"\n')
    assert daemon.wait() == 2
    assert "measured with machine a toaster" in daemon.log()


def test_what_computes_nothing_cannot_be_profiled(store, tmp_path, capsys):
    path = config(tmp_path, store, 'backend = "fake"\n')
    assert main(["profile", "--config", str(path), "--seconds", "0.01", "--rows", "1"]) == 2
    assert "backend fake computes nothing" in capsys.readouterr().err


def test_a_block_that_cannot_be_measured_is_named(store, tmp_path, capsys):
    path = config(tmp_path, store, 'backend = "fake"\noptions = {fail_on_load = 1}\n')
    assert main(["profile", "--config", str(path), "--rows", "1"]) == 1
    assert "was made to fail" in capsys.readouterr().err


@pytest.fixture
def start(tmp_path: Path):
    started: list[Daemon] = []

    def one(**options: object) -> Daemon:
        started.append(Daemon(tmp_path, **options))  # type: ignore[arg-type]
        return started[-1]

    yield one
    for daemon in started:
        daemon.close()

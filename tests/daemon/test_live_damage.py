"""A store of which a part is damaged: the models that are whole are served, the others say why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edged.cli import main
from edged.client import Client
from edged.client.admin import Admin
from edged.errors import EdgedError
from edged.store import Store
from tests.colors import put_tasks, write_store
from tests.daemon.live import Daemon, until
from tests.daemon.test_live_admin import IMAGE, factor
from tests.store.test_damage import DAMAGES, manifest_of


@pytest.fixture
def own_store(tmp_path: Path) -> Store:
    return Store(write_store(tmp_path / "own-store"))


def head(store: Store, model: str) -> Path:
    return store.block_path(store.model(model).steps[-1].block)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@contextmanager
def innocent(daemon: Daemon) -> Iterator[list[float]]:
    """Another client's answers meanwhile; one that fails fails the test."""
    factors: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with Client(daemon.endpoint) as client:
            while not done.is_set():
                factors.append(factor(client, "color"))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield factors
        seen = len(factors)
        until(lambda: len(factors) > seen + 1 or not asking.is_alive())
    finally:
        done.set()
        asking.join()
    assert set(factors) == {1.0}


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "missing"])
def test_a_damaged_head_is_listed_with_the_reason_and_the_rest_serves(
    start: Callable[..., Daemon],
    own_store: Store,
    tmp_path: Path,
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = head(own_store, "weakest")
    whole = path.read_bytes()
    {"flip": flip, **DAMAGES}[damage](path)
    config = tmp_path / "check.toml"
    config.write_text(f'store = "{own_store.path}"')
    assert main(["check", str(config)]) == 1
    assert "model weakest cannot be served: block" in capsys.readouterr().err
    pinned = '[memory]\npinned = ["weakest"]\n' if damage in ("flip", "missing") else ""
    daemon = start(store=own_store.path, settings=pinned)
    daemon.wait_for("ready: 1 models")
    assert "ERROR: model weakest cannot be served: block" in daemon.log()
    with innocent(daemon), Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        assert factor(client, "color") == 1.0
        states = {model.name: (model.state, model.reason) for model in client.models()}
        assert states["color"] == ("READY", "")
        assert states["weakest"][0] == "UNAVAILABLE"
        assert "restore the file from a copy" in states["weakest"][1]
        with pytest.raises(EdgedError, match="restore the file from a copy"):
            client.infer(IMAGE, ["weakest"], timeout_s=1.0)
        with pytest.raises(EdgedError, match="restore the file from a copy"):
            client.infer(IMAGE, ["color", "weakest"], timeout_s=1.0)
        main(["status", "--endpoint", daemon.endpoint])
        assert "model weakest cannot be served: block" in capsys.readouterr().out
        path.write_bytes(whole)
        admin.reload()
        assert factor(client, "weakest") == -1.0
        assert {model.state for model in client.models()} == {"READY"}
    assert daemon.stop() == 0
    assert main(["check", str(config)]) == 0


def test_a_manifest_that_cannot_be_read_takes_no_other_model_with_it(
    start: Callable[..., Daemon], own_store: Store
) -> None:
    path = manifest_of(own_store, "weakest")
    whole = path.read_bytes()
    flip(path)
    daemon = start(store=own_store.path)
    with Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        assert factor(client, "color") == 1.0
        (model,) = [model for model in client.models() if model.name == "weakest"]
        assert (model.state, "is damaged" in model.reason) == ("UNAVAILABLE", True)
        with pytest.raises(EdgedError, match=r"cannot be served: .* is damaged.*edged reload"):
            client.infer(IMAGE, ["weakest"])
        with pytest.raises(EdgedError, match=r"cannot be served"):
            admin.set_model("weakest", "loaded")
        assert admin.reload().added == ()  # it is no worse than it was
        path.write_bytes(whole)
        assert admin.reload().added == ("weakest",)
        assert factor(client, "weakest") == -1.0
    assert daemon.stop() == 0


def test_a_head_that_is_damaged_while_it_is_not_loaded_is_refused_alone(
    start: Callable[..., Daemon], own_store: Store, tmp_path: Path
) -> None:
    daemon = start(store=own_store.path)
    daemon.wait_for("ready: 2 models")
    with innocent(daemon), Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        admin.set_model("weakest", "unloaded")
        path = head(own_store, "weakest")
        whole = path.read_bytes()
        flip(path)
        for entry in (tmp_path / "cache").glob(f"{path.stem}-*/*"):
            flip(entry)
        with pytest.raises(EdgedError, match="damaged"):
            admin.set_model("weakest", "loaded")
        assert "damaged" in {m.name: m.reason for m in client.models()}["weakest"]
        with pytest.raises(EdgedError, match="damaged"):
            client.infer(IMAGE, ["weakest"], timeout_s=1.0)
        path.write_bytes(whole)
        admin.set_model("weakest", "loaded")
        assert factor(client, "weakest") == -1.0
    assert daemon.stop() == 0


@pytest.mark.parametrize("damage", [*DAMAGES, "root"])
def test_a_reload_of_what_cannot_be_read_changes_nothing(
    start: Callable[..., Daemon], own_store: Store, damage: str
) -> None:
    daemon = start(store=own_store.path)
    daemon.wait_for("ready: 2 models")
    put_tasks(own_store.path, color=2.0)
    root = own_store.path / "store.json"
    good = root.read_bytes()
    if damage == "root":
        root.write_bytes(good.replace(b"color", b"col\xefr"))  # one bit
    else:
        DAMAGES[damage](manifest_of(own_store, "color"))
    with Client(daemon.endpoint) as client, Admin(daemon.admin) as admin:
        with innocent(daemon), pytest.raises(EdgedError, match="restore"):
            admin.reload()
        assert factor(client, "color") == 1.0
        assert {model.state for model in client.models()} == {"READY"}
    assert "Traceback" not in daemon.log()
    assert daemon.stop() == 0

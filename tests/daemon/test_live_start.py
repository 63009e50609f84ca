"""How the real daemon starts: what it says, what it keeps, and what it measures again."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edged.cli import main
from edged.client import Client
from edged.errors import ResourceExhausted
from tests.backends.blocks import dense
from tests.daemon.live import Daemon, until
from tests.device.rig import Model, make_store

MIB = 1 << 20
X = {"x": np.random.default_rng(0).standard_normal((1, 1024)).astype(np.float32)}
MODELS = {
    "small": Model("small", dense(1024, 16, seed=1, relu=False)),
    "medium": Model("medium", dense(1024, 2048, seed=2, relu=False)),  # 8 MiB
    "large": Model("large", dense(1024, 65536, seed=3, relu=False)),  # 256 MiB
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("start")
    two = [MODELS["small"], MODELS["medium"]]
    return {
        "two": make_store(folder / "two", two).path,
        "three": make_store(folder / "three", MODELS.values()).path,
        "large": make_store(folder / "large", [MODELS["large"]]).path,
    }


@contextmanager
def notices(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a service manager would be told by a daemon that is started meanwhile; by `heard`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # an abstract address, which the kernel chooses
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + manager.getsockname()[1:].decode())
        said: list[str] = []

        class Heard(list[str]):
            def __contains__(self, text: object) -> bool:
                try:
                    while True:
                        said.extend(manager.recv(4096).decode().splitlines())
                except BlockingIOError:
                    return text in said

            def __iter__(self) -> Iterator[str]:
                assert "" not in self
                return iter(said)

        yield Heard()


def answers(client: Client, *names: str) -> None:
    for name in names:
        found = client.infer(X, name)[name].tensor
        np.testing.assert_allclose(found, MODELS[name].twin(X["x"]), rtol=2e-3, atol=2e-2)


def test_models_become_ready_one_by_one_and_the_manager_is_told(start, stores, monkeypatch) -> None:
    with notices(monkeypatch) as heard:
        daemon = start(store=stores["two"])
        daemon.wait_for("ready: 2 models")
        until(lambda: any(said.startswith("STATUS=serving 2 models on") for said in heard))
        said = list(heard)
    assert said.index("STATUS=loading model 1 of 2") < said.index("READY=1")
    assert any("loading model 2 of 2; serving 2 models" in one for one in said)
    extended = [one.startswith("EXTEND_TIMEOUT_USEC=") for one in said[: said.index("READY=1")]]
    assert sum(extended) >= 2  # at the start, and with the progress
    assert "loading model 2 of 2" in daemon.log()
    with Client(daemon.endpoint) as client:
        answers(client, "small", "medium")
    assert daemon.stop() == 0


def test_what_was_measured_is_not_measured_again(start, stores) -> None:
    first = start(store=stores["two"])
    with Client(first.endpoint) as client:
        answers(client, "small", "medium")
        for name in ("small", "medium"):
            first.wait_for(f"model {name} is measured, up to 16 rows")
        first.worker().kill()
        answers(client, "medium", "small")
        until(lambda: first.log().count("ready: 2 models") == 2)
        answers(client, "medium", "small")
        assert first.stop() == 0
    kept = sorted((first.folder / "cache").glob("*.measured"))
    assert len(kept) == 4  # two blocks, two models
    times = {path: path.read_bytes() for path in kept if b"times" in path.read_bytes()}
    assert len(times) == 2
    second = start(store=stores["two"])
    second.wait_for("ready: 2 models")
    with Client(second.endpoint) as client:
        answers(client, "small", "medium")
        idle(second)
    assert second.stop() == 0
    assert "is measured" not in second.log()
    assert first.log().count("is measured") == 2
    assert {path: path.read_bytes() for path in times} == times


def idle(daemon: Daemon) -> None:
    """Wait until the daemon has had time to measure something, if it had anything to measure."""
    worker = daemon.worker()
    worker.cpu_percent()
    until(lambda: worker.cpu_percent(0.5) < 20.0)


def besides(store: Path, folder: Path) -> int:
    """Bytes that a daemon takes besides blocks, when all is loaded and measured."""
    daemon = Daemon(folder, store)
    try:
        with Client(daemon.endpoint) as client:
            daemon.wait_for("is measured")
            memory = client.statistics().memory
            return int(memory["total_bytes"] - memory["blocks_bytes"])
    finally:
        daemon.close()


def test_a_model_that_does_not_fit_leaves_the_daemon_degraded(
    start, stores, tmp_path_factory, capsys
) -> None:
    budget = besides(stores["two"], tmp_path_factory.mktemp("besides")) + 100 * MIB
    daemon = start(store=stores["three"], settings=f"[memory]\nbudget_bytes = {budget}\n")
    daemon.wait_for("degraded: 1 of 3 models do not fit")
    with Client(daemon.endpoint) as client:
        assert client.ready().ready
        answers(client, "small", "medium")
        with pytest.raises(ResourceExhausted, match="large: "):
            client.infer(X, "large")
    assert main(["status", "--endpoint", daemon.endpoint]) == 0
    assert "READY (degraded: 1 of 3 models do not fit)" in capsys.readouterr().out
    assert daemon.stop() == 0


def test_where_nothing_fits_the_daemon_is_up_and_not_ready_and_says_by_how_much(
    start, stores, tmp_path_factory, capsys, monkeypatch
) -> None:
    budget = besides(stores["two"], tmp_path_factory.mktemp("besides")) + 100 * MIB
    with notices(monkeypatch) as heard:
        daemon = start(
            store=stores["large"],
            settings=f'[memory]\nbudget_bytes = {budget}\npinned = ["large"]\n',
        )
        daemon.wait_for("bytes are missing for large")
        until(lambda: any("bytes are missing for large" in said for said in heard))
        with Client(daemon.endpoint) as client:
            assert not client.ready().ready
            with pytest.raises(ResourceExhausted, match="large: "):
                client.infer(X, "large")
        assert main(["status", "--endpoint", daemon.endpoint]) == 1
        assert "STARTING (the memory budget holds no pinned" in capsys.readouterr().out
        extended = sum(said.startswith("EXTEND_TIMEOUT_USEC=") for said in heard)
        until(lambda: sum(said.startswith("EXTEND_TIMEOUT_USEC=") for said in heard) > extended)
        assert daemon.stop() == 0
        assert "READY=1" not in heard

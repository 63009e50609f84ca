"""More models than memory holds, on the real daemon."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edged.client import Client
from edged.errors import ResourceExhausted
from edged.store import Store
from tests.backends.blocks import dense
from tests.daemon.live import until
from tests.device.rig import Model, make_store

MIB = 1 << 20
NAMES = ["ant", "bee", "cat", "dog", "eel", "fox"]
X = {"x": np.random.default_rng(0).standard_normal((2, 1448)).astype(np.float32)}


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    """A common block and one of each model's own; all are of 8 MiB."""
    base = dense(1448, 1448, seed=1, relu=False)
    return {
        name: Model(name, base, dense(1448, 1448, seed=seed, relu=False))
        for seed, name in enumerate(NAMES, 2)
    }


@pytest.fixture(scope="module")
def large_store(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Model]) -> Path:
    return make_store(tmp_path_factory.mktemp("large") / "store", models.values()).path


def memory(client: Client) -> dict[str, int]:
    found: dict[str, int] = client.statistics().memory
    return found


def tight(besides_blocks_bytes: int, blocks: int, more: str = "") -> str:
    budget = besides_blocks_bytes + blocks * 8 * MIB + 4 * MIB
    return f"[memory]\nbudget_bytes = {budget}\n{more}"


@pytest.fixture(scope="module")
def besides(large_store: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Bytes that the daemon takes besides blocks when all of them are loaded and measured."""
    from tests.daemon.live import Daemon

    daemon = Daemon(tmp_path_factory.mktemp("besides"), large_store)
    try:
        with Client(daemon.endpoint) as client:
            daemon.wait_for("ready: 6 models")
            until(lambda: daemon.log().count("is measured") == 6)
            found = memory(client)
            assert found["blocks_bytes"] >= 7 * 8 * MIB
            return found["total_bytes"] - found["blocks_bytes"]
    finally:
        daemon.close()


def test_all_models_are_served_within_the_budget(start, large_store, models, besides) -> None:
    """Three of the six models fit. The account holds after every answer."""
    settings = tight(besides, 4)
    daemon = start(store=large_store, settings=settings)
    order = np.random.default_rng(1).permutation(NAMES * 4)
    with Client(daemon.endpoint, timeout_s=60) as client:
        until(lambda: client.ready().ready)
        for name in order:
            found = client.infer(X, str(name))[str(name)].tensor
            np.testing.assert_allclose(found, models[name].twin(X["x"]), rtol=2e-3, atol=2e-2)
            account = memory(client)
            parts = ("fixed", "staging", "workspace", "blocks", "unexplained")
            assert sum(account[f"{part}_bytes"] for part in parts) == account["total_bytes"]
            assert account["total_bytes"] <= account["budget_bytes"]
            assert (
                account["front_pss_bytes"] + account["worker_pss_bytes"] <= account["total_bytes"]
            )
        pending = [client.submit(X, name) for name in NAMES * 3]
        for one, name in zip(pending, NAMES * 3, strict=True):
            expected = models[name].twin(X["x"])
            np.testing.assert_allclose(one.result()[name].tensor, expected, rtol=2e-3, atol=2e-2)
    assert daemon.stop() == 0


def test_one_request_for_models_that_fit_together(start, large_store, models, besides) -> None:
    daemon = start(store=large_store, settings=tight(besides, 4))
    with Client(daemon.endpoint, timeout_s=60) as client:
        until(lambda: client.ready().ready)
        for asked in (["ant", "bee", "cat"], ["dog", "eel", "fox"]):
            result = client.infer(X, asked)
            for name in asked:
                expected = models[name].twin(X["x"])
                np.testing.assert_allclose(result[name].tensor, expected, rtol=2e-3, atol=2e-2)
        with pytest.raises(ResourceExhausted, match="bytes"):
            client.infer(X, NAMES)


def test_a_model_whose_block_is_damaged_harms_no_other(start, large_store, besides, tmp_path):
    daemon = start(store=large_store, settings=tight(besides, 3))
    store = Store(large_store)
    with Client(daemon.endpoint, timeout_s=60) as client:
        until(lambda: client.ready().ready)
        client.infer(X, "ant")
        block = store.model("fox").steps[1].block
        path = store.block_path(block)
        whole = path.read_bytes()
        client.infer(X, "bee")  # two of their own fit: fox is not there now
        client.infer(X, "cat")
        try:
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            for entry in (tmp_path / "cache").glob(f"{block}*/*"):
                entry.unlink()
            with pytest.raises(Exception, match="damaged"):
                client.infer(X, "fox")
            for name in ("dog", "eel", "ant"):
                client.infer(X, name)
        finally:
            path.write_bytes(whole)


def test_pinned_models_that_are_not_served_are_a_mistake(start, large_store) -> None:
    daemon = start(store=large_store, settings='[memory]\npinned = ["gnu"]\n')
    assert daemon.wait() == 2
    assert "memory.pinned: 'gnu' is not served" in daemon.log()


def test_a_worker_that_comes_back_serves_within_the_budget(
    start, large_store, models, besides
) -> None:
    daemon = start(store=large_store, settings=tight(besides, 4, 'pinned = ["fox"]\n'))
    with Client(daemon.endpoint, timeout_s=60) as client:
        until(lambda: client.ready().ready)
        client.infer(X, "ant")
        daemon.worker().kill()
        for name in NAMES:
            expected = models[name].twin(X["x"])
            found = client.infer(X, name)[name].tensor
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-2)
        account = memory(client)
        assert account["total_bytes"] <= account["budget_bytes"]

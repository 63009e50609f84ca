"""One network at two input sizes: its weights are once in the store, in the cache and in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.client import Client
from edged.client.admin import Admin
from edged.store import Store
from export.add import add_models
from export.listing import common, contents
from export.migrate import migrate
from export.probe import session
from export.source import Source
from tests.daemon.live import PATIENCE_S, Daemon, until
from tests.store.samples import as_of_schema_1

SIDES = {"a": 32, "b": 48}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four convolutions over pictures of any size, 1.8 MB of weights."""
    random, x = np.random.default_rng(0), "x"
    nodes, weights = [], []
    for number, channels in enumerate((3, 128, 128, 128)):
        kernel = random.standard_normal((128, channels, 3, 3)).astype(np.float32) / 20
        weights.append(numpy_helper.from_array(kernel, f"k{number}"))
        made = f"c{number}"
        nodes.append(helper.make_node("Conv", [x, f"k{number}"], [made], pads=[1, 1, 1, 1]))
        x = f"h{number}"
        nodes.append(helper.make_node("Relu", [made], [x]))
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", c, "height", "width"])
        for name, c in (("x", 3), (x, 128))
    ]
    graph = helper.make_graph(nodes, "network", infos[:1], infos[1:], weights)
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(path))
    return path


def fill(store: Store, network: Path) -> Store:
    shapes = {task: (3, side, side) for task, side in SIDES.items()}
    add_models(store, [Source(task, network, shapes={"x": s}) for task, s in shapes.items()])
    return store


@pytest.fixture
def daemon(network: Path, tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path, fill(Store(tmp_path / "store").create(), network).path)
    yield made
    made.close()


def answers(daemon: Daemon) -> dict[str, np.ndarray]:
    daemon.wait_for("ready: 2 models")
    found = {}
    with Client(daemon.endpoint, timeout_s=PATIENCE_S) as client:
        for task in SIDES:
            (found[task],) = client.infer({"x": pixels(task)}, [task])[task].tensors.values()
    return found


def pixels(task: str) -> np.ndarray:
    side = SIDES[task]
    return np.random.default_rng(side).standard_normal((1, 3, side, side)).astype(np.float32)


def test_the_store_has_the_weights_once(network: Path, tmp_path: Path) -> None:
    store = fill(Store(tmp_path / "store").create(), network)
    found = contents(store)
    one, two = (line.block_bytes for line in found.models)
    assert found.block_bytes <= 1.05 * max(one, two)
    shared = common(store, "a", "b")
    assert (shared.blocks, shared.tensors) == ((), 4)
    files = [path for path in (store.path / "blocks").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) == found.block_bytes


def test_cache_and_memory_have_the_weights_once(daemon: Daemon, network: Path) -> None:
    runner = session(network.read_bytes())
    for task, found in answers(daemon).items():
        (expected,) = runner.run(None, {"x": pixels(task)})
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    with Admin(daemon.admin) as admin:
        until(lambda: all(m.blocks == m.blocks_resident for m in admin.residency().models))
        told = admin.residency()
    one = max(model.resident_bytes for model in told.models)
    assert told.resident_bytes <= 1.05 * one
    cache = {
        file.stat().st_ino: file.stat().st_size
        for file in (daemon.folder / "cache").rglob("*")
        if file.is_file() and file.suffix != ".measured"
    }
    assert sum(cache.values()) <= 1.05 * one
    mapped = [
        one.pss
        for one in daemon.worker().memory_maps(grouped=True)
        if one.path.startswith(f"{daemon.folder}/cache/")
    ]
    assert 0.95 * one <= sum(mapped) <= 1.05 * one


def test_a_store_of_before_serves_the_same_answers_bit_for_bit_when_it_is_migrated(
    network: Path, tmp_path: Path
) -> None:
    store = fill(as_of_schema_1(Store(tmp_path / "store").create()), network)
    found = []
    for _ in range(2):
        daemon = Daemon(tmp_path, store.path)
        try:
            found.append(answers(daemon))
        finally:
            daemon.close()
        migrate(store)
    for task in SIDES:
        np.testing.assert_array_equal(found[0][task], found[1][task])

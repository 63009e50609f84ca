"""Large weights are files of their own, which all blocks that have them share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from edged.errors import StoreError
from edged.store import Store
from tests.backends.blocks import dense
from tests.store.samples import as_of_schema_1, block_id, model

# Two graphs with the same weights of 25.6 kB and the same bias of 400 bytes; and another weight.
PLAIN, RELU, OTHER = dense(64, 100, relu=False), dense(64, 100), dense(64, 100, seed=1)
WEIGHT_BYTES = 4 * 64 * 100
X = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)


def put(store: Store, **models: bytes) -> Store:
    with store.update() as change:
        for name, data in models.items():
            assert change.add_block(data) == store.split(data).block
            step = model(name, data).steps[0]
            assert change.schema == 1 or step.block == block_id(data)
            change.put_model(model(name, data))
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return put(Store(tmp_path / "store").create(), plain=PLAIN.data, relu=RELU.data)


def tensor_file(store: Store, block: bytes) -> Path:
    (tensor,) = store.tensors_of(block_id(block))
    return store.path / "blocks" / "tensors" / tensor


def test_two_graphs_with_equal_weights_keep_them_once(store: Store) -> None:
    ((tensor, size),) = store.tensors().items()
    assert size == WEIGHT_BYTES
    for block in (PLAIN, RELU):
        assert store.tensors_of(block_id(block.data)) == (tensor,)
        assert (
            store.block_size(block_id(block.data))
            == WEIGHT_BYTES + store.blocks()[block_id(block.data)]
        )
    assert sum(store.blocks().values()) < 3000


def test_a_block_comes_back_as_it_was_given(store: Store) -> None:
    for block in (PLAIN, RELU):
        assert store.block_bytes(block_id(block.data)) == block.data
        graph = store.graph_bytes(block_id(block.data))
        assert hashlib.sha256(graph).hexdigest() == block_id(block.data)
        assert len(graph) < 2000


def test_any_tool_reads_a_block_where_it_lies(store: Store) -> None:
    path = store.block_path(block_id(RELU.data))
    onnx.checker.check_model(str(path))
    assert onnx.load(str(path)).graph.initializer[0].raw_data
    (found,) = ort.InferenceSession(str(path)).run(None, {"x0": X})
    (expected,) = ort.InferenceSession(RELU.data).run(None, {"x0": X})
    np.testing.assert_array_equal(found, expected)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(("damage", "what"), [(flip, "is damaged"), (Path.unlink, "is missing")])
def test_a_damaged_tensor_is_found_and_mended_by_adding_a_block_again(
    store: Store, damage: Callable[[Path], None], what: str
) -> None:
    path, block = tensor_file(store, PLAIN.data), block_id(RELU.data)
    damage(path)
    for read in (store.verify_block, store.block_bytes):
        with pytest.raises(StoreError, match=rf"tensor {path.name[:12]} {what} \({path}"):
            read(block)
    store.verify_graph(block)
    put(store, relu=RELU.data)
    with store.update() as change:
        change.add_block(PLAIN.data)
    store.verify_block(block)
    assert store.block_bytes(block) == RELU.data


def test_a_model_whose_tensor_is_missing_is_not_put(store: Store) -> None:
    def change() -> None:
        with store.update() as change:
            change.add_block(OTHER.data)
            tensor_file(store, OTHER.data).unlink()
            change.put_model(model("other", OTHER.data))

    with pytest.raises(StoreError, match=r"tensor .* is missing"):
        change()
    assert store.names() == ("plain", "relu")


def test_gc_removes_the_tensors_of_no_block_that_stays(store: Store) -> None:
    put(store, other=OTHER.data)
    with store.update() as change:
        change.remove_model("plain")
        change.remove_model("other")
    mine = tensor_file(store, RELU.data)
    sizes = store.blocks()
    collected = store.gc()
    assert set(collected.removed) == {block_id(PLAIN.data), block_id(OTHER.data)}
    assert collected.removed_tensors == 1
    assert collected.removed_bytes == WEIGHT_BYTES + sum(sizes[id] for id in collected.removed)
    assert store.tensors() == {mine.name: WEIGHT_BYTES}
    store.verify_block(block_id(RELU.data))


def test_gc_keeps_the_tensors_of_blocks_that_are_held(store: Store) -> None:
    with store.update() as change:
        change.remove_model("plain")
        change.remove_model("relu")
    block = block_id(RELU.data)
    with store.hold([block]):
        assert store.gc().held == (block,)
        assert store.block_bytes(block) == RELU.data
    assert store.gc().removed_tensors == 1
    assert store.tensors() == store.blocks() == {}


def test_gc_removes_nothing_while_it_cannot_know_which_tensors_are_needed(store: Store) -> None:
    with store.update() as change:
        change.remove_model("plain")
    whole = store.graph_bytes(block_id(RELU.data))
    flip(store.block_path(block_id(RELU.data)))
    with pytest.raises(StoreError, match="is damaged"):
        store.gc()
    assert len(store.blocks()) == 2
    store.block_path(block_id(RELU.data)).write_bytes(whole)
    assert store.gc().removed == (block_id(PLAIN.data),)


def test_gc_removes_the_litter_of_a_tensor_that_was_being_written(store: Store) -> None:
    litter = tensor_file(store, PLAIN.data).with_suffix(".tmp")
    litter.touch()
    store.gc()
    assert not litter.exists()


def test_a_store_of_schema_1_is_read_and_changed_as_it_is(tmp_path: Path) -> None:
    old = as_of_schema_1(Store(tmp_path / "old").create())
    for data in (PLAIN.data, RELU.data):
        id = hashlib.sha256(data).hexdigest()
        with old.update() as change:
            assert change.add_block(data) == id
        again = Store(old.path)
        assert again.block_bytes(id) == data
        assert again.schema() == 1
        assert (again.parts(id), again.tensors_of(id)) == ({id: len(data)}, ())
        with again.hold([id]):
            again.verify_block(id)
    assert old.tensors() == {}
    collected = old.gc()
    assert (len(collected.removed), collected.removed_tensors) == (2, 0)
    assert not (old.path / "blocks" / "tensors").exists()


def test_a_store_of_a_newer_schema_is_refused(store: Store) -> None:
    root = store.path / "store.json"
    root.write_text(root.read_text().replace('"schema": 2', '"schema": 3'))
    with pytest.raises(StoreError, match="has schema 3, this edged reads up to 2: upgrade edged"):
        store.names()

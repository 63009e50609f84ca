"""Blocks that come and go in a running worker, over its channel."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.core.events import BlockLoaded, BlockLoadFailed, BlockUnloaded, Load, Unload
from edged.device.orders import Orders
from edged.errors import Code
from edged.link import messages as link
from edged.manifest import Manifest
from edged.store import Store
from tests.backends.blocks import Block, dense
from tests.device.rig import Model, Rig, make_store, worker

BODY = dense(6, 48, seed=1)
HEADS = {name: dense(48, 3, seed=seed) for seed, name in enumerate(["cat", "dog", "eel"], 2)}
MODELS = {name: Model(name, BODY, head) for name, head in HEADS.items()}
BLOCKS = [BODY, *HEADS.values()]
X = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("rig") / "store", MODELS.values())


@pytest.fixture(params=["fake", "onnxruntime", "torch"])
def rig(store: Store, request: pytest.FixtureRequest) -> Iterator[Rig]:
    with worker(store, backend=request.param) as made:
        yield made


def load(rig: Rig, block: Block) -> BlockLoaded:
    rig.send(Load(block.id))
    loaded = rig.expect(BlockLoaded)
    assert loaded.block == block.id
    return loaded


def unload(rig: Rig, block: Block) -> None:
    rig.send(Unload(block.id))
    assert rig.expect(BlockUnloaded).block == block.id


def answer(rig: Rig, model: str) -> np.ndarray:
    rid = rig.prepared(X, model)
    return rig.ran((rid, [model])).tensors[rid, model]


def test_a_block_that_comes_back_computes_as_before(rig: Rig) -> None:
    before = {name: answer(rig, name) for name in MODELS}
    unload(rig, HEADS["cat"])
    np.testing.assert_array_equal(answer(rig, "dog"), before["dog"])
    load(rig, HEADS["cat"])
    unload(rig, BODY)
    load(rig, BODY)
    for name in MODELS:
        np.testing.assert_array_equal(answer(rig, name), before[name])


def test_a_block_says_the_same_bytes_each_time(rig: Rig) -> None:
    known = rig.bytes_used
    unload(rig, BODY)
    assert load(rig, BODY).bytes == known[BODY.id] > 0


def test_orders_are_done_beside_batches_and_loads_in_turn(store: Store) -> None:
    slow = {"run_us": 100_000}
    with worker(store, options=slow) as rig:
        rid = rig.prepared(X, "dog")
        rig.run((rid, ["dog"]))
        for name in ("cat", "eel"):
            unload(rig, HEADS[name])
        for name in ("eel", "cat"):
            rig.send(Load(HEADS[name].id))
        loaded = [rig.expect(BlockLoaded).block for _ in range(2)]
        assert loaded == [HEADS["eel"].id, HEADS["cat"].id]
        rig.expect(link.BatchOutputs)


class StuckLoader:
    """Its load ends when another block has been unloaded, or after a time that fails."""

    def __init__(self) -> None:
        self._unloaded = threading.Event()

    def load(self, block: str) -> link.BlockInfo:
        assert self._unloaded.wait(10.0), "the unload waits for the load"
        return link.BlockInfo(block, 1, 1)

    def unload(self, block: str) -> None:
        self._unloaded.set()


def test_a_block_is_unloaded_while_another_one_is_loaded() -> None:
    """So that there is room when the next load is ordered."""
    reports: list[link.FromWorker] = []
    orders = Orders(StuckLoader(), lambda _: None, reports.append)  # type: ignore[arg-type]
    orders.start()
    orders.put(Load("coming"))
    orders.put(Unload("going"))
    orders.stop()
    assert sorted(type(report).__name__ for report in reports) == ["BlockLoaded", "BlockUnloaded"]


class SlowToUnload:
    """Its unload ends when a model has been forgotten meanwhile, as must not be, or soon."""

    def __init__(self) -> None:
        self.manifests: dict[str, Manifest] = {}
        self.calls: list[str] = []
        self._forgotten = threading.Event()

    def unload(self, block: str) -> None:
        self._forgotten.wait(0.1)
        self.calls.append("unload")

    def forget(self, models: Sequence[str]) -> None:
        self.calls.append("forget")
        self._forgotten.set()


def test_a_model_is_forgotten_after_what_was_to_be_unloaded() -> None:
    """Or two threads would unload one block."""
    loader = SlowToUnload()
    orders = Orders(loader, lambda _: None, lambda _: None)  # type: ignore[arg-type]
    orders.start()
    orders.put(Unload("head"))
    orders.put(link.Forget(("model",)))
    orders.stop()
    assert loader.calls == ["unload", "forget"]


def test_a_model_is_forgotten_after_the_last_batch_with_it(store: Store) -> None:
    """Which has yet to begin here: its request was taken back when it was ordered already."""
    with worker(store, options={"run_us": 100_000}) as rig:
        first, second = rig.prepared(X, "cat"), rig.prepared(X + 1, "dog")
        rig.run((first, ["cat"]))
        rig.run((second, ["dog"]))
        rig.send(link.Forget(("dog",)))
        for batch in (1, 2):
            assert rig.expect(link.BatchOutputs).done.batch == batch
        rig.send(Load(HEADS["dog"].id))
        assert "is of no model" in rig.expect(BlockLoadFailed).message
        assert rig.refused(X, "dog").code is Code.NOT_FOUND


def test_an_order_that_makes_no_sense_ends_the_worker(store: Store) -> None:
    """What is loaded is in doubt then; the front starts another one."""
    with worker(store) as rig:
        rig.send(Unload("0" * 64))
        assert "is not loaded; this is a bug" in rig.expect(link.WorkerFailed).message
        assert rig.ended() == "the device worker ended with status 1"


def test_a_block_of_no_model(rig: Rig) -> None:
    rig.send(Load("0" * 64))
    failed = rig.expect(BlockLoadFailed)
    assert (failed.block, failed.code) == ("0" * 64, Code.INTERNAL)


@pytest.mark.parametrize("backend", ["fake", "onnxruntime", "torch"])
def test_a_load_that_fails_leaves_the_rest_as_it_was(tmp_path: Path, backend: str) -> None:
    store = make_store(tmp_path / "store", MODELS.values())
    path = store.block_path(HEADS["cat"].id)
    whole = path.read_bytes()
    with worker(store, backend=backend) as rig:
        expected = answer(rig, "cat")
        for damage in (b"", whole[: len(whole) // 2], bytes([whole[0] ^ 1]) + whole[1:], None):
            unload(rig, HEADS["cat"])
            for entry in (tmp_path / "cache").glob(f"{HEADS['cat'].id}*/*"):
                entry.unlink()  # else a prepared copy would do
            path.unlink()
            if damage is not None:
                path.write_bytes(damage)
            rig.send(Load(HEADS["cat"].id))
            failed = rig.expect(BlockLoadFailed)
            assert failed.code is Code.INTERNAL
            assert ("missing" if damage is None else "damaged") in failed.message
            answer(rig, "dog")
            path.write_bytes(whole)
            load(rig, HEADS["cat"])
            np.testing.assert_array_equal(answer(rig, "cat"), expected)


def test_a_damaged_prepared_copy_is_made_anew(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", MODELS.values())
    with worker(store, backend="onnxruntime") as rig:
        expected = answer(rig, "cat")
        unload(rig, HEADS["cat"])
        (entry,) = (tmp_path / "cache").glob(f"{HEADS['cat'].id}*/model.onnx")
        data = bytearray(entry.read_bytes())
        data[-1] ^= 1
        entry.write_bytes(data)
        load(rig, HEADS["cat"])
        np.testing.assert_array_equal(answer(rig, "cat"), expected)


def test_how_long_a_load_takes_is_not_known_of_a_block_that_must_be_prepared_again(
    store: Store, tmp_path: Path
) -> None:
    cache, gone = tmp_path / "cache", HEADS["cat"].id
    settings = {"backend": "onnxruntime", "cache_dir": str(cache)}
    with worker(store, **settings) as rig:
        assert rig.ready.blocks == ()
    with worker(store, **settings) as rig:
        assert {info.id for info in rig.ready.blocks} == {block.id for block in BLOCKS}
    for path in cache.iterdir():
        if path.is_dir() and path.name.startswith(gone):
            shutil.rmtree(path)
    with worker(store, **settings) as rig:
        assert {info.id for info in rig.ready.blocks} == {block.id for block in BLOCKS} - {gone}


# --- models at run time ---------------------------------------------------------------------------


def test_models_are_defined_and_forgotten(store: Store) -> None:
    manifests = store.models()
    with worker(store, backend="onnxruntime", models=["cat"]) as rig:
        before = answer(rig, "cat")
        assert rig.refused(X, "dog@2").code is Code.NOT_FOUND
        rig.send(link.Define((("dog@2", manifests["dog"]),)))
        assert rig.expect(link.Defined).models == ("dog@2",)
        load(rig, HEADS["dog"])
        np.testing.assert_allclose(answer(rig, "dog@2"), MODELS["dog"].twin(X), rtol=1e-4)
        rig.send(link.Forget(("cat",)))
        rig.send(link.Define((("cat", manifests["cat"]),)))
        rig.expect(link.Defined)
        load(rig, HEADS["cat"])  # its block went with it
        np.testing.assert_array_equal(answer(rig, "cat"), before)


def test_blocks_of_a_new_model_run_in_the_micro_batches_that_were_found_earlier(
    store: Store, tmp_path: Path
) -> None:
    block, run_s = HEADS["dog"].id, 0.05
    settings = {"cache_dir": str(tmp_path), "options": {"run_us": int(run_s * 1e6)}}
    with worker(store, models=["dog"], **settings):
        pass  # its blocks were loaded, and what they take is kept
    (path,) = tmp_path.glob(f"{block}*")
    file = json.loads(path.read_bytes())
    file["figures"] |= {"is_judged": True, "rows_at_once": 1}
    path.write_text(json.dumps(file))
    x = np.zeros((4, 6), np.float32)
    with worker(store, models=["cat"], **settings) as rig:
        rig.send(link.Define((("dog", store.models()["dog"]),)))
        rig.expect(link.Defined)
        load(rig, HEADS["dog"])
        done = rig.ran((rig.prepared(x, "dog"), ["dog"])).message.done
        assert done.infer_s >= run_s * (1 + len(x))  # the first block runs all rows at once


def test_models_that_cannot_be_defined_change_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", MODELS.values())
    manifest = store.model("dog")
    with worker(store, models=["cat"]) as rig:
        store.block_path(HEADS["dog"].id).unlink()
        rig.send(link.Define((("dog", manifest),)))
        failed = rig.expect(link.DefineFailed)
        assert failed.models == ("dog",)
        assert "is missing" in failed.message
        assert rig.refused(X, "dog").code is Code.NOT_FOUND
        answer(rig, "cat")


# --- the budget at the start ----------------------------------------------------------------------

MIB = 1 << 20


def large(seed: int) -> Block:
    """A block of 16 MiB."""
    return dense(2048, 2048, seed=seed, relu=False)


@pytest.fixture(scope="module")
def large_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    base, *heads = [large(seed) for seed in range(5)]
    models = [Model(f"m{number}", base, head) for number, head in enumerate(heads)]
    return make_store(tmp_path_factory.mktemp("large") / "store", models)


# --- memory ---------------------------------------------------------------------------------------


def pss(rig: Rig) -> int:
    rig.send(link.Measure(1))
    return rig.expect(link.WorkerMemory).pss_bytes


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_unloading_gives_memory_back_to_the_system(large_store: Store, backend: str) -> None:
    with worker(large_store, backend=backend) as rig:
        blocks = rig.bytes_used
        full = pss(rig)
        for block in blocks:
            rig.send(Unload(block))
            rig.expect(BlockUnloaded)
        given_back = full - pss(rig)
        assert given_back >= 0.97 * sum(blocks.values()) >= 75 * MIB
        for block in blocks:
            rig.send(Load(block))
            rig.expect(BlockLoaded)
        assert abs(pss(rig) - full) <= 0.03 * full


@pytest.mark.parametrize("backend", ["fake", "onnxruntime", "torch"])
def test_memory_does_not_grow_with_loads_and_failures(tmp_path: Path, backend: str) -> None:
    """A thousand of each is a benchmark (tools.bench loading)."""
    store = make_store(tmp_path / "store", MODELS.values())
    with worker(store, backend=backend) as rig:

        def cycle(count: int) -> None:
            for _ in range(count):
                unload(rig, HEADS["cat"])
                rig.send(Load("0" * 64))
                rig.expect(BlockLoadFailed)
                load(rig, HEADS["cat"])
                answer(rig, "cat")

        cycle(20)
        before = pss(rig)
        cycle(80)
        assert pss(rig) <= 1.03 * before


# --- anything in any order ------------------------------------------------------------------------


@settings(max_examples=30)
@given(steps=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=25))
def test_a_failing_disk_in_a_live_worker(failing: Rig, steps: list[tuple[int, bool]]) -> None:
    """Whatever is ordered: each order is answered, in turn, and what is loaded computes."""
    present = failing.present
    for index, wanted in steps:
        block = BLOCKS[index].id
        if wanted == (block in present):
            continue
        failing.send(Load(block) if wanted else Unload(block))
        message, _ = failing.next()
        assert message.block == block
        if isinstance(message, BlockLoaded):
            present.add(block)
        elif isinstance(message, BlockUnloaded):
            present.remove(block)
        else:
            assert isinstance(message, BlockLoadFailed)
            assert "was made to fail" in message.message
    for name, model in MODELS.items():
        if {block.id for block in model.blocks} <= present:
            assert not np.isnan(answer(failing, name)).any()


@pytest.fixture(scope="module")
def failing(store: Store) -> Iterator[Rig]:
    """A worker whose every fifth load fails; its start takes four."""
    with worker(store, options={"fail_every_load": 5}) as rig:
        rig.present = {block.id for block in BLOCKS}
        yield rig

"""Whole workers on an emulated CUDA device: what they answer, and how they end with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edged.core.events import BatchFailed, BlockLoaded, BlockLoadFailed, Load
from edged.link import messages as link
from edged.store import Store
from tests.backends.blocks import dense
from tests.device.rig import Model, Rig, make_store, worker

BODY = dense(6, 16, seed=1)
MODELS = {
    model.manifest.name: model
    for model in (
        Model("cat", BODY, dense(16, 4, seed=3)),
        Model("dog", BODY, dense(16, 3, seed=4)),
    )
}
BACKEND = "emulated-cuda"
SMALL = {"memory_bytes": 17 << 20}
LOST = 719
BATCHES = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("cuda") / "store", MODELS.values())


def given(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, 6), dtype=np.float32)


@pytest.mark.parametrize("personality", ["discrete", "unified"])
def test_batches_in_flight_are_answered_in_their_order(store: Store, personality: str) -> None:
    options = {**SMALL, "personality": personality}
    with worker(store, backend=BACKEND, options=options, staging_rows=24) as rig:
        assert (rig.ready.depth, rig.ready.lanes, rig.ready.emulated) == (2, 1, True)
        staged = []
        for seed in range(BATCHES):
            x, model = given(1 + seed % 4, seed), ("cat", "dog")[seed % 2]
            staged.append((rig.prepared(x, model), model, x))
        asked = {rig.run((rid, [model])): (rid, model, x) for rid, model, x in staged}
        for batch, (rid, model, x) in asked.items():
            message, payload = rig.next()
            assert isinstance(message, link.BatchOutputs), message
            assert message.done.batch == batch
            assert message.done.infer_s > 0.0
            (answer,) = message.answers
            assert (answer.rid, answer.model) == (rid, model)
            found = np.frombuffer(payload[0], np.float32).reshape(answer.outputs[0].shape)
            np.testing.assert_allclose(found, MODELS[model].twin(x), rtol=1e-4, atol=1e-5)


def serve(rig: Rig, blocks: list[str]) -> tuple[list[int], list[int], str | None]:
    """Load and run batches until the worker ends: batches that were ordered, batches that were
    reported, and what it said at its end."""
    for block in blocks:
        rig.send(Load(block))
        message, _ = rig.next()
        if isinstance(message, link.WorkerFailed):
            return [], [], message.message
        assert isinstance(message, BlockLoaded | BlockLoadFailed), message
    ordered, reported = [], []
    rids = [rig.prepared(given(2, seed), "cat") for seed in range(BATCHES)]
    for rid in rids:
        ordered.append(rig.run((rid, ["cat"])))
    while len(reported) < len(ordered):
        message, _ = rig.next()
        if isinstance(message, link.WorkerFailed):
            return ordered, reported, message.message
        batch = message.done.batch if isinstance(message, link.BatchOutputs) else message.batch
        assert isinstance(message, link.BatchOutputs | BatchFailed), message
        reported.append(batch)
    return ordered, reported, None


@pytest.mark.parametrize("fail_at", [25, 31, 38, 45, 52, 59])
def test_a_lost_device_takes_the_worker_with_it_wherever_it_is_noticed(
    store: Store, tmp_path: Path, fail_at: int
) -> None:
    """In the thread that loads, that submits, or that finishes."""
    options = {**SMALL, "fail_at": fail_at, "fail_number": LOST}
    blocks = [block.id for block in MODELS["cat"].blocks]
    with worker(store.path, ready=False, backend=BACKEND, options=options, staging_rows=24) as rig:
        first, _ = rig.next()
        said = first.message if isinstance(first, link.WorkerFailed) else None
        if said is None:
            ordered, reported, said = serve(rig, blocks)
            assert len(set(reported)) == len(reported)
            assert len(reported) < len(ordered) or not ordered
        assert said is not None
        assert "the device is lost" in said
        assert f"CUDA error {LOST}" in said
        assert "status 1" in rig.ended()


def test_a_call_that_is_refused_fails_one_batch(store: Store, tmp_path: Path) -> None:
    options = {**SMALL, "fail_at": 50, "fail_number": 801}
    blocks = [block.id for block in MODELS["cat"].blocks]
    with worker(store.path, ready=False, backend=BACKEND, options=options, staging_rows=24) as rig:
        rig.ready = rig.expect(link.Ready)
        ordered, reported, said = serve(rig, blocks)
        assert said is None
        assert sorted(reported) == ordered
        assert rig.worker.alive()


def test_a_kernel_that_never_ends_leaves_the_other_threads_free(store: Store) -> None:
    with worker(store, backend=BACKEND, options={**SMALL, "hang_at": 1}, staging_rows=24) as rig:
        rig.run((rig.prepared(given(1, 0), "cat"), ["cat"]))
        rig.run((rig.prepared(given(1, 1), "cat"), ["cat"]))  # the second of two in flight
        rig.run((rig.prepared(given(1, 2), "cat"), ["cat"]))  # waits for a place
        rig.read_all()
        rig.prepared(given(1, 3), "cat")


def test_a_model_that_does_not_fit_is_refused_and_the_others_serve(tmp_path: Path) -> None:
    large = Model("large", dense(6, 300_000, seed=9))  # 8.4 MB, where less than 1 MB is free
    store = make_store(tmp_path / "store", [large, MODELS["cat"]])
    with worker(store, backend=BACKEND, options=SMALL) as rig:
        (failed,) = rig.failed.values()
        assert "of device memory in one piece" in failed.message
        done = rig.ran((rig.prepared(given(1, 0), "cat"), ["cat"]))
        assert len(done.tensors) == 1

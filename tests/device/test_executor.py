"""The executor on a real backend, in this process: every mix of models, rows and places."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged import backends
from edged.backends.base import Backend
from edged.backends.memory import Array
from edged.core.events import Member, Run
from edged.device.decoding import Decoding, Room
from edged.device.executor import Executor, Segment
from edged.device.loader import Loader
from edged.device.preparing import prepare
from edged.device.staging import Pool, Staged, Staging, shape_of
from edged.link import messages as link
from edged.manifest import PathStep, Value
from tests.backends.blocks import Block, dense, one_row_only, sum_and_difference
from tests.device.rig import Model, make_store

BODY = dense(6, 40, seed=1)
NECK = dense(40, 5, seed=2)
MIDDLE = dense(5, 5, seed=3)
ONE_BY_ONE = one_row_only(5)
SIX = dense(6, 6, seed=8)
LEAP = dense(6, 6, seed=10)
BOTH = sum_and_difference(6)


class Skip(Model):
    """x to (x + d, x - d, x) with d = dense(x): the input is read again, and is an output."""

    def __init__(self, name: str, body: Block) -> None:
        super().__init__(
            name,
            body,
            inputs=("x",),
            outputs=("sum", "x", "difference"),
            values=tuple(Value(v, "FP32", (6,)) for v in ("x", "d", "sum", "difference")),
            steps=(
                PathStep(body.id, ("x",), ("d",)),
                PathStep(BOTH.id, ("x", "d"), ("sum", "difference")),
            ),
        )
        self.blocks = (body, BOTH)

    def twin(self, x: Array) -> list[Array]:
        (d,) = self.blocks[0].twin(x)
        return [x + d, x, x - d]


MODELS = {
    model.manifest.name: model
    for model in (
        Model("a", BODY, NECK, dense(5, 4, seed=4)),
        Model("b", BODY, NECK, dense(5, 3, seed=5)),
        Model("c", BODY, NECK, dense(5, 2, seed=6)),
        Model("deep", BODY, NECK, MIDDLE, dense(5, 4, seed=4)),  # a's head, one block later
        Model("other", dense(6, 5, seed=7), MIDDLE, dense(5, 3, seed=5)),  # b's head
        Model("single", BODY, NECK, ONE_BY_ONE),
        Model("features", BODY, NECK),
        Skip("skip", SIX),
        Model("six", SIX, dense(6, 4, seed=9)),
        Skip("leap", LEAP),
        Model("landing", LEAP, SIX, dense(6, 3, seed=11)),
    )
}
ROWS = 24
NO_PICTURES = Decoding(0, Room(0, 1))


class Spy:
    """A backend that tells which runs there were."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.runs: list[tuple[str, int]] = []  # block, rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def run(self, block: str, inputs: Any, outputs: Any, *, wide: bool = True) -> None:
        self.runs.append((block, len(outputs[0])))
        self._backend.run(block, inputs, outputs, wide=wide)


@pytest.fixture(scope="module", params=["onnxruntime", "torch", "emulated-cuda"])
def backend(request: pytest.FixtureRequest) -> Iterator[Spy]:
    """Torch has memory of its own, which blocks read instead of staging memory; so has the emulated
    CUDA device, which also pads rows."""
    with tempfile.TemporaryDirectory() as folder:
        found = backends.create(request.param, {}, threads=1, cache_dir=Path(folder))
        yield Spy(found)
        found.close()


@pytest.fixture(scope="module")
def executor(backend: Spy) -> Iterator[Executor]:
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), MODELS.values())
        manifests = store.models()
        loader = Loader(store, backend)
        loader.define(manifests)
        for block in loader.blocks:
            loader.load(block)
        yield Executor(manifests, backend, loader.max_rows)


class Requests:
    """Requests in staging memory, with the answers that they must get."""

    def __init__(self, executor: Executor) -> None:
        self.manifests = {name: model.manifest for name, model in MODELS.items()}
        self.staging = Staging(self.manifests, ROWS, executor.memory)
        self.inputs: dict[int, Array] = {}

    def stage(self, rid: int, models: list[str], x: Array) -> Staged:
        given = link.Input("x", "tensor", "FP32", x.shape)
        message = link.PayloadHeader(rid, len(x), (given,), tuple(map(link.Ask, models)))
        staged = self.staging.admit(message)
        prepare(message, [x.reshape(-1).view(np.uint8).data], staged, self.manifests, NO_PICTURES)
        assert self.staging.settle(staged, prepared=True)
        self.inputs[rid] = x
        return staged

    def run(self, executor: Executor, *members: tuple[int, list[str]]) -> Sequence[link.BlockRun]:
        """Run a batch and compare every answer with its model in numpy."""
        asked = tuple(Member(rid, tuple(models)) for rid, models in members)
        message = Run(1, "group", asked, len(asked))
        begun = self.staging.begin(message.members)
        done, payload = executor.run(message, begun)
        self.staging.end(message.members, begun, done=True)
        for pool in self.staging.pools.values():
            for array in pool.arrays:
                array[:] = np.nan  # the answers must not be read from there
        frames = iter(payload)
        found = {}
        for answer in done.answers:
            found[answer.rid, answer.model] = [
                np.frombuffer(next(frames), np.float32).reshape(output.shape)
                for output in answer.outputs
            ]
        assert set(found) == {(rid, model) for rid, models in members for model in models}
        for (rid, model), arrays in found.items():
            expected = MODELS[model].twin(self.inputs[rid])
            for array, one in zip(
                arrays, expected if isinstance(expected, list) else [expected], strict=True
            ):
                np.testing.assert_allclose(array, one, rtol=1e-4, atol=1e-5)
        return executor.runs


def rows(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)


asks = st.sets(st.sampled_from(sorted(MODELS)), min_size=1, max_size=4).map(sorted)


@settings(max_examples=150)
@given(st.data())
def test_every_mix(executor: Executor, data: st.DataObject) -> None:
    requests = Requests(executor)
    staged: list[tuple[int, list[str]]] = []
    for rid in range(data.draw(st.integers(1, 8))):
        models = data.draw(asks)
        seed = data.draw(st.integers(0, 5))  # few, so that some frames are equal
        requests.stage(rid, models, rows(data.draw(st.integers(1, 3)), seed))
        if data.draw(st.integers(0, 4)) == 0:
            requests.staging.discard(rid)  # a hole in staging memory
        else:
            staged.append((rid, models))
    if staged:
        requests.run(executor, *data.draw(st.permutations(staged)))


@pytest.mark.parametrize("backend", ["onnxruntime"], indirect=True)
def test_rows_that_lie_in_one_piece_are_read_where_they_are(executor: Executor) -> None:
    """With mixed tasks only features are brought into order, whatever the requests' order."""
    requests = Requests(executor)
    members = [(rid, [model]) for rid, model in enumerate("abcab")]
    for rid, models in members:
        requests.stage(rid, models, rows(1, rid))
    pool = next(iter(requests.staging.pools.values()))
    copies: list[object] = []
    pool.read = lambda *args: copies.append(args)  # type: ignore[method-assign]
    ran = requests.run(executor, *members)
    assert copies == []
    assert {run.block: run.rows for run in ran}[BODY.id] == 5


def test_a_shared_middle_and_top_run_once(executor: Executor) -> None:
    requests = Requests(executor)
    members = [(0, ["deep"]), (1, ["other"]), (2, ["a"]), (3, ["b"])]
    for rid, models in members:
        requests.stage(rid, models, rows(2, rid))
    ran = requests.run(executor, *members)
    assert {run.block: run.rows for run in ran}[MIDDLE.id] == 4
    assert len(ran) == 6


def test_a_block_of_one_row_runs_row_by_row(executor: Executor) -> None:
    requests = Requests(executor)
    requests.stage(0, ["single"], rows(3, 0))
    ran = requests.run(executor, (0, ["single"]))  # three at once would not be its shape
    assert [run.rows for run in ran] == [3, 3, 3]


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_a_block_that_one_model_runs_row_by_row_is_batched_for_none(
    name: str, tmp_path: Path
) -> None:
    """Its file would run any number; a model says that its rows cannot be kept apart in one run."""
    backend = Spy(backends.create(name, {}, threads=1, cache_dir=tmp_path / "cache"))
    coupled = Model("coupled", BODY, NECK, dense(5, 4, seed=41), max_rows=1)
    other = Model("other", BODY, NECK, dense(5, 3, seed=42))
    store = make_store(tmp_path / "store", [coupled, other])
    loader = Loader(store, backend)
    loader.define({"other": other.manifest})
    for block in loader.blocks:
        loader.load(block)
    executor = Executor({"other": other.manifest}, backend, loader.max_rows)
    pool = Pool(0, shape_of(other.manifest), 3, backend.memory)
    pool.arrays[0][:] = rows(3, 0)

    def body_runs(*models: str) -> list[int]:
        backend.runs.clear()
        executor.compute([Segment(pool, [0, 1, 2], models)])
        return [count for block, count in backend.runs if block == BODY.id]

    assert body_runs("other") == [3]
    loader.define({"coupled": coupled.manifest})
    executor.define(loader.manifests)
    for block in set(loader.blocks) - loader.resident.keys():
        loader.load(block)
    assert body_runs("coupled", "other") == body_runs("other") == [1, 1, 1]
    loader.forget(["coupled"])
    executor.define(loader.manifests)
    assert body_runs("other") == [3]
    backend.close()


def test_a_block_runs_in_micro_batches_and_the_others_at_once(
    executor: Executor, backend: Spy
) -> None:
    requests = Requests(executor)
    members = [(0, ["a", "features"]), (1, ["b"]), (2, ["single"])]
    for rid, models in members:
        requests.stage(rid, models, rows(2 + rid, rid))
    executor.split({BODY.id: 2, ONE_BY_ONE.id: 2})
    try:
        backend.runs.clear()
        ran = requests.run(executor, *members)
    finally:
        executor.split({})
    assert [rows for block, rows in backend.runs if block == BODY.id] == [2, 2, 2, 2, 1]
    together = next((size for size in backend.sizes if size >= 9), 9)  # with what pads them
    assert [rows for block, rows in backend.runs if block == NECK.id] == [together]
    assert [rows for block, rows in backend.runs if block == ONE_BY_ONE.id] == [1] * 4
    assert [run.rows for run in ran if run.block == BODY.id] == [9]


def test_memory_grows_to_the_largest_mix_and_stays(executor: Executor) -> None:
    for count in (1, 8, 2, 8):
        requests = Requests(executor)
        requests.stage(0, ["a", "deep", "features"], rows(count, 0))
        requests.run(executor, (0, ["a", "deep", "features"]))
    before = executor.nbytes
    requests = Requests(executor)
    requests.stage(0, ["a"], rows(3, 1))
    requests.run(executor, (0, ["a"]))
    assert executor.nbytes == before


def test_rows_are_gathered_out_of_staging_memory_too(executor: Executor) -> None:
    """Three first blocks asked for in a ring: one of them reads rows that do not lie together."""
    members = [(0, ["a", "other"]), (1, ["other", "six"]), (2, ["a", "six"])]
    for turn, order in enumerate(itertools.permutations(range(3))):
        requests = Requests(executor)
        for rid in order:  # one of these orders is the layout's, so that rows are read in place
            requests.stage(rid, members[rid][1], rows(1, seed=3 * turn + rid))
        requests.run(executor, *members)


def test_a_batch_that_runs_goes_on_when_models_are_defined(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = Requests(executor)
    requests.stage(0, ["a"], rows(2, 0))
    backend = executor._backend
    run = backend.run

    def define_and_run(*args: Any, **kwargs: Any) -> None:
        executor.define({"six": requests.manifests["six"]})
        run(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(backend, "run", define_and_run)
        requests.run(executor, (0, ["a"]))
    requests.stage(1, ["six"], rows(1, 1))
    requests.run(executor, (1, ["six"]))
    executor.define(requests.manifests)

"""500 generated models in mixed batches give the answers of plain ONNX Runtime row by row."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edged import backends
from edged.backends.memory import Array
from edged.device.executor import Executor, Segment
from edged.device.loader import Loader
from edged.device.staging import Pool, Shape, shape_of
from edged.errors import Unsupported
from edged.manifest import Manifest
from edged.store import Store
from export.add import add_drafts
from export.check import compare
from export.probe import session
from export.source import ModelDraft, Source, draft
from tests.export.generated import INPUTS, Recipe, build, recipe

MODELS = 500
STORE_MODELS = 50  # models in one store
BATCH_MODELS = 6  # models in one batch


@dataclass(frozen=True, slots=True)
class Made:
    recipe: Recipe
    file: Path
    draft: ModelDraft | None  # None if the exporter refused it


def make(numbers: range, folder: Path) -> Iterator[Made]:
    for number in numbers:
        one = recipe(number)
        file = build(one, folder)
        try:
            yield Made(one, file, draft(Source(f"m{number}", file)))
        except Unsupported:
            yield Made(one, file, None)


def unlike(shape: tuple[int, ...], number: int) -> Array:
    """Rows with other values than those that the exporter tries."""
    random = np.random.default_rng([31, number])
    rows = [
        random.standard_normal(shape),
        300 * random.standard_normal(shape),
        2e-3 * random.standard_normal(shape),
        np.zeros(shape),
        random.uniform(0, 255, shape),
        np.full(shape, 5.0),
        8 * random.standard_normal(shape),
    ]
    return np.stack(rows).astype(np.float32)


class Served:
    """The models of a store in one executor, and their rows in staging memory."""

    def __init__(self, store: Store, cache: Path) -> None:
        self.manifests = store.models()
        backend = backends.create("onnxruntime", {}, threads=1, cache_dir=cache)
        loader = Loader(store, backend)
        loader.define(self.manifests)
        for block in loader.blocks:
            loader.load(block)
        self.executor = Executor(self.manifests, backend, loader.max_rows)
        self.pools: dict[Shape, Pool] = {}
        self.close = backend.close

    def answers(self, asked: dict[str, Array]) -> dict[str, Array]:
        """The answers of one batch, in which the rows of each model are adjacent."""
        taken: dict[int, int] = {}
        segments = []
        for number, (name, rows) in enumerate(asked.items()):
            pool = self._pool(self.manifests[name])
            start = taken.get(pool.number, 0)
            taken[pool.number] = start + len(rows)
            pool.arrays[0][start : start + len(rows)] = rows
            segments.append(Segment(pool, list(range(start, start + len(rows))), (name,), number))
        batch = self.executor.compute(segments)
        found = {}
        for (name, rows), (place, before) in zip(asked.items(), batch.plan.segments, strict=True):
            (view,) = place.outputs[name]
            found[name] = batch.output(view)[before : before + len(rows)].copy()
        return found

    def _pool(self, manifest: Manifest) -> Pool:
        shape = shape_of(manifest)
        if shape not in self.pools:
            memory = self.executor.memory
            self.pools[shape] = Pool(len(self.pools), shape, 7 * BATCH_MODELS, memory)
        return self.pools[shape]


def wrong(served: Served, made: list[Made]) -> list[str]:
    """The models with an answer that differs from that of ONNX Runtime, one row at a time."""
    rows = {f"m{one.recipe.number}": unlike(INPUTS[one.recipe.kind], one.recipe.number)
            for one in made}  # fmt: skip
    expected = {}
    for one in made:
        name, runner = f"m{one.recipe.number}", session(one.file.read_bytes())
        (given,) = (value.name for value in runner.get_inputs())
        expected[name] = [runner.run(None, {given: row[np.newaxis]})[0] for row in rows[name]]
    found: dict[str, list[str]] = {}
    for which in ([0], [1, 2], [3, 0, 4, 2], [5, 6, 1, 2, 0, 3, 4], [2, 2, 1]):
        for name, array in served.answers({n: of[which] for n, of in rows.items()}).items():
            right = np.concatenate([expected[name][i] for i in which])
            if not compare({"y": right}, {"y": array}, 0.05).relative < 1e-3:
                found.setdefault(name, []).append(str(which))
    return [f"{name} rows {', '.join(places)}" for name, places in found.items()]


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, MODELS, STORE_MODELS))
def test_no_model_is_served_with_other_answers_than_its_own(tmp_path: Path, start: int) -> None:
    made = list(make(range(start, start + STORE_MODELS), tmp_path))
    there = [one for one in made if one.draft is not None]
    store = Store(tmp_path / "store").create()
    add_drafts(store, [one.draft for one in there if one.draft is not None])
    with tempfile.TemporaryDirectory() as cache:
        served = Served(store, Path(cache))
        batches = [there[i : i + BATCH_MODELS] for i in range(0, len(there), BATCH_MODELS)]
        differ = [text for batch in batches for text in wrong(served, batch)]
        served.close()
    names = {f"m{one.recipe.number}": one.recipe for one in made}
    assert not differ, [(text, names[text.split()[0]]) for text in differ]
    batched = {o.recipe.number for o in there if o.draft and o.draft.manifest.max_rows is None}
    mixing = {one.recipe for one in made if one.recipe.number in batched and one.recipe.gadget}
    assert not {one for one in mixing if one.free or one.gadget != "interleaved"}  # else set free
    plain = {one.recipe.number for one in made if not one.recipe.gadget}
    assert len(plain - batched) <= 0.02 * len(plain), [
        (one.recipe, one.draft and one.draft.coupled)
        for one in made
        if one.recipe.number in plain - batched
    ]

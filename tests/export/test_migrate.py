"""Stores of schema 1: read as they are, and changed in one step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edged.errors import StoreError
from edged.store import SCHEMA, Store
from export.add import add_models
from export.check import feeds, run_chain
from export.cli import main
from export.listing import contents, verify
from export.migrate import migrate
from export.source import Source
from tests.export.helpers import picture
from tests.export.nets import classifier
from tests.store.samples import as_of_schema_1


@pytest.fixture
def old(tmp_path: Path) -> Store:
    """Two models with a common backbone, in a store as older versions made it."""
    store = as_of_schema_1(Store(tmp_path / "old").create())
    files = {
        "one": classifier(tmp_path / "1.onnx", "abc"),
        "two": classifier(tmp_path / "2.onnx", "abx", head=1),
    }
    add_models(store, [Source(task, file) for task, file in files.items()])
    return store


def outputs(store: Store) -> dict[str, list[bytes]]:
    """What each model makes of its first inputs, to the bit."""
    found = {}
    for name, model in store.models().items():
        results = run_chain(model, store.block_bytes, feeds(model))
        found[name] = [array.tobytes() for result in results for array in result.values()]
    return found


def test_a_store_of_before_is_read_without_any_change(old: Store) -> None:
    assert old.schema() == 1
    found = contents(old)
    assert (found.schema, found.tensors, found.unused_blocks) == (1, 0, 0)
    assert found.block_bytes == sum(old.blocks().values())
    assert verify(old) == ()
    assert picture(old, "one", "two") == ["AB", "AC"]


def test_a_migrated_store_computes_the_same_to_the_bit(old: Store) -> None:
    before, models = outputs(old), old.models()
    done = migrate(old)
    assert (done.before, done.after, done.models) == (1, SCHEMA, 2)
    assert outputs(old) == before
    assert verify(old) == ()
    assert picture(old, "one", "two") == ["AB", "AC"]
    for name, model in old.models().items():
        assert [step.layers for step in model.steps] == [s.layers for s in models[name].steps]
        ids = [(s.block, t.block) for s, t in zip(models[name].steps, model.steps, strict=True)]
        assert all(done.blocks.get(was, was) == now for was, now in ids)
    assert contents(old).tensors > 0
    assert set(old.gc().removed) == set(done.blocks)
    assert outputs(old) == before


def test_a_second_migration_changes_nothing(old: Store) -> None:
    migrate(old)
    root = (old.path / "store.json").read_bytes()
    assert migrate(old).blocks == {}
    assert (old.path / "store.json").read_bytes() == root


def test_whoever_holds_a_block_of_before_keeps_it(old: Store) -> None:
    block = old.model("one").steps[0].block
    with old.hold([block]):
        migrate(old)
        assert block in old.gc().held
        old.verify_block(block)


def test_a_damaged_block_stops_the_migration_and_leaves_the_store_as_it_was(old: Store) -> None:
    path = old.block_path(old.model("two").steps[-1].block)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    before = old.models()
    with pytest.raises(StoreError, match="is damaged"):
        migrate(old)
    assert (old.schema(), old.models()) == (1, before)
    path.write_bytes(whole)
    assert outputs(old)
    old.gc()  # removes what was written before it stopped
    assert migrate(old).after == SCHEMA


def test_models_that_are_added_later_share_with_those_that_were_migrated(
    old: Store, tmp_path: Path
) -> None:
    """To the store it is the same whether a model was there before or came after."""
    fresh = Store(tmp_path / "fresh").create()
    files = {task: tmp_path / f"{number}.onnx" for number, task in enumerate(("one", "two"), 1)}
    add_models(fresh, [Source(task, file) for task, file in files.items()])
    migrate(old)
    assert old.models() == fresh.models()
    add_models(old, [Source("two", files["two"])], replace=True)
    assert old.models() == fresh.models()
    old.gc()
    assert (old.blocks(), old.tensors()) == (fresh.blocks(), fresh.tensors())


def test_the_command_says_what_it_did(old: Store, capsys: pytest.CaptureFixture[str]) -> None:
    copy = old.path.with_name("copy")
    shutil.copytree(old.path, copy)
    assert main(["ls", "--store", str(old.path)]) == 0
    assert "the store has schema 1: edged-export migrate lets" in capsys.readouterr().out
    assert main(["migrate", "--store", str(old.path)]) == 0
    assert "schema 1 is now 2: 2 models" in capsys.readouterr().out
    assert main(["migrate", "--store", str(old.path)]) == 0
    assert "the store has schema 2 already" in capsys.readouterr().out
    assert main(["migrate", "--store", str(copy), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    used = {step.block for model in old.models().values() for step in model.steps}
    assert set(found["blocks"].values()) <= used
    assert main(["ls", "--store", str(old.path)]) == 0
    assert " tensors" in capsys.readouterr().out

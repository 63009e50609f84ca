"""Models that were exported before today's checks existed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto

from edged.daemon.models.held_store import HeldStore
from edged.errors import EdgedError, StoreError
from edged.manifest import CHECKS, Preprocess
from edged.older import check_fit
from edged.store import Store
from export.add import add_models
from export.assemble import stored_layers
from export.cli import main
from export.heads import train_head
from export.recheck import recheck
from export.source import Source
from tests.export import generated
from tests.export.generated import Maker
from tests.export.nets import Net, classifier, transformer
from tests.export.older import age, export_unchecked
from tests.export.test_generated import Served
from tests.export.test_heads import draw


def coupled(path: Path) -> Path:
    m = Maker(1, "vector", "rows")
    m.mix(generated.quantised(m))
    return m.net.save(path, m.do("MatMul", m.flat(), m.weight(m.width, 5)))


def counting(path: Path) -> Path:
    """A model in which a count becomes a constant, and nothing else of the count remains."""
    m = Maker(2, "vector", 1)
    hot = m.do("Greater", m.x, m.number(30.0))
    count = m.do("Gather", m.do("Shape", m.do("NonZero", hot)), m.ints(1))
    return m.net.save(path, generated._above(m, count))


def selecting(path: Path) -> Path:
    """The mean of the elements above a threshold, which all random input is above."""
    net = Net((12,), rows=1)
    flat = net.add("Reshape", net.x, net.integers(-1))
    spots = net.add("NonZero", net.add("Greater", flat, net.constant(np.float32(-100))))
    taken = net.add("Gather", flat, net.add("Squeeze", spots, net.integers(0)), axis=0)
    count = net.add("Cast", net.add("Shape", taken), to=1)
    mean = net.add("Div", net.add("ReduceSum", taken, net.integers(0), keepdims=1), count)
    return net.save(path, net.add("Sub", net.x, mean))


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store(tmp_path / "store").create()
    files = {
        "cnn": classifier(tmp_path / "cnn.onnx", "ab"),
        "vit": transformer(tmp_path / "vit.onnx", "ab"),
        "dynamic": coupled(tmp_path / "dynamic.onnx"),
        "counting": counting(tmp_path / "counting.onnx"),
        "selecting": selecting(tmp_path / "selecting.onnx"),
    }
    export_unchecked(store, monkeypatch, **files)
    return store


def test_older_models_run_one_row_at_a_time(old: Store, tmp_path: Path) -> None:
    models = old.models()
    assert {model.checks for model in models.values()} == {0}
    assert {model.rows_at_once for model in models.values()} == {1}
    assert models["dynamic"].max_rows is None
    rows = np.stack([np.linspace(0, 0.01, 12), np.linspace(0, 500, 12)]).astype(np.float32)
    served = Served(old, tmp_path / "cache")
    both = served.answers({"dynamic": rows})["dynamic"]
    alone = [served.answers({"dynamic": rows[i : i + 1]})["dynamic"][0] for i in range(2)]
    served.close()
    np.testing.assert_array_equal(both, alone)
    assert both[0].any(), "beside the bright row the dim one would be zeros"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("counting", "its (Cast|Add) reads a constant whole number, and the older"),
        ("selecting", "it has NonZero, and the older edged-export that made it may have put"),
        ("vit", r"it computes with the number of rows \(Shape\)"),
    ],
)
def test_what_may_hold_a_length_taken_for_a_constant_is_not_served(
    old: Store, name: str, says: str
) -> None:
    for good in ("cnn", "dynamic"):
        check_fit(old.model(good), old.block_bytes)
    with pytest.raises(StoreError, match=f"model '{name}' is not served: {says}"):
        check_fit(old.model(name), old.block_bytes)


def test_recheck_says_how_each_is_served_and_writes_it_down(
    old: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recheck", "--store", str(old.path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[2:]}
    assert lines["cnn"].split("  ")[-1].strip() == "in batches"
    assert "one row at a time  DynamicQuantizeLinear" in lines["dynamic"]
    assert "not at all" in lines["counting"]
    models = old.models()
    assert {model.checks for model in models.values()} == {CHECKS}
    assert {n: m.rows_at_once for n, m in models.items() if not m.unfit} == {
        "cnn": None, "dynamic": 1,
    }  # fmt: skip
    for name in ("counting", "selecting", "vit"):
        with pytest.raises(StoreError, match=f"model '{name}' is not served"):
            check_fit(models[name], old.block_bytes)
    HeldStore(old, ["cnn", "dynamic"]).read()
    before = (old.path / "store.json").read_bytes()
    assert main(["recheck", "--store", str(old.path)]) == 0
    assert (old.path / "store.json").read_bytes() == before, "there is nothing more to find"


# Uses of a count that keep no operator from which its origin can be seen.
def at_index(m: Maker, count: str) -> str:
    return m.do("Gather", m.flat(), count, axis=1)


def up_to(m: Maker, count: str) -> str:
    part = m.do("Slice", m.flat(), m.ints(0), count, m.ints(1))
    return m.do("ReduceMax", part, axes=[1], keepdims=1)


def best_of(m: Maker, count: str) -> str:
    best, _ = m.net.add_all("TopK", 2, m.flat(), count, axis=1)
    return m.do("ReduceMin", best, axes=[1], keepdims=1)


def spread(m: Maker, count: str) -> str:
    ones = m.do("Expand", m.number(1.0), count)
    return m.do("ReduceSum", ones, keepdims=1)


def tiled(m: Maker, count: str) -> str:
    return m.do("ReduceSum", m.do("Tile", m.weight(1), count), keepdims=1)


def raised(m: Maker, count: str) -> str:
    return m.do("Pow", m.number(2.0), count)


def compared(m: Maker, count: str) -> str:
    return m.do("Where", m.do("Equal", count, m.ints(1)), m.number(1.0), m.number(5.0))


def as_double(m: Maker, count: str) -> str:
    return m.do("Cast", m.do("Cast", count, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)


USES = [at_index, up_to, best_of, spread, tiled, raised, compared, as_double]


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("threshold", ["none", "all", "the largest of a row"])
def test_no_use_of_a_frozen_count_is_served_or_released(
    use: Callable[[Maker, str], str],
    threshold: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The count on random input is 0, or that of all elements, or one a row."""
    m = Maker(3, "vector", "rows" if threshold == "all" else 1)
    low = {"none": 30.0, "all": -30.0}
    if threshold in low:
        hot = m.do("Greater", m.x, m.number(low[threshold]))
    else:
        hot = m.do("Equal", m.x, m.do("ReduceMax", m.x, axes=[1], keepdims=1))
    count = m.do("Gather", m.do("Shape", m.do("NonZero", hot)), m.ints(1))
    if threshold == "none":
        count = m.do("Add", count, m.ints(1))
    m.x = m.do("Add", m.x, use(m, count))
    store = Store(tmp_path / "store").create()
    try:
        export_unchecked(store, monkeypatch, counts=m.net.save(tmp_path / "m.onnx", m.x))
    except EdgedError:
        return  # the older exporter refused it as well
    with pytest.raises(StoreError, match="in place of a length that depends on the data"):
        check_fit(store.model("counts"), store.block_bytes)
    (found,) = recheck(store)
    assert (found.before, found.after) == ("not at all", "not at all")


@pytest.mark.slow
def test_no_generated_model_with_a_length_of_the_data_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store").create()
    for number in (n for n in range(200) if generated.recipe(n).lengths):
        file = generated.build(generated.recipe(number), tmp_path)
        with contextlib.suppress(EdgedError):  # the older exporter refused some as well
            export_unchecked(store, monkeypatch, **{f"m{number}": file})
    models = store.models()
    assert len(models) > 20
    for model in models.values():
        with pytest.raises(StoreError, match="in place of a length that depends on the data"):
            check_fit(model, store.block_bytes)


def test_exporting_again_makes_a_model_whole(old: Store, tmp_path: Path) -> None:
    add_models(old, [Source("counting", tmp_path / "counting.onnx")], replace=True)
    check_fit(old.model("counting"), old.block_bytes)
    assert (old.model("counting").checks, old.model("counting").max_rows) == (CHECKS, 1)


def test_a_model_that_is_split_again_stays_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store").create()
    export_unchecked(store, monkeypatch, dynamic=coupled(tmp_path / "d.onnx"))
    add_models(store, [Source("first", classifier(tmp_path / "1.onnx", "abcd"))], min_bytes=0)
    age(store, "first")
    second = classifier(tmp_path / "2.onnx", "abxy", head=1)
    report = add_models(store, [Source("second", second)], min_bytes=0)
    assert report.recut == ("first",)
    assert store.model("first").checks == 0


def test_a_damaged_model_does_not_keep_the_others_from_being_looked_at(old: Store) -> None:
    path = old.block_path(old.model("cnn").steps[0].block)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    found = {one.name: one for one in recheck(old)}
    assert (found["cnn"].before, found["cnn"].after) == ("cannot be read", "as before")
    assert old.model("dynamic").checks == CHECKS


def test_a_head_on_an_older_model_is_as_unchecked_as_that(tmp_path: Path) -> None:
    """The blocks below run any number of rows, which the head must fit; its model runs one row."""
    store = Store(tmp_path / "store").create()
    spec = Preprocess(height=16, width=16)
    add_models(store, [Source("base", classifier(tmp_path / "b.onnx", "ab"), preprocess=spec)])
    with store.update() as change:
        change.put_model(msgspec.structs.replace(store.model("base"), max_rows=1))
    age(store, "base")
    train_head(store, "base", "colour", draw(tmp_path / "images"), min_bytes=0)
    head = store.model("colour")
    assert (head.checks, head.max_rows, head.rows_at_once) == (0, 1, 1)
    stored_layers(store, head.steps)  # each block can be split again
    found = {one.name: one.after for one in recheck(store)}
    assert found == {"base": "one row at a time", "colour": "one row at a time"}

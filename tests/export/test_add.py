"""Adding models to a store: shared parts are found, stored blocks are split, nothing breaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx
import pytest
from onnx import helper, numpy_helper

from edged.errors import InvalidArgument, StoreError, Unsupported
from edged.manifest import Preprocess
from edged.store import Store
from edged.wire import TensorName
from export import assemble
from export.add import Report, add_models
from export.check import CheckFailed
from export.source import Source
from tests.export.helpers import digests, picture, same_as_file
from tests.export.nets import Net, classifier, masked_encoder, segmenter, transformer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


def put(store: Store, min_bytes: int = 0, **files: Path) -> Report:
    sources = [Source(name, file) for name, file in files.items()]
    return add_models(store, sources, min_bytes=min_bytes)


@pytest.mark.parametrize("make", [classifier, transformer])
@pytest.mark.parametrize(
    ("words", "ends", "paths"),
    [
        (("abcd", "abxy"), ("00", "01"), ["AB", "AC"]),  # bottom
        (("abcd", "xbcy", "zbcw"), ("00", "11", "22"), ["ABC", "DBE", "FBG"]),  # middle
        (("abcd", "xycd"), ("00", "10"), ["AB", "CB"]),  # top
        (("abcdef", "abxdef"), ("00", "00"), ["ABC", "ADC"]),  # all but one
        (("ab", "ab"), ("00", "00"), ["A", "A"]),  # all
    ],
)
def test_sharing_is_found(
    store: Store,
    tmp_path: Path,
    make: Callable[..., Path],
    words: tuple[str, ...],
    ends: tuple[str, ...],
    paths: list[str],
) -> None:
    files = {
        f"m{i}": make(tmp_path / f"{i}.onnx", word, stem=int(end[0]) + 1, head=int(end[1]))
        for i, (word, end) in enumerate(zip(words, ends, strict=True))
    }
    report = put(store, **files)
    assert picture(store, *files) == paths
    for name, file in files.items():
        assert same_as_file(store, name, file)
    assert all(added.difference.relative < 1e-5 for added in report.added)
    assert all(added.difference.largest > 1e-3 for added in report.added)


def test_an_encoder_is_shared_by_a_classifier_and_a_segmenter(store: Store, tmp_path: Path) -> None:
    """The cuts of an encoder do not depend on whether a decoder reads its inner values."""
    net = Net()
    x = net.conv_relu(net.x, 3, 16, seed=1)
    for letter in "ab":
        x = net.conv_relu(net.residual(x, 16, ord(letter)), 16, 16, 2000 + ord(letter), stride=2)
    x = net.residual(x, 16, seed=3000)
    whole = net.save(tmp_path / "c.onnx", net.gemm(net.pool(x), 16, 4, seed=500))
    put(store, classes=whole, areas=segmenter(tmp_path / "s.onnx", "ab"))
    first, second = (
        [layer.digest for step in store.model(name).steps for layer in step.layers]
        for name in ("classes", "areas")
    )
    encoder = 6  # the stem, three residual blocks and two steps down
    assert first[:encoder] == second[:encoder]
    assert not set(first[encoder:]) & set(second)
    classes, areas = picture(store, "classes", "areas")
    assert areas.startswith(classes[:-1])
    assert same_as_file(store, "areas", tmp_path / "s.onnx")


def test_a_mask_that_every_layer_reads_does_not_forbid_sharing(
    store: Store, tmp_path: Path
) -> None:
    """An encoder under two heads, and with its upper half anew."""
    words = {"first": ("abcd", False), "mean": ("abcd", True), "anew": ("abxy", False)}
    files = {
        name: masked_encoder(tmp_path / f"{name}.onnx", stages, pooled=pooled)
        for name, (stages, pooled) in words.items()
    }
    put(store, **files)
    layers = {
        name: {layer.digest: layer for step in store.model(name).steps for layer in step.layers}
        for name in words
    }

    def shared(other: str) -> int:
        both = layers["first"].keys() & layers[other].keys()
        return sum(layers["first"][digest].weight_bytes for digest in both)

    encoder = sum(layer.weight_bytes for layer in layers["first"].values()) - 4 * 17 * 4
    table = 30 * 16 * 4
    assert shared("mean") > 0.99 * encoder
    assert shared("anew") > 0.99 * ((encoder - table) / 2 + table)
    for name, file in files.items():
        assert same_as_file(store, name, file)


def test_a_new_model_splits_blocks_that_are_there(store: Store, tmp_path: Path) -> None:
    old = classifier(tmp_path / "old.onnx", "abcd")
    put(store, old=old)
    before = store.model("old")
    report = put(store, new=classifier(tmp_path / "new.onnx", "abxy", head=1))
    after = store.model("old")
    assert report.recut == ("old",)
    assert (len(before.steps), len(after.steps)) == (1, 2)
    assert after.whole_bytes == before.whole_bytes
    assert before.steps[0].layers == after.steps[0].layers + after.steps[1].layers
    assert same_as_file(store, "old", old)
    store.verify_block(before.steps[0].block)  # a daemon may still be running it
    assert store.gc().removed == (before.steps[0].block,)


def test_blocks_do_not_depend_on_the_way_to_them(tmp_path: Path) -> None:
    """Adding all models at once, one by one or in another order gives the same files."""
    words = {"a": "abcd", "b": "abxy", "c": "zbcd"}
    files = {n: classifier(tmp_path / f"{n}.onnx", w, stem=ord(n)) for n, w in words.items()}
    stores = [Store(tmp_path / name).create() for name in ("at-once", "one-by-one", "backwards")]
    put(stores[0], **files)
    for name in files:
        put(stores[1], **{name: files[name]})
    for name in reversed(files):
        put(stores[2], **{name: files[name]})
    for store in stores:
        store.gc()
    assert stores[0].models() == stores[1].models() == stores[2].models()
    assert stores[0].blocks() == stores[1].blocks() == stores[2].blocks()


def test_a_name_is_taken_once_unless_it_is_replaced(store: Store, tmp_path: Path) -> None:
    first = classifier(tmp_path / "1.onnx", "ab")
    second = classifier(tmp_path / "2.onnx", "xy")
    put(store, task=first)
    with pytest.raises(
        InvalidArgument, match=r"has a model 'task': .* or replace it \(--replace\)"
    ):
        put(store, task=second)
    with pytest.raises(InvalidArgument, match="two models are called 'm'"):
        add_models(store, [Source("t", first, name="m"), Source("u", second, name="m")])
    add_models(store, [Source("task", second)], replace=True)
    assert same_as_file(store, "task", second)


def test_a_wrong_block_is_noticed_and_nothing_is_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, old=classifier(tmp_path / "old.onnx", "abcd"))
    before = store.models(), store.blocks()
    real = assemble.join

    def careless(*args: object) -> bytes:
        model = onnx.ModelProto.FromString(real(*args))  # type: ignore[arg-type]
        kernel = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        wrong = numpy_helper.from_array(1.01 * numpy_helper.to_array(kernel), kernel.name)
        kernel.CopyFrom(wrong)
        return bytes(model.SerializeToString())

    monkeypatch.setattr(assemble, "join", careless)
    with pytest.raises(CheckFailed, match="its blocks differ from the uncut model by"):
        put(store, new=classifier(tmp_path / "new.onnx", "wxyz"))
    assert (store.models(), store.blocks()) == before
    monkeypatch.setattr("export.add._checked", lambda *_: None)
    with pytest.raises(CheckFailed, match="model 'old': its blocks differ"):
        put(store, new=classifier(tmp_path / "new.onnx", "abyz"))
    assert (store.models(), store.blocks()) == before


def test_a_damaged_block_is_mended_by_exporting_its_model_again(
    store: Store, tmp_path: Path
) -> None:
    file = classifier(tmp_path / "m.onnx", "abcd")
    put(store, task=file)
    (block,) = store.blocks()
    path = store.block_path(block)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match=f"block {block[:12]} is damaged"):
        put(store, other=classifier(tmp_path / "o.onnx", "abxy"))
    add_models(store, [Source("task", file)], replace=True)
    store.verify_block(block)
    assert same_as_file(store, "task", file)


def test_what_the_manifest_says(store: Store, tmp_path: Path) -> None:
    file = classifier(tmp_path / "m.onnx", "ab")
    spec = Preprocess(height=16, width=16, mean=(0.5, 0.5, 0.5))
    labels = ("ant", "bee", "cat", "dog")
    add_models(store, [Source("animals", file, name="small", preprocess=spec, labels=labels)])
    model = store.model("small")
    assert (model.task, model.labels, model.preprocess, model.precision) == (
        "animals", labels, spec, "fp32",
    )  # fmt: skip
    assert model.max_rows is None
    assert [v.shape for v in map(model.value, model.inputs + model.outputs)] == [(3, 16, 16), (4,)]
    assert model.whole_bytes == len(store.block_bytes(model.steps[0].block))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": ("one", "two")}, r"2 labels, and the first output has shape \[4\]"),
        (
            {"preprocess": Preprocess(height=24, width=16)},
            r"image of shape \[3, 24, 16\], .* takes x FP32 \[3, 16, 16\]: mend height",
        ),
        (
            {"preprocess": Preprocess(16, 16, layout="NHWC")},
            r"image of shape \[16, 16, 3\], .* takes x FP32 \[3, 16, 16\]: mend",
        ),
        ({"name": "../evil"}, "model name '../evil' is not allowed"),
        ({"name": "m" * 129}, "model name 'm+' is not allowed: use 1 to 128"),
        ({"task": "t" * 129, "name": "m"}, "task name 't+' is not allowed: use 1 to 128"),
        ({"shapes": {"x": (3, 8, 8)}}, r"'x' has shape \[3, 16, 16\] .* \[3, 8, 8\] does not fit"),
        ({"shapes": {"y": (3, 8, 8)}}, "no input 'y'; the model has: x"),
    ],
)
def test_what_does_not_fit_is_refused(
    store: Store, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    file = classifier(tmp_path / "m.onnx", "ab")
    with pytest.raises(InvalidArgument, match=says) as caught:
        add_models(store, [Source(**{"task": "t", "path": file, **changes})])  # type: ignore[arg-type]
    assert str(file) in str(caught.value)
    assert store.names() == ()


@pytest.mark.parametrize(("length", "fits"), [(256, True), (257, False)])
@pytest.mark.parametrize("what", ["input", "output"])
def test_names_are_as_long_as_requests_have_room_for(
    store: Store, tmp_path: Path, what: str, length: int, fits: bool
) -> None:
    net = Net((4,))
    other = net.input("i" * length if what == "input" else "other", (4,))
    out = "o" * length if what == "output" else "sum"
    net.nodes.append(helper.make_node("Add", [net.x, other], [out]))
    file = net.save(tmp_path / "m.onnx", out)
    if fits:
        put(store, task=file)
        longest = max((*store.model("task").inputs, *store.model("task").outputs), key=len)
        assert msgspec.convert(longest, TensorName) == longest  # the wire takes it
    else:
        with pytest.raises(InvalidArgument, match=f"{what} '.*has a name of 257 characters"):
            put(store, task=file)
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert("n" * length, TensorName)


def test_free_axes_are_set_by_shape_or_by_preprocessing(store: Store, tmp_path: Path) -> None:
    file = classifier(tmp_path / "m.onnx", "ab", shape=(3, "h", "w"))
    with pytest.raises(Unsupported, match=r"'x' has axes of unknown size: say it as --shape x=3,"):
        put(store, none=file)
    spec = Preprocess(height=24, width=16)
    add_models(
        store, [Source("image", file, preprocess=spec), Source("t", file, shapes={"x": (3, 8, 8)})]
    )
    assert store.model("image").value("x").shape == (3, 24, 16)
    assert store.model("t").value("x").shape == (3, 8, 8)
    assert digests(classifier(tmp_path / "f.onnx", "ab", shape=(3, 8, 8))) == [
        layer.digest for step in store.model("t").steps for layer in step.layers
    ]

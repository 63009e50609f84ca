"""Models without a batch axis, and outputs as long as the data say: their form for one row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto

from edged.errors import InvalidArgument, Unsupported
from edged.store import Store
from export.add import Added, add_models
from export.check import compare, run_chain
from export.probe import session
from export.source import Source, draft
from tests.export.helpers import digests, onnx_run
from tests.export.nets import Net, classifier

Arrays = Mapping[str, npt.NDArray[np.generic]]


def added(tmp_path: Path, net: Net, *outputs: str, **options: object) -> tuple[Added, Path]:
    file = net.save(tmp_path / "m.onnx", *outputs)
    store = Store(tmp_path / "store").create()
    (one,) = add_models(store, [Source("t", file, **options)], min_bytes=0).added  # type: ignore[arg-type]
    return one, file


def served(tmp_path: Path, one: Added, row: Arrays) -> dict[str, npt.NDArray[np.generic]]:
    """What the blocks make of a row, cut to its lengths."""
    store = Store(tmp_path / "store")
    given = {name: array[np.newaxis] for name, array in row.items()}
    (found,) = run_chain(one.manifest, store.block_bytes, [given])
    rows = {name: array[0] for name, array in found.items()}
    for length in one.manifest.lengths:
        extents = rows.pop(length.told_by).tolist()
        part = [slice(None)] * rows[length.output].ndim
        for axis, extent in zip(length.axes, extents, strict=True):
            part[axis] = slice(extent)
        rows[length.output] = rows[length.output][tuple(part)]
    return rows


def same(one: Arrays, other: Arrays) -> bool:
    return compare(dict(one), dict(other)).relative < 1e-5


def test_a_picture_without_a_batch_axis(tmp_path: Path) -> None:
    net = Net()
    net.only("image", (8, 8, 3), TensorProto.UINT8)
    flat = net.add("Reshape", net.add("Cast", net.x, to=TensorProto.FLOAT), net.integers(192))
    y = net.add("MatMul", flat, net.weight(1, 192, 5))
    one, file = added(tmp_path, net, y)
    manifest = one.manifest
    assert (manifest.max_rows, manifest.value("image").shape) == (1, (8, 8, 3))
    assert manifest.value(y).shape == (5,)
    assert "no batch axis" in (one.coupled or "")
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    (expected,) = onnx_run(onnx.load(str(file)), {"image": image})
    assert same({y: expected}, served(tmp_path, one, {"image": image}))


@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_a_setting_beside_rows_is_part_of_each_row(tmp_path: Path, shape: tuple[int, ...]) -> None:
    net = Net((4,))
    rate = net.input("rate", shape, TensorProto.INT64, whole=True)
    factor = net.add("ReduceSum", net.add("Cast", rate, to=TensorProto.FLOAT), keepdims=0)
    y = net.add("Mul", net.x, factor)
    one, file = added(tmp_path, net, y)
    inner = () if shape == (1,) else shape
    assert one.manifest.value("rate").shape == inner
    x = np.arange(4, dtype=np.float32)
    rates = np.full(shape, 7, np.int64)
    (expected,) = onnx_run(onnx.load(str(file)), {"x": x[np.newaxis], "rate": rates})
    row: Arrays = {"x": x, "rate": rates.reshape(inner)}
    assert same({y: expected[0]}, served(tmp_path, one, row))


def test_a_setting_that_is_fixed_leaves_batches(tmp_path: Path) -> None:
    net = Net((4,))
    rate = net.input("rate", (), TensorProto.INT64, whole=True)
    y = net.add("Mul", net.x, net.add("Cast", rate, to=TensorProto.FLOAT))
    one, _ = added(tmp_path, net, y, inputs={"rate": [3]})
    assert (one.manifest.inputs, one.manifest.max_rows) == (("x",), None)
    x = np.arange(4, dtype=np.float32)
    assert same({y: 3 * x}, served(tmp_path, one, {"x": x}))


def test_a_state_with_its_batch_on_another_axis(tmp_path: Path) -> None:
    net = Net((6, 8), rows="batch")
    state = net.input("h", (2, "batch", 5), whole=True)
    turned = net.add("Transpose", net.x, perm=[1, 0, 2])
    y, after = net.add_all(
        "GRU", 2, turned, net.weight(1, 2, 15, 8), net.weight(2, 2, 15, 5), "", "", state,
        hidden_size=5, direction="bidirectional",
    )  # fmt: skip
    one, file = added(tmp_path, net, y, after)
    assert "axis 1 of input 'h' is the batch" in (one.coupled or "")
    manifest = one.manifest
    assert [manifest.value(n).shape for n in (*manifest.inputs, *manifest.outputs)] == [
        (6, 8), (2, 1, 5), (6, 2, 1, 5), (2, 1, 5),
    ]  # fmt: skip
    random = np.random.default_rng(0)
    x, h = (random.standard_normal(s).astype(np.float32) for s in ((6, 8), (2, 1, 5)))
    expected = onnx_run(onnx.load(str(file)), {"x": x[np.newaxis], "h": h})
    found = served(tmp_path, one, {"x": x, "h": h})
    assert same(dict(zip((y, after), expected, strict=True)), found)


def test_a_count_after_a_batch_of_one_is_asked_for(tmp_path: Path) -> None:
    """It is called N, as batches are elsewhere."""
    net = Net()
    net.only("boxes", (1, "N", 4))
    y = net.add("Relu", net.x)
    with pytest.raises(Unsupported, match=r"axes of unknown size: say it as --shape boxes="):
        added(tmp_path, net, y)
    one, _ = added(tmp_path, net, y, shapes={"boxes": (7, 4)})
    assert one.manifest.value("boxes").shape == (7, 4)


def test_outputs_that_run_over_all_places_of_a_picture(tmp_path: Path) -> None:
    """Scores and boxes have the places of the picture where others have rows."""
    net = Net((3, 8, 8), rows=1)
    ends = []
    for channels in (1, 4):
        maps = net.add("Conv", net.x, net.weight(channels, channels, 3, 1, 1))
        turned = net.add("Transpose", maps, perm=[2, 3, 0, 1])
        ends.append(net.add("Reshape", turned, net.integers(-1, channels)))
    one, file = added(tmp_path, net, *ends)
    assert [one.manifest.value(name).shape for name in ends] == [(64, 1), (64, 4)]
    assert "has no batch axis" in (one.coupled or "")
    x = np.random.default_rng(0).standard_normal((3, 8, 8)).astype(np.float32)
    expected = onnx_run(onnx.load(str(file)), {"x": x[np.newaxis]})
    assert same(dict(zip(ends, expected, strict=True)), served(tmp_path, one, {"x": x}))


def test_an_output_that_couples_rows_beside_one_that_does_not(tmp_path: Path) -> None:
    net = Net((8,), rows=1)
    size = net.add("Abs", net.x)
    scores = net.add("Div", size, net.add("ReduceMax", size, keepdims=0))
    boxes = net.add("MatMul", net.x, net.weight(0, 8, 8, scale=1e5))
    one, file = added(tmp_path, net, boxes, scores)
    assert one.manifest.max_rows == 1
    x = np.random.default_rng(0).standard_normal(8).astype(np.float32)
    expected = onnx_run(onnx.load(str(file)), {"x": x[np.newaxis]})
    rows = {name: array[0] for name, array in zip((boxes, scores), expected, strict=True)}
    assert same(rows, served(tmp_path, one, {"x": x}))


def detector(net: Net, most: int = 3) -> tuple[str, ...]:
    """Boxes of a row, those that do not overlap, and their scores: as many as are found."""
    boxes = net.add("Reshape", net.x, net.integers(1, 10, 4))
    scores = net.add("Sigmoid", net.add("ReduceSum", boxes, net.integers(2), keepdims=0))
    classes = net.add("Unsqueeze", scores, net.integers(1))
    limits = (net.constant(np.array([v], np.float32)) for v in (0.5, 0.6))
    kept = net.add("NonMaxSuppression", boxes, classes, net.integers(most), *limits)
    at = net.add("Reshape", net.add("Slice", kept, net.integers(2), net.integers(3),
                                    net.integers(1)), net.integers(-1))  # fmt: skip
    chosen = net.add("Gather", net.add("Reshape", boxes, net.integers(10, 4)), at, axis=0)
    best = net.add("Gather", net.add("Reshape", scores, net.integers(10)), at, axis=0)
    return chosen, best, net.add("Unsqueeze", best, net.integers(0))


@pytest.mark.parametrize("found", [0, 1, 3])
def test_boxes_as_many_as_are_found(tmp_path: Path, found: int) -> None:
    net = Net((40,), rows=1)
    boxes, best, framed = detector(net)
    one, file = added(tmp_path, net, boxes, best, framed)
    shapes = {name: one.manifest.client_shape(name) for name in one.manifest.answers}
    assert shapes == {boxes: (-1, 4), best: (-1,), framed: (-1,)}
    assert one.manifest.value(boxes).shape == (3, 4), "the limit of the suppression"
    row = np.full((10, 4), -1.0, np.float32)
    for i in range(found):
        row[i] = [3 * i, 0, 3 * i + 2, 2]
    expected = onnx_run(onnx.load(str(file)), {"x": row.reshape(1, 40)})
    assert len(expected[0]) == found
    given = dict(zip((boxes, best), expected, strict=False)) | {framed: expected[2][0]}
    answer = served(tmp_path, one, {"x": row.reshape(40)})
    assert {n: a.shape for n, a in answer.items()} == {n: a.shape for n, a in given.items()}
    assert same(given, answer)


def test_places_above_a_threshold_have_room_for_all(tmp_path: Path) -> None:
    """On random input none is above it, and then all are."""
    net = Net((4, 5))
    above = net.add("Greater", net.x, net.constant(np.float32(100)))
    places = net.add("NonZero", above)  # (3, as many as there are)
    kept = net.add("Compress", net.add("Reshape", net.x, net.integers(-1)),
                   net.add("Reshape", above, net.integers(-1)), axis=0)  # fmt: skip
    one, file = added(tmp_path, net, places, kept)
    assert one.manifest.value(places).shape == (3, 20)
    for count in (0, 7, 20):
        row = np.zeros((4, 5), np.float32)
        row.reshape(-1)[:count] = 200 + np.arange(count)
        expected = onnx_run(onnx.load(str(file)), {"x": row[np.newaxis]})
        answer = served(tmp_path, one, {"x": row})
        assert same(dict(zip((places, kept), expected, strict=True)), answer)


def test_a_length_that_no_operator_bounds_has_room_by_what_was_seen(tmp_path: Path) -> None:
    net = Net((2,), rows=1)
    most = net.add("Squeeze", net.add("ReduceMax", net.x, keepdims=0))
    count = net.add("Cast", net.add("Mul", most, net.constant(np.float32(10))), to=7)
    zero, one_ = (net.constant(np.array(n)) for n in (0, 1))
    y = net.add("Range", zero, count, one_)
    samples = tmp_path / "rows.npy"
    np.save(samples, np.array([[20, 3]], np.float32))
    one, _ = added(tmp_path, net, y, samples=samples)
    assert one.manifest.value(y).shape == (800,)


def test_samples_show_that_a_picture_has_no_batch_axis(tmp_path: Path) -> None:
    """Its channels could be rows, if nothing else were known."""
    net = Net()
    net.only("image", (3, 4, 5))
    y = net.add("Relu", net.x)
    file = net.save(tmp_path / "m.onnx", y)
    assert draft(Source("t", file)).manifest.max_rows is None
    np.save(tmp_path / "rows.npy", np.ones((6, 3, 4, 5), np.float32))
    found = draft(Source("t", file, samples=tmp_path / "rows.npy"))
    assert (found.manifest.max_rows, found.manifest.value(y).shape) == (1, (3, 4, 5))


def test_a_file_that_says_any_batch_and_runs_one(tmp_path: Path) -> None:
    net = Net((3, 4))
    flat = net.add("Reshape", net.x, net.integers(1, 12))
    y = net.add("MatMul", flat, net.weight(1, 12, 5))
    one, file = added(tmp_path, net, y)
    assert one.manifest.max_rows == 1
    assert "it does not run with more" in (one.coupled or "")
    x = np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32)
    (expected,) = onnx_run(onnx.load(str(file)), {"x": x})
    assert same({y: expected[0]}, served(tmp_path, one, {"x": x[0]}))


def test_one_row_at_a_time_on_request(tmp_path: Path) -> None:
    file = classifier(tmp_path / "m.onnx", "ab")
    found = draft(Source("t", file, rows=1))
    assert (found.manifest.max_rows, found.coupled) == (1, "that was asked for (--rows 1)")
    again = draft(Source("t", classifier(tmp_path / "n.onnx", "ab", rows=1), rows=1))
    assert found.path.uses == again.path.uses
    assert [use.digest for use in found.path.uses] != digests(file)


def test_a_batch_of_four_is_one_row_on_request(tmp_path: Path) -> None:
    net = Net((4, 6), rows=4)
    turned = net.add("Transpose", net.x, perm=[1, 0, 2])
    back = net.add("Reshape", net.add("Reshape", turned, net.integers(4, 3, 8)),
                   net.integers(4, 24))  # fmt: skip
    y = net.add("MatMul", back, net.weight(1, 24, 2))
    with pytest.raises(Unsupported, match=r"batches of exactly 4.* --rows 1"):
        draft(Source("t", net.save(tmp_path / "n.onnx", y)))
    one, file = added(tmp_path, net, y, rows=1)
    x = np.random.default_rng(0).standard_normal((4, 4, 6)).astype(np.float32)
    (expected,) = onnx_run(onnx.load(str(file)), {"x": x})
    assert same({y: expected}, served(tmp_path, one, {"x": x}))


def sequence(path: Path, head: int) -> Path:
    """Convolutions, then columns as steps: the axis of rows is in the middle from there on."""
    net = Net((3, 8, 16), rows=1)
    x = net.conv_relu(net.conv_relu(net.x, 3, 8, 1), 8, 8, 2)
    flat = net.add("Reshape", x, net.integers(1, 64, 16))
    x = net.add("Transpose", flat, perm=[2, 0, 1])  # (steps, rows, width)
    for seed in (5, 6):
        made = net.add_all("GRU", 1, x, net.weight(seed, 1, 192, 64), net.weight(seed, 1, 192, 64),
                           hidden_size=64)  # fmt: skip
        x = net.add("Squeeze", made[0], net.integers(1))
    return net.save(path, net.add("MatMul", x, net.weight(head, 64, 7)))


def test_parts_without_a_row_axis_are_shared(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").create()
    files = {f"m{i}": sequence(tmp_path / f"{i}.onnx", head=70 + i) for i in range(2)}
    sources = [Source(name, file, rows=1) for name, file in files.items()]
    add_models(store, sources, min_bytes=0)
    first, second = (store.model(name) for name in files)
    shared = {s.block for s in first.steps} & {s.block for s in second.steps}
    own = sum(store.block_size(s.block) for s in first.steps if s.block not in shared)
    assert own < 0.1 * sum(store.block_size(s.block) for s in first.steps)
    for name, file in files.items():
        x = np.random.default_rng(3).standard_normal((1, 3, 8, 16)).astype(np.float32)
        (expected,) = onnx_run(onnx.load(str(file)), {"x": x})
        (found,) = run_chain(store.model(name), store.block_bytes, [{"x": x}])
        (y,) = store.model(name).outputs
        assert same({y: expected}, {y: found[y][0]})


@pytest.mark.parametrize(
    ("extents", "shape", "rows"),
    [
        ((-1, 4), None, None),
        ((-1, 3, -1, -1), (3, 6, 6), None),
        (("n", 3, "h", "w"), (3, 6, 6), None),
        (("n", 3, "h", "w"), (1, 3, 6, 6), None),
        ((-1, 3, -1, -1), (1, 3, 6, 6), None),
        (("h", "w", 3), (5, 6, 3), 1),
    ],
)
def test_extents_of_minus_one_are_free(
    tmp_path: Path,
    extents: tuple[int | str, ...],
    shape: tuple[int, ...] | None,
    rows: int | None,
) -> None:
    net = Net()
    net.only("x", extents)
    y = net.add("Relu", net.x)
    if rows:
        y = net.add("ReduceMean", y, axes=[0, 1], keepdims=0)
    shapes = {} if shape is None else {"x": shape}
    one, _ = added(tmp_path, net, y, shapes=shapes)
    assert one.manifest.max_rows == rows


def test_outputs_are_left_out_with_the_inputs_that_only_they_need(tmp_path: Path) -> None:
    net = Net((4,))
    other = net.input("other", (3,))
    y, z = net.add("Relu", net.x), net.add("Neg", other)
    one, _ = added(tmp_path, net, y, z, outputs=(y,))
    assert (one.manifest.inputs, one.manifest.outputs) == (("x",), (y,))
    x = np.arange(-2, 2, dtype=np.float32)
    assert same({y: np.maximum(x, 0)}, served(tmp_path, one, {"x": x}))
    file = tmp_path / "m.onnx"
    with pytest.raises(InvalidArgument, match=r"there is no output 'nose'; the model has: "):
        draft(Source("t", file, outputs=("nose",)))
    with pytest.raises(InvalidArgument, match=r"there is no input 'nose'; the model has: "):
        draft(Source("t", file, inputs={"nose": [1]}))
    with pytest.raises(InvalidArgument, match="every input is fixed"):
        draft(Source("t", file, inputs={"x": [1], "other": [0]}))


@pytest.mark.parametrize("numbers", [[1.5], [1, 2], [3e9]])
def test_values_that_do_not_fill_an_input(tmp_path: Path, numbers: list[float]) -> None:
    net = Net((4,))
    whole = net.input("k", (3,), TensorProto.INT32, whole=True)
    y = net.add("Mul", net.x, net.add("ReduceSum", net.add("Cast", whole, to=1), keepdims=0))
    with pytest.raises(InvalidArgument, match="input 'k'"):
        added(tmp_path, net, y, inputs={"k": numbers})


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda net, n: net.add("Div", net.constant(np.array(1000)), n), 1),
        (lambda net, n: net.add("Mod", net.constant(np.array(1000)), n), 1),
        (lambda net, n: net.add("Gather", net.weight(1, 2, 4), n), 0),
    ],
)
def test_whole_numbers_that_must_not_be_zero(
    tmp_path: Path, make: Callable[[Net, str], str], least: int
) -> None:
    net = Net()
    net._inputs.clear()
    n = net.input("n", (4,), TensorProto.INT64)
    y = make(net, n)
    one, file = added(tmp_path, net, y)
    assert one.manifest.max_rows is None
    assert one.manifest.span("n") == (None if not least else (1, 2))
    rows = np.array([3, 7, 50, 9]) if least else np.array([0, 1, 1, 0])
    (expected,) = session(file.read_bytes()).run(None, {"n": rows[np.newaxis]})
    assert same({y: expected[0]}, served(tmp_path, one, {"n": rows}))


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT8, TensorProto.INT64])
def test_bytes_are_tried_with_all_their_values(tmp_path: Path, kind: int) -> None:
    net = Net()
    net.only("n", ("rows", 4), kind)
    y = net.add("Relu", net.add("Cast", net.x, to=TensorProto.FLOAT))
    one, _ = added(tmp_path, net, y)
    assert one.manifest.spans == ()
    assert (one.difference.largest > 1) == (kind != TensorProto.INT64)


def test_whole_numbers_that_only_samples_know(tmp_path: Path) -> None:
    """A rate of which the model knows two: a table has entries at 8 and 16 only."""
    net = Net((4,))
    rate = net.input("rate", (1,), TensorProto.INT64)
    count = net.add("Sub", rate, net.integers(8))
    row = net.add("Gather", net.weight(1, 2, 4), net.add("Div", count, net.integers(8)), axis=0)
    checked = net.add("Gather", net.integers(0, 0), net.add("Sub", count, net.integers(0)))
    shifted = net.add("Squeeze", row, net.integers(1))
    zero = net.add("Mul", net.add("Cast", checked, to=1), net.constant(np.float32(0)))
    y = net.add("Add", net.x, net.add("Add", shifted, zero))
    file = net.save(tmp_path / "m.onnx", y)
    np.savez(tmp_path / "s.npz", x=np.ones((2, 4), np.float32), rate=np.array([[8], [9]]))
    found = draft(Source("t", file, samples=tmp_path / "s.npz"))
    assert found.manifest.span("rate") == (8, 9)

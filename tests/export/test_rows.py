"""Rows that depend on the rows beside them, found by structure and by measuring."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edged.errors import Unsupported
from edged.store import Store
from export.add import add_models
from export.cli import main
from export.company import dependence
from export.extents import classify
from export.graph import load, read
from export.probe import probe
from export.rows import coupling
from export.source import ModelDraft, Source, draft
from tests.export import generated
from tests.export.generated import COUPLED, Maker
from tests.export.nets import Net


def made(tmp_path: Path, gadget: Callable[[Maker], str], kind: str = "tokens") -> Path:
    m = Maker(0, kind, "rows")
    m.mix(gadget(m))
    return m.net.save(tmp_path / "m.onnx", m.do("MatMul", m.flat(), m.weight(m.width, 5)))


def drafted(file: Path) -> ModelDraft:
    return draft(Source("t", file))


STATEFUL = generated.training_norm


@pytest.mark.parametrize(
    "gadget", [g for g in COUPLED if g is not STATEFUL], ids=lambda g: g.__name__
)
def test_what_couples_rows_runs_one_row_at_a_time(
    tmp_path: Path, gadget: Callable[[Maker], str]
) -> None:
    found = drafted(made(tmp_path, gadget))
    assert found.manifest.max_rows == 1
    assert found.coupled


# These neither sum nor rank nor scale over the rows, so only their results show the coupling.
MEASURED = {
    generated.rolled, generated.reversed_rows, generated.interleaved, generated.over_the_count,
    generated.numbered, generated.softmax_of_all,
}  # fmt: skip


@pytest.mark.parametrize("gadget", COUPLED, ids=lambda g: g.__name__)
def test_both_ways_of_looking_find_what_is_theirs(
    tmp_path: Path, gadget: Callable[[Maker], str]
) -> None:
    if gadget is STATEFUL:
        with pytest.raises(Unsupported, match="in training mode"):
            load(made(tmp_path, gadget))
        return
    graph = load(made(tmp_path, gadget)).graph
    assert (coupling(graph, probe(graph)) is None) <= (gadget in MEASURED)
    assert dependence(graph, graph.outputs, 1e-4, 0.1) is not None


def test_the_operator_that_mixes_rows_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = made(tmp_path, generated.quantised)
    assert main(["onnx", f"t={file}", "--store", str(tmp_path / "store")]) == 0
    text = capsys.readouterr().out
    assert "t: runs one row at a time: DynamicQuantizeLinear 'v" in text
    assert "mixes the rows of a batch" in text


def test_a_scale_of_the_whole_batch_is_seen_in_a_runtimes_own_operators(tmp_path: Path) -> None:
    net = Net((6,))
    weight = net.constant(np.random.default_rng(0).integers(0, 255, (6, 3), np.uint8))
    scale, zero = net.constant(np.float32(0.1)), net.constant(np.uint8(128))
    net.nodes.append(
        helper.make_node(
            "DynamicQuantizeMatMul", [net.x, weight, scale, zero], ["y"], domain="com.microsoft"
        )
    )
    model = net.model("y")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert drafted(tmp_path / "m.onnx").manifest.max_rows == 1


@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_scores_by_the_best_of_the_batch_beside_boxes_in_pixels(
    tmp_path: Path, element: int
) -> None:
    """The coupled scores are small beside the boxes; the model is exported for one picture."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    net = Net((1, 8), rows=1)
    net._inputs[0].type.tensor_type.elem_type = element
    size = net.add("Abs", net.x)
    scores = net.add("Div", size, net.add("ReduceMax", size, keepdims=0))
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(dtype)
    place = net.add("Sigmoid", net.add("MatMul", size, net.constant(weight)))
    pixels = net.add("Mul", place, net.constant(np.array(640, dtype)))
    file = net.save(tmp_path / "m.onnx", net.add("Concat", pixels, scores, axis=1))
    assert drafted(file).manifest.max_rows == 1


def test_scores_by_the_number_of_rows_beside_boxes_in_pixels(tmp_path: Path) -> None:
    """Nothing changes before there are four rows, and more rows than that are never tried."""
    net = Net((8,))
    fours = net.add("Div", net.rows(), net.integers(4))
    count = net.add("Cast", net.add("Add", fours, net.integers(1)), to=TensorProto.FLOAT)
    scores = net.add("Div", net.add("Sigmoid", net.x), count)
    pixels = net.add("Mul", net.x, net.constant(np.float32(640)))
    found = drafted(net.save(tmp_path / "m.onnx", net.add("Concat", pixels, scores, axis=1)))
    assert found.manifest.max_rows == 1
    assert "Div" in (found.coupled or "")


def test_a_feature_that_the_number_of_rows_chooses(tmp_path: Path) -> None:
    """The first one for up to three rows, which is all that is tried; then the second."""
    net = Net((8,))
    which = net.add("Div", net.rows(), net.integers(4))
    chosen = net.add("Mul", net.x, net.add("Gather", net.x, which, axis=1))
    found = drafted(net.save(tmp_path / "m.onnx", chosen))
    assert (found.manifest.max_rows, "Gather" in (found.coupled or "")) == (1, True)


def test_a_sequence_whose_time_are_the_rows(tmp_path: Path) -> None:
    """The data decides how many rows are reversed; random input reverses none."""
    net = Net((4,))
    high = net.add("Cast", net.add("Greater", net.add("ReduceMax", net.x, axes=[0], keepdims=0),
                   net.constant(np.float32(1e6))), to=TensorProto.INT64)  # fmt: skip
    turned = net.add("ReverseSequence", net.x, net.add("Add", high, net.integers(1)))
    assert drafted(net.save(tmp_path / "m.onnx", turned)).manifest.max_rows == 1


def test_scores_that_are_an_output_of_their_own(tmp_path: Path) -> None:
    net = Net((8,), rows=1)
    size = net.add("Abs", net.x)
    scores = net.add("Div", size, net.add("ReduceMax", size, keepdims=0))
    boxes = net.add("MatMul", net.x, net.weight(1, 8, 8, scale=1e5))
    assert drafted(net.save(tmp_path / "m.onnx", boxes, scores)).manifest.max_rows == 1


def test_a_row_is_chosen_by_the_content_of_another_row(tmp_path: Path) -> None:
    """Which row is taken never changes on input like that which the exporter tries."""
    net = Net((8,))
    which = net.add("ArgMax", net.add("Slice", net.x, net.integers(0), net.integers(1),
                    net.integers(1)), axis=1, keepdims=0)  # fmt: skip
    taken = net.add("Gather", net.x, which, axis=0)
    found = drafted(net.save(tmp_path / "m.onnx", net.add("Add", net.x, taken)))
    assert found.manifest.max_rows == 1
    assert "Gather" in (found.coupled or "")


def test_a_token_of_each_row_is_chosen_by_its_content(tmp_path: Path) -> None:
    """x[arange(rows), best], as text encoders take the last token: rows stay independent."""
    net = Net((4, 6))
    best = net.add("ArgMax", net.add("ReduceSum", net.x, net.integers(2), keepdims=0), axis=1)
    count = net.add("Squeeze", net.rows(), net.integers(0))
    zero, one = (net.constant(np.array(n, np.int64)) for n in (0, 1))
    rows = net.add("Unsqueeze", net.add("Range", zero, count, one), net.integers(1))
    taken = net.add("GatherND", net.x, net.add("Concat", rows, best, axis=1))
    found = drafted(net.save(tmp_path / "m.onnx", net.gemm(taken, 6, 3, seed=1)))
    assert (found.manifest.max_rows, found.coupled) == (None, None)


def test_a_model_that_declares_more_rows_than_it_runs_stays_at_one(tmp_path: Path) -> None:
    net = Net((4,))
    file = net.save(tmp_path / "m.onnx", net.add("Add", net.x, net.add("Reshape", net.weight(
        1, 4), net.add("Concat", net.rows(), net.integers(4), axis=0))))  # fmt: skip
    assert drafted(file).manifest.max_rows == 1


def counted_output(net: Net) -> str:
    hot = net.add("Greater", net.x, net.constant(np.float32(20)))
    return net.add("Cast", net.add("NonZero", hot), to=TensorProto.FLOAT)


def rows_that_vanish(net: Net) -> str:
    power = net.add("ReduceSumSquare", net.x, axes=[1], keepdims=0)
    kept = net.add("Greater", power, net.constant(np.float32(0)))
    return net.add("MatMul", net.add("Compress", net.x, kept, axis=0), net.weight(1, 8, 4))


def suppressed(net: Net) -> str:
    boxes = net.add("Reshape", net.x, net.integers(1, 2, 4))
    scores = net.add(
        "Unsqueeze", net.add("ReduceMax", boxes, axes=[2], keepdims=0), net.integers(1)
    )
    most = net.constant(np.array([10], np.int64))
    kept = net.add("NonMaxSuppression", boxes, scores, most)
    return net.add("Cast", kept, to=TensorProto.FLOAT)


@pytest.mark.parametrize(
    ("make", "rows"),
    [
        (counted_output, 1),
        (counted_output, "rows"),
        (rows_that_vanish, 1),
        (rows_that_vanish, "rows"),
        (suppressed, 1),
    ],
)
def test_an_output_as_long_as_the_data_say_runs_one_row_at_a_time(
    tmp_path: Path, make: Callable[[Net], str], rows: int | str
) -> None:
    net = Net((8,), rows=rows)
    found = drafted(net.save(tmp_path / "m.onnx", make(net)))
    assert found.manifest.max_rows == 1
    assert "the length of output" in (found.coupled or "")
    assert [length.output for length in found.manifest.lengths] == [found.manifest.outputs[0]]


@pytest.mark.parametrize(
    "end",
    [
        lambda net, x: net.add("ReduceSum", x, net.integers(0, 1), keepdims=1),
        lambda net, x: net.add("Gather", x, net.integers(0), axis=1),
        lambda net, x: net.add_all("TopK", 2, x, net.integers(1), axis=1)[0],
        lambda net, x: net.add("Reshape", x, net.integers(1, 2)),
    ],
    ids=["reduced", "gathered", "the best", "reshaped"],
)
def test_an_extent_that_is_fixed_again_does_not_depend_on_the_data(
    end: Callable[[Net, str], str],
) -> None:
    net = Net((4,), rows=1)
    spots = net.add("NonZero", net.x)  # (2, as many as there are)
    fixed = end(net, spots)
    graph = read(net.model(net.add("Cast", fixed, to=TensorProto.FLOAT)))
    traits = classify(graph, {spots: 2, fixed: 2, graph.outputs[0]: 2})
    assert traits.varying == {spots: frozenset({1})}


def test_a_length_of_the_data_is_asked_for_whenever_it_is_needed(tmp_path: Path) -> None:
    """Random input is never above the threshold, so the length always seems to be 0."""
    store = Store(tmp_path / "store").create()
    net = Net((32,), rows=1)
    hot = net.add("NonZero", net.add("Greater", net.x, net.constant(np.float32(20))))
    count = net.add("Gather", net.add("Shape", hot), net.integers(1))
    total = net.add(
        "Add", net.add("Cast", count, to=TensorProto.FLOAT), net.constant(np.float32(1))
    )
    file = net.save(tmp_path / "m.onnx", net.add("Div", net.x, total))
    (added,) = add_models(store, [Source("t", file)]).added
    assert added.manifest.max_rows == 1
    data = store.block_bytes(added.manifest.steps[0].block)
    operators = {node.op_type for node in onnx.ModelProto.FromString(data).graph.node}
    assert {"NonZero", "Shape"} <= operators

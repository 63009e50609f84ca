"""Equal content gives equal digests and files, whatever its names; different content does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edged.errors import StoreError
from export.assemble import whole_block
from export.canonical import split
from export.check import compare
from export.graph import load
from export.layers import cut
from export.normalise import normalise
from export.probe import feed, probe
from tests.export.helpers import digests, layers_of, onnx_run
from tests.export.nets import Net, classifier, segmenter, transformer

Change = Callable[[onnx.ModelProto], None]


def rename_everything(model: onnx.ModelProto) -> None:
    def new(name: str) -> str:
        return name and f"renamed/{name[::-1]}"

    for node in model.graph.node:
        node.name, node.doc_string = new(node.name), "where it came from"
        node.input[:] = map(new, node.input)
        node.output[:] = map(new, node.output)
    for value in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        value.name = new(value.name)


def reverse_weights(model: onnx.ModelProto) -> None:
    kept = list(model.graph.initializer)
    del model.graph.initializer[:]
    model.graph.initializer.extend(reversed(kept))


def spell_out_defaults(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Gemm":
            node.attribute.append(helper.make_attribute("alpha", 1.0))
        if node.op_type == "Conv":
            attributes = [*node.attribute, helper.make_attribute("group", 1)]
            del node.attribute[:]
            node.attribute.extend(reversed(attributes))


def weights_as_lists(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        kind = tensor.data_type
        tensor.CopyFrom(helper.make_tensor(tensor.name, kind, array.shape, array.ravel().tolist()))


def weights_as_constants(model: onnx.ModelProto) -> None:
    nodes = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in model.graph.initializer
    ]
    nodes += model.graph.node
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def metadata(model: onnx.ModelProto) -> None:
    model.producer_name = "another exporter"
    model.doc_string = "trained on a Tuesday"
    helper.set_model_props(model, {"author": "somebody"})


@pytest.mark.parametrize("make", [classifier, transformer, segmenter])
@pytest.mark.parametrize(
    "change",
    [
        rename_everything, reverse_weights, spell_out_defaults, weights_as_lists,
        weights_as_constants, metadata,
    ],
)  # fmt: skip
def test_what_does_not_count(tmp_path: Path, make: Callable[..., Path], change: Change) -> None:
    file = make(tmp_path / "m.onnx", "ab")
    model = onnx.load(str(file))
    change(model)
    onnx.save(model, str(tmp_path / "changed.onnx"))
    before, after = layers_of(file), layers_of(tmp_path / "changed.onnx")
    assert [use.digest for use in before.uses] == [use.digest for use in after.uses]
    assert whole_block(before).data == whole_block(after).data


def test_the_opset_does_not_count_where_operators_mean_the_same(tmp_path: Path) -> None:
    old, new = (digests(classifier(tmp_path / f"{v}.onnx", "ab", opset=v)) for v in (14, 17))
    assert old == new
    # ReduceSum and others changed in 18, Resize too; those layers differ, the rest do not.
    old, new = (digests(segmenter(tmp_path / f"{v}.onnx", "ab", opset=v)) for v in (17, 18))
    assert old[:5] == new[:5]
    assert old != new


def test_the_order_of_independent_operators_does_not_count(tmp_path: Path) -> None:
    found = []
    for first, second in ((1, 2), (2, 1)):
        net = Net()
        branches = {seed: net.conv_relu(net.x, 3, 3, seed) for seed in (first, second)}
        out = net.add("Concat", branches[1], branches[2], axis=1)
        found.append(digests(net.save(tmp_path / "m.onnx", net.gemm(net.pool(out), 6, 4, seed=3))))
    assert found[0] == found[1]


def test_operators_that_are_there_twice_become_one(tmp_path: Path) -> None:
    net = Net()
    once = Net()
    pair = [net.conv_relu(net.x, 3, 8, seed=1) for _ in range(2)]
    single = once.conv_relu(once.x, 3, 8, seed=1)
    assert digests(net.save(tmp_path / "2.onnx", net.pool(net.add("Add", *pair)))) == digests(
        once.save(tmp_path / "1.onnx", once.pool(once.add("Add", single, single)))
    )


def test_equal_outputs_stay_apart(tmp_path: Path) -> None:
    """A layer that makes one value under two names, for two later layers or for the caller."""
    net = Net()
    x = net.conv(net.x, 3, 4, seed=1)
    pair = [net.add("Relu", x) for _ in range(2)]
    file = net.save(tmp_path / "m.onnx", *pair, net.pool(pair[0]), net.pool(pair[1]))
    path = layers_of(file)
    block = whole_block(path)
    assert [layer.digest for layer in split(block.data)] == [use.digest for use in path.uses]
    given = feed(load(file).graph, 2)
    expected = onnx_run(onnx.load(str(file)), given)
    found = dict(zip(block.writes, onnx_run(block.data, {"x0": given["x"]}), strict=True))
    assert all(np.allclose(found[n], a) for n, a in zip(path.outputs, expected, strict=True))


def one_bit(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    data = bytearray(tensor.raw_data)
    data[0] ^= 1
    tensor.raw_data = bytes(data)


def an_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute[0].ints[0] = 0
    model.graph.node[0].attribute[0].ints[2] = 2


def an_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Sigmoid"


def a_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 18


@pytest.mark.parametrize("change", [one_bit, an_attribute, an_operator, a_shape])
def test_what_counts(tmp_path: Path, change: Change) -> None:
    file = classifier(tmp_path / "m.onnx", "ab")
    model = onnx.load(str(file))
    change(model)
    onnx.save(model, str(tmp_path / "changed.onnx"))
    assert digests(file)[0] != digests(tmp_path / "changed.onnx")[0]


def test_wiring_inside_a_layer_counts(tmp_path: Path) -> None:
    found = []
    for swapped in (False, True):
        net = Net()
        a, b = net.conv(net.x, 3, 3, seed=1), net.conv(net.x, 3, 3, seed=2)
        found.append(
            digests(net.save(tmp_path / "m.onnx", net.add("Sub", *((b, a) if swapped else (a, b)))))
        )
    assert found[0] != found[1]


@pytest.mark.parametrize("make", [classifier, transformer, segmenter])
def test_a_block_splits_into_its_layers(tmp_path: Path, make: Callable[..., Path]) -> None:
    path = layers_of(make(tmp_path / "m.onnx", "abc"))
    block = whole_block(path)
    again = split(block.data)
    assert [layer.digest for layer in again] == [use.digest for use in path.uses]
    assert [layer.weight_bytes for layer in again] == [use.weight_bytes for use in path.uses]


@pytest.mark.parametrize("make", [classifier, transformer, segmenter])
def test_cutting_a_block_again_changes_nothing(tmp_path: Path, make: Callable[..., Path]) -> None:
    """A block without its metadata is cut anew, and the cuts are the same."""
    file = make(tmp_path / "m.onnx", "abc")
    before = layers_of(file)
    model = onnx.ModelProto.FromString(whole_block(before).data)
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "block.onnx"))
    after = layers_of(tmp_path / "block.onnx")
    assert [use.digest for use in before.uses] == [use.digest for use in after.uses]
    assert whole_block(before).data == whole_block(after).data


def test_a_block_is_a_plain_onnx_file(tmp_path: Path) -> None:
    file = transformer(tmp_path / "m.onnx", "ab")
    path = layers_of(file)
    block = onnx.ModelProto.FromString(whole_block(path).data)
    onnx.checker.check_model(block, full_check=True)
    assert [value.name for value in block.graph.input] == ["x0"]
    assert [value.name for value in block.graph.output] == ["y0"]
    assert block.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "rows"
    given = feed(load(file).graph, 3)
    expected = onnx_run(onnx.load(str(file)), given)
    found = onnx_run(block, {"x0": given["x"]})
    assert compare({"y": expected[0]}, {"y": found[0]}).relative < 1e-5


def test_layers_of_a_model_for_one_row_are_not_those_of_one_for_many(tmp_path: Path) -> None:
    graph = load(classifier(tmp_path / "m.onnx", "ab", rows=1)).graph
    fixed = cut(normalise(graph, probe(graph, (1,))), rows=1)
    free = layers_of(classifier(tmp_path / "f.onnx", "ab"))
    assert not {use.digest for use in fixed.uses} & {use.digest for use in free.uses}
    block = onnx.ModelProto.FromString(whole_block(fixed).data)
    assert block.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert [layer.digest for layer in split(whole_block(fixed).data)] == [
        u.digest for u in fixed.uses
    ]


def test_a_file_that_edged_export_did_not_write_is_not_split(tmp_path: Path) -> None:
    data = classifier(tmp_path / "m.onnx", "ab").read_bytes()
    with pytest.raises(StoreError, match="does not say where its layers end: export its models"):
        split(data)


def test_equal_weights_of_a_block_are_in_it_once(tmp_path: Path) -> None:
    twice = whole_block(layers_of(classifier(tmp_path / "aa.onnx", "aa"))).data
    once = whole_block(layers_of(classifier(tmp_path / "a.onnx", "a"))).data
    assert len(twice) - len(once) < 3000
    spans = {p.key: p.value for p in onnx.ModelProto.FromString(twice).metadata_props}[
        "edged.layers"
    ]
    assert len(json.loads(spans)) == len(digests(tmp_path / "aa.onnx"))
    assert np.diff([span["operators"] for span in json.loads(spans)[1:3]]) == [0]

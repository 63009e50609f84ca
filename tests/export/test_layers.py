"""The cuts of graphs: after additions, where skips are far, and never inside a residual block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from edged.errors import Unsupported
from export.layers import Path as Layers
from tests.export.helpers import layers_of
from tests.export.nets import Net, classifier, segmenter, transformer


def operators(path: Layers) -> list[str]:
    """The operators of each layer in one word."""
    return [" ".join(n.op_type for n in path.layers[use.digest].nodes) for use in path.uses]


def cut(tmp_path: Path, net: Net, *outputs: str) -> list[str]:
    return operators(layers_of(net.save(tmp_path / "m.onnx", *outputs)))


def test_a_plain_chain_is_cut_before_each_weight(tmp_path: Path) -> None:
    net = Net()
    x = net.conv_relu(net.conv_relu(net.x, 3, 4, seed=1), 4, 4, seed=2)
    out = net.add("Softmax", net.gemm(net.pool(x), 4, 4, seed=3), axis=-1)
    assert cut(tmp_path, net, out) == [
        "Conv Relu", "Conv Relu", "GlobalAveragePool Flatten", "Gemm Softmax",
    ]  # fmt: skip


def test_residual_streams_are_cut_after_the_addition(tmp_path: Path) -> None:
    path = layers_of(classifier(tmp_path / "m.onnx", "abc"))
    block = "Conv Relu Conv Add Relu"
    assert operators(path) == [
        "Conv Relu", block, block, block, "GlobalAveragePool Flatten", "Gemm",
    ]  # fmt: skip
    assert all(len(use.reads) == len(use.writes) == 1 for use in path.uses)


def test_attention_and_perceptron_are_layers_of_a_transformer(tmp_path: Path) -> None:
    path = layers_of(transformer(tmp_path / "m.onnx", "ab"))
    starts = [words.split()[0] for words in operators(path)]
    ends = [words.split()[-1] for words in operators(path)]
    assert starts[:2] == ["Conv", "Reshape"]  # patches as a map, then as tokens
    assert ends[2:7] == ["Add"] * 5  # positions, then attention and perceptron of two stages
    assert starts[7:] == ["Gather", "Gemm"]


def test_a_projected_shortcut_stays_in_its_block(tmp_path: Path) -> None:
    net = Net()
    x = net.conv_relu(net.x, 3, 4, seed=1)
    inner = net.conv(net.conv_relu(x, 4, 8, seed=2, stride=2), 8, 8, seed=3)
    out = net.conv_relu(net.add("Add", inner, net.conv(x, 4, 8, seed=4, stride=2)), 8, 4, seed=5)
    assert [text.count("Conv") for text in cut(tmp_path, net, out)] == [1, 3, 1]


def test_parallel_branches_stay_together(tmp_path: Path) -> None:
    net = Net()
    x = net.conv_relu(net.x, 3, 4, seed=1)
    deep = x
    for seed in range(2, 7):
        deep = net.conv_relu(deep, 4, 4, seed=seed)
    branches = [
        net.conv_relu(x, 4, 4, seed=7),
        deep,
        net.add("AveragePool", x, kernel_shape=[1, 1]),
    ]
    out = net.conv_relu(net.add("Concat", *branches, axis=1), 12, 4, seed=8)
    assert [text.count("Conv") for text in cut(tmp_path, net, out)] == [1, 6, 1]


def test_dense_blocks_stay_together(tmp_path: Path) -> None:
    net = Net()
    x = net.conv_relu(net.x, 3, 4, seed=1)
    kept = [x]
    for seed in range(2, 8):
        joined = net.add("Concat", *kept, axis=1) if len(kept) > 1 else x
        kept.append(net.conv_relu(joined, 4 * len(kept), 4, seed=seed))
    out = net.conv_relu(net.add("Concat", *kept, axis=1), 4 * len(kept), 4, seed=9)
    assert [text.count("Conv") for text in cut(tmp_path, net, out)] == [1, 6, 1]


def test_heads_on_one_backbone_are_layers_of_their_own(tmp_path: Path) -> None:
    net = Net()
    features = net.pool(net.conv_relu(net.x, 3, 4, seed=1))
    outputs = [net.gemm(features, 4, 8, seed=seed) for seed in range(12)]
    path = layers_of(net.save(tmp_path / "m.onnx", *outputs))
    assert operators(path) == ["Conv Relu", "GlobalAveragePool Flatten"] + ["Gemm"] * 12
    assert [use.reads for use in path.uses[2:]] == [(features,)] * 12
    assert path.outputs == tuple(outputs)


def test_encoder_and_decoder_are_cut_although_skips_are_alive(tmp_path: Path) -> None:
    path = layers_of(segmenter(tmp_path / "m.onnx", "ab"))
    words = operators(path)
    assert [text.count("Conv") for text in words[:6]] == [1, 2, 1, 2, 1, 2]
    decoder = [use for use, text in zip(path.uses, words, strict=True) if "Concat" in text]
    assert [len(use.reads) for use in decoder] == [2, 2]


def test_a_pyramid_reads_the_feature_maps_of_an_encoder_that_is_cut(tmp_path: Path) -> None:
    net = Net()
    x = net.conv_relu(net.x, 3, 8, seed=1)
    maps = []
    for seed in (2, 3, 4):
        x = net.residual(net.conv_relu(x, 8, 8, seed=10 * seed, stride=2), 8, seed)
        maps.append(x)
    sides = [net.conv(x, 8, 8, seed=50 + i) for i, x in enumerate(maps)]  # all before the sums
    level = sides[-1]
    outputs = [level]
    for side in reversed(sides[:-1]):
        level = net.add("Add", side, net.up(level))
        outputs.append(net.conv(level, 8, 8, seed=60 + len(outputs)))
    path = layers_of(net.save(tmp_path / "m.onnx", *outputs))
    encoder = operators(path)[:7]
    assert [text.count("Conv") for text in encoder] == [1, 1, 2, 1, 2, 1, 2]


def test_values_that_are_no_rows_do_not_cross(tmp_path: Path) -> None:
    """A row has several windows, so there is no cut where windows are the only values."""
    net = Net((4, 6))
    x = net.add("MatMul", net.x, net.weight(1, 6, 6))
    x = net.add("Reshape", x, net.integers(-1, 2, 6))  # (2 * rows, 2, 6)
    x = net.add("MatMul", net.add("MatMul", x, net.weight(2, 6, 6)), net.weight(4, 6, 6))
    x = net.add("Reshape", x, net.integers(-1, 4, 6))
    x = net.add("MatMul", x, net.weight(3, 6, 6))
    path = layers_of(net.save(tmp_path / "m.onnx", x))
    assert [text.count("MatMul") for text in operators(path)] == [1, 2, 1]


def test_quantised_operators_keep_what_makes_them_run_on_integers(tmp_path: Path) -> None:
    net = Net()
    scale, zero = net.constant(np.array(0.05, np.float32)), net.constant(np.array(3, np.uint8))

    def quantised(x: str, c: int, to: int, seed: int) -> str:
        integers = net.constant(
            np.random.default_rng(seed).integers(-99, 99, (to, c, 3, 3), np.int8)
        )
        unit = net.constant(np.array(0.01, np.float32))
        kernel = net.add("DequantizeLinear", integers, unit)
        conv = net.add("Relu", net.add("Conv", x, kernel, pads=[1, 1, 1, 1]))
        return net.add(
            "DequantizeLinear", net.add("QuantizeLinear", conv, scale, zero), scale, zero
        )

    start = net.add("DequantizeLinear", net.add("QuantizeLinear", net.x, scale, zero), scale, zero)
    out = net.pool(quantised(quantised(start, 3, 4, 1), 4, 4, 2))
    path = layers_of(net.save(tmp_path / "m.onnx", out))
    words = operators(path)
    assert words[0] == "QuantizeLinear"
    for text in words[1:3]:
        assert text.split()[0] == "DequantizeLinear"
        assert text.split()[-1] == "QuantizeLinear"
    crossing = {value.name: value.datatype for value in path.values}
    assert [crossing[use.reads[0]] for use in path.uses[1:3]] == ["UINT8", "UINT8"]


def test_models_with_several_inputs(tmp_path: Path) -> None:
    net = Net()
    other = net.input("other", (5,), TensorProto.FLOAT)
    relu = net.conv_relu(net.x, 3, 4, seed=1)
    features = net.pool(relu)
    both = net.add("Concat", features, net.gemm(other, 5, 4, seed=2), axis=1)
    path = layers_of(net.save(tmp_path / "m.onnx", net.gemm(both, 8, 2, seed=3)))
    assert path.inputs == ("x", "other")
    assert [set(use.reads) for use in path.uses] == [
        {"x"}, {relu}, {features, "other"}, {both},
    ]  # fmt: skip


@pytest.mark.parametrize("axes", [[0, 1], [1, 0]])
def test_an_output_without_rows_is_refused(tmp_path: Path, axes: list[int]) -> None:
    net = Net((4,))
    out = net.add("Transpose", net.x, perm=[1, 0]) if axes[0] else net.add("ReduceSum", net.x)
    with pytest.raises(Unsupported, match="is no tensor whose first axis is the batch"):
        layers_of(net.save(tmp_path / "m.onnx", out))

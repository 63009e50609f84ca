"""Small nets straight in ONNX, for tests. Equal seeds give equal weights."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper


class Net:
    """Builds a graph; methods append operators and return the name of the value that they make."""

    def __init__(
        self,
        shape: tuple[int, ...] = (3, 16, 16),
        *,
        rows: int | str = "rows",
        opset: int = 17,
        prefix: str = "",
    ) -> None:
        self.x = f"{prefix}x"
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self._inputs = [helper.make_tensor_value_info(self.x, TensorProto.FLOAT, [rows, *shape])]
        self._rows = rows
        self._opset = opset
        self._prefix = prefix
        self._names = (f"{prefix}v{i}" for i in itertools.count())

    def input(
        self,
        name: str,
        shape: tuple[int | str, ...],
        kind: int = TensorProto.FLOAT,
        *,
        whole: bool = False,
    ) -> str:
        """A further input; `whole`: without the axis of rows."""
        axes = [*shape] if whole else [self._rows, *shape]
        self._inputs.append(helper.make_tensor_value_info(name, kind, axes))
        return name

    def only(self, name: str, shape: tuple[int | str, ...], kind: int = TensorProto.FLOAT) -> str:
        """The one input, in place of the usual one, without an axis of rows."""
        self._inputs.clear()
        self.x = self.input(name, shape, kind, whole=True)
        return self.x

    def add(self, operator: str, *reads: str, **attributes: Any) -> str:
        made = next(self._names)
        self.nodes.append(helper.make_node(operator, reads, [made], name=made, **attributes))
        return made

    def add_all(self, operator: str, outputs: int, *reads: str, **attributes: Any) -> list[str]:
        made = [next(self._names) for _ in range(outputs)]
        self.nodes.append(helper.make_node(operator, reads, made, name=made[0], **attributes))
        return made

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        name = next(self._names)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, seed: int, *shape: int, scale: float = 0.1) -> str:
        values = np.random.default_rng([seed, *shape]).standard_normal(shape)
        return self.constant((scale * values).astype(np.float32))

    # --- pieces; `c` channels in, `to` channels out -------------------------------------------

    def conv(self, x: str, c: int, to: int, seed: int, stride: int = 1) -> str:
        kernel, bias = self.weight(seed, to, c, 3, 3), self.weight(seed, to)
        return self.add("Conv", x, kernel, bias, pads=[1, 1, 1, 1], strides=[stride, stride])

    def conv_relu(self, x: str, c: int, to: int, seed: int, stride: int = 1) -> str:
        return self.add("Relu", self.conv(x, c, to, seed, stride))

    def residual(self, x: str, c: int, seed: int) -> str:
        inner = self.conv(self.conv_relu(x, c, c, seed), c, c, seed + 1000)
        return self.add("Relu", self.add("Add", inner, x))

    def gemm(self, x: str, c: int, to: int, seed: int) -> str:
        return self.add("Gemm", x, self.weight(seed, c, to), self.weight(seed, to))

    def pool(self, x: str) -> str:
        return self.add("Flatten", self.add("GlobalAveragePool", x))

    def up(self, x: str) -> str:
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        return self.add("Resize", x, "", scales, mode="nearest")

    def attention(
        self, x: str, tokens: int, c: int, seed: int, heads: int = 2, bias: str = ""
    ) -> str:
        """Self-attention on (rows, tokens, c) with the number of rows computed from `self.x`.

        `bias` is added to the scores (rows, heads, tokens, tokens), as a mask is.
        """
        width = c // heads
        rows = self.rows()
        split = self.add(
            "Concat",
            rows,
            self.integers(tokens),
            self.integers(heads),
            self.integers(width),
            axis=0,
        )
        parts = [
            self.add(
                "Transpose",
                self.add("Reshape", self.add("MatMul", x, self.weight(seed + i, c, c)), split),
                perm=[0, 2, 3, 1] if i == 1 else [0, 2, 1, 3],
            )
            for i in range(3)
        ]
        scores = self.add("MatMul", parts[0], parts[1])
        scores = self.add("Softmax", self.add("Add", scores, bias) if bias else scores, axis=-1)
        mixed = self.add("Transpose", self.add("MatMul", scores, parts[2]), perm=[0, 2, 1, 3])
        merge = self.add("Concat", rows, self.integers(tokens), self.integers(c), axis=0)
        out = self.add("MatMul", self.add("Reshape", mixed, merge), self.weight(seed + 3, c, c))
        return self.add("Add", x, out)

    def mlp(self, x: str, c: int, seed: int) -> str:
        hidden = self.add("Relu", self.add("MatMul", x, self.weight(seed, c, 2 * c)))
        return self.add("Add", x, self.add("MatMul", hidden, self.weight(seed + 1, 2 * c, c)))

    def rows(self) -> str:
        """The number of rows, as exporters compute it: from the input of the model."""
        shape = self.add("Shape", self.x)
        one = self.add("Gather", shape, self.constant(np.array(0, np.int64)), axis=0)
        return self.add("Unsqueeze", one, self.integers(0))

    # --- the end ------------------------------------------------------------------------------

    def model(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            self._inputs,
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            self.weights,
        )
        opsets = [helper.make_opsetid("", self._opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def save(self, path: Path, *outputs: str) -> Path:
        onnx.save(self.model(*outputs), str(path))
        return path


def classifier(
    path: Path, stages: str, *, stem: int = 1, head: int = 0, width: int = 16, **options: Any
) -> Path:
    """A residual net with a block for each letter of `stages`: equal letters, equal weights."""
    net = Net(**options)
    x = net.conv_relu(net.x, 3, width, seed=stem)
    for letter in stages:
        x = net.residual(x, width, seed=ord(letter))
    return net.save(path, net.gemm(net.pool(x), width, 4, seed=500 + head))


def transformer(
    path: Path, stages: str, *, stem: int = 1, head: int = 0, width: int = 16, **options: Any
) -> Path:
    """A vision transformer: patches, a class token for each row, a block for each letter."""
    net = Net(**options)
    patches = net.add("Conv", net.x, net.weight(stem, width, 3, 8, 8), strides=[8, 8])
    flat = net.add(
        "Reshape", patches, net.add("Concat", net.rows(), net.integers(width, 4), axis=0)
    )
    tokens = net.add("Transpose", flat, perm=[0, 2, 1])
    shape = net.add("Concat", net.rows(), net.integers(1, width), axis=0)
    token = net.add("Expand", net.weight(3, 1, 1, width), shape)
    x = net.add("Add", net.add("Concat", token, tokens, axis=1), net.weight(4, 1, 5, width))
    for letter in stages:
        x = net.mlp(net.attention(x, 5, width, seed=10 * ord(letter)), width, seed=ord(letter))
    first = net.add("Gather", x, net.constant(np.array(0, np.int64)), axis=1)
    return net.save(path, net.gemm(first, width, 4, seed=500 + head))


def segmenter(path: Path, stages: str, *, width: int = 16, **options: Any) -> Path:
    """An encoder like that of `classifier`, at two resolutions, and a decoder with skips."""
    net = Net(**options)
    x = net.conv_relu(net.x, 3, width, seed=1)
    skips = []
    for letter in stages:
        x = net.residual(x, width, seed=ord(letter))
        skips.append(x)
        x = net.conv_relu(x, width, width, seed=2000 + ord(letter), stride=2)
    x = net.residual(x, width, seed=3000)
    for i, skip in enumerate(reversed(skips)):
        x = net.add("Concat", net.up(x), skip, axis=1)
        x = net.conv_relu(x, 2 * width, width, seed=4000 + i)
    return net.save(path, net.conv(x, width, 2, seed=5000))


def masked_encoder(path: Path, stages: str, *, pooled: bool, width: int = 16) -> Path:
    """A text encoder whose layers all read a mask; its head takes the first token, or the mean."""
    net = Net()
    ids = net.only("ids", ("rows", 5), TensorProto.INT64)
    mask = net.add("Cast", net.input("mask", (5,), TensorProto.INT64), to=TensorProto.FLOAT)
    hidden = net.add("Sub", net.constant(np.float32(1)), mask)
    large = net.add("Mul", hidden, net.constant(np.float32(-1e4)))
    bias = net.add("Unsqueeze", large, net.integers(1, 2))
    x = net.add("Gather", net.weight(1, 30, width, scale=1.0), ids)
    for letter in stages:
        seen = net.attention(x, 5, width, seed=10 * ord(letter), bias=bias)
        x = net.mlp(seen, width, seed=ord(letter))
    if pooled:
        kept = net.add("Mul", x, net.add("Unsqueeze", mask, net.integers(2)))
        x = net.add("ReduceMean", kept, axes=[1], keepdims=0)
    else:
        x = net.add("Gather", x, net.constant(np.array(0)), axis=1)
    return net.save(path, net.gemm(x, width, 4, seed=500 + pooled))

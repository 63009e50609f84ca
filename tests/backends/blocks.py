"""Small ONNX blocks for the tests of backends and of the device worker, with numpy twins."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edged.backends.base import BlockUse
from edged.backends.memory import Array
from edged.paths.layout import Tensor
from edged.store import SCHEMA
from edged.store_blocks import split

OPSET = 17


@dataclass(frozen=True)
class Block:
    data: bytes
    use: BlockUse
    twin: Callable[..., Sequence[Array]]  # the same in numpy

    @property
    def id(self) -> str:
        """That in a store of the newest schema."""
        return split(self.data, SCHEMA).block

    def write(self, folder: Path) -> Path:
        path = folder / f"{self.id}.onnx"
        path.write_bytes(self.data)
        return path


def block(
    nodes: Sequence[onnx.NodeProto],
    reads: Sequence[Sequence[int]],
    writes: Sequence[Sequence[int]],
    twin: Callable[..., Sequence[Array]],
    *,
    constants: Sequence[onnx.TensorProto] = (),
    rows: int | str = "rows",
) -> Block:
    """A block that reads x0, x1, .. and writes y0, y1, ..; shapes are without the row axis."""

    def infos(letter: str, shapes: Sequence[Sequence[int]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(f"{letter}{i}", TensorProto.FLOAT, [rows, *shape])
            for i, shape in enumerate(shapes)
        ]

    graph = helper.make_graph(
        list(nodes), "block", infos("x", reads), infos("y", writes), list(constants)
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    use = BlockUse(
        tuple(Tensor("FP32", tuple(shape)) for shape in reads),
        tuple(Tensor("FP32", tuple(shape)) for shape in writes),
    )
    return Block(model.SerializeToString(deterministic=True), use, twin)


def dense(inputs: int, outputs: int, *, seed: int = 0, relu: bool = True) -> Block:
    """y0 = relu(x0 @ w + b)"""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((inputs, outputs)).astype(np.float32)
    b = rng.standard_normal(outputs).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x0", "w", "b"], ["h" if relu else "y0"]),
        *([helper.make_node("Relu", ["h"], ["y0"])] if relu else []),
    ]

    def twin(x0: Array) -> Sequence[Array]:
        h = x0 @ w + b
        return [np.maximum(h, 0) if relu else h]

    constants = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")]
    return block(nodes, [(inputs,)], [(outputs,)], twin, constants=constants)


def rotations(size: int, count: int) -> Block:
    """y0 = x0 @ q @ q @ ..., q a rotation: `count` sets how long it takes, with few weights."""
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0].astype(np.float32)
    names = ["x0", *(f"h{step}" for step in range(1, count)), "y0"]
    nodes = [
        helper.make_node("MatMul", [before, "q"], [after])
        for before, after in itertools.pairwise(names)
    ]

    def twin(x0: Array) -> Sequence[Array]:
        for _ in range(count):
            x0 = x0 @ q
        return [x0]

    return block(nodes, [(size,)], [(size,)], twin, constants=[numpy_helper.from_array(q, "q")])


def mean_of_image(channels: int = 3, size: int = 4, *, seed: int = 0) -> Block:
    """An image (channels, size, size) to the mean of each channel, scaled: (channels,)."""
    scale = np.random.default_rng(seed).standard_normal(channels).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["x0"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["m", "scale"], ["y0"]),
    ]
    constants = [numpy_helper.from_array(scale, "scale")]
    shapes = [(channels, size, size)], [(channels,)]
    return block(nodes, *shapes, lambda x0: [x0.mean(axis=(2, 3)) * scale], constants=constants)


def sum_and_difference(size: int) -> Block:
    """y0 = x0 + x1, y1 = x0 - x1"""
    nodes = [
        helper.make_node("Add", ["x0", "x1"], ["y0"]),
        helper.make_node("Sub", ["x0", "x1"], ["y1"]),
    ]
    shapes = [(size,), (size,)], [(size,), (size,)]
    return block(nodes, *shapes, lambda x0, x1: [x0 + x1, x0 - x1])


def sum_of_image() -> Block:
    """An image of any size (height, width) to the sum of its pixels."""
    nodes = [helper.make_node("ReduceSum", ["x0", "axes"], ["y0"], keepdims=0)]
    axes = numpy_helper.from_array(np.array([1, 2], np.int64), "axes")
    shapes = [(1, 1)], [()]
    found = block(nodes, *shapes, lambda x0: [x0.sum(axis=(1, 2))], constants=[axes])
    model = onnx.load_from_string(found.data)
    for axis in (1, 2):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "any"
    return Block(model.SerializeToString(deterministic=True), found.use, found.twin)


def one_row_only(size: int) -> Block:
    """y0 = -x0, exported for a batch of one."""
    nodes = [helper.make_node("Neg", ["x0"], ["y0"])]
    return block(nodes, [(size,)], [(size,)], lambda x0: [-x0], rows=1)


def fails_on_large_values() -> Block:
    """y0 = x0 for values below 1; looks up row int(x0) of a table of one row, so others fail."""
    table = numpy_helper.from_array(np.zeros((1, 1), np.float32), "table")
    nodes = [
        helper.make_node("Cast", ["x0"], ["index"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["index", "axis"], ["flat"]),
        helper.make_node("Gather", ["table", "flat"], ["found"]),
        helper.make_node("Add", ["found", "x0"], ["y0"]),
    ]
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    return block(nodes, [(1,)], [(1,)], lambda x0: [x0], constants=[table, axis])

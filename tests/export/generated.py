"""Small numbered nets whose rows are independent or coupled, or whose extents depend on the data.

Each is a trunk of a few random pieces, with one gadget among them, which couples rows or turns data
into an extent. The gadget keeps the shape of its input, so it can be anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto

from tests.export.nets import Net

INPUTS = {"vector": (12,), "tokens": (4, 8), "image": (3, 8, 8)}


class Maker:
    """A net that grows; `x` is its latest value and `shape` its extents without the rows."""

    def __init__(self, number: int, kind: str, rows: int | str) -> None:
        self.random = np.random.default_rng([7, number])
        self.shape = INPUTS[kind]
        self.net = Net(self.shape, rows=rows)
        self.x = self.net.x
        self.free = rows != 1

    def do(self, operator: str, *reads: str, **attributes: object) -> str:
        return self.net.add(operator, *reads, **attributes)

    def ints(self, *values: int) -> str:
        return self.net.integers(*values)

    def number(self, value: float) -> str:
        return self.net.constant(np.array(value, np.float32))

    def scalar(self, value: int) -> str:
        return self.net.constant(np.array(value, np.int64))

    def weight(self, *shape: int) -> str:
        return self.net.weight(int(self.random.integers(10**6)), *shape, scale=0.4)

    def flat(self) -> str:
        return self.do("Flatten", self.x)

    @property
    def width(self) -> int:
        return int(np.prod(self.shape))

    def shaped(self, flat: str) -> str:
        """(rows, width) in the present shape."""
        return self.do("Reshape", flat, self.ints(-1 if self.free else 1, *self.shape))

    def shaped_one(self, column: str) -> str:
        """(rows, 1) with as many axes as x."""
        return self.do("Reshape", column, self.ints(-1 if self.free else 1, *[1] * len(self.shape)))

    def mix(self, other: str) -> None:
        """Add a share of what a gadget has made of x."""
        share = self.number(float(self.random.choice([1.0, 0.3, 0.02])))
        self.x = self.do("Add", self.x, self.do("Mul", other, share))


# --- pieces of which no row depends on another ----------------------------------------------------


def dense(m: Maker) -> None:
    c = m.shape[-1]
    m.x = m.do("Relu", m.do("Add", m.do("MatMul", m.x, m.weight(c, c)), m.weight(c)))


def normed(m: Maker) -> None:
    c = m.shape[-1]
    m.x = m.do("LayerNormalization", m.x, m.weight(c), m.weight(c), axis=-1)


def softmaxed(m: Maker) -> None:
    m.mix(m.do("Softmax", m.x, axis=int(m.random.choice([-1, len(m.shape)]))))


def gated(m: Maker) -> None:
    above = m.do("Greater", m.x, m.number(0.3))
    m.x = m.do("Where", above, m.x, m.do("Mul", m.x, m.number(0.1)))


def centred(m: Maker) -> None:
    """A norm as many exporters write it: with plain operators, over all axes but the rows."""
    axes = list(range(1, len(m.shape) + 1))
    mean = m.do("ReduceMean", m.x, axes=axes, keepdims=1)
    low = m.do("Sub", m.x, mean)
    power = m.do("ReduceMean", m.do("Mul", low, low), axes=axes, keepdims=1)
    m.x = m.do("Div", low, m.do("Sqrt", m.do("Add", power, m.number(1e-3))))


def summed_up(m: Maker) -> None:
    m.mix(m.do("CumSum", m.x, m.scalar(len(m.shape))))


def ranked(m: Maker) -> None:
    c = m.shape[-1]
    best, _ = m.net.add_all("TopK", 2, m.x, m.ints(c), axis=-1)
    m.mix(best)


def folded_heads(m: Maker) -> None:
    """Join the rows and another axis, and split them again, by shapes that are computed."""
    c = m.shape[-1]
    many = m.do("Reshape", m.x, m.ints(-1, c // 2))
    many = m.do("MatMul", m.do("Softmax", many, axis=-1), m.weight(c // 2, c // 2))
    target = m.do("Concat", m.net.rows(), m.ints(*m.shape), axis=0)
    m.mix(m.do("Reshape", many, target))


def token(m: Maker) -> None:
    """Put one weight in front of every row, and remove it again."""
    shape = m.do("Concat", m.net.rows(), m.ints(1, m.width), axis=0)
    every = m.do("Expand", m.weight(1, 1, m.width), shape)
    pair = m.do("Concat", every, m.do("Unsqueeze", m.flat(), m.ints(1)), axis=1)
    mixed = m.do("MatMul", m.do("Softmax", pair, axis=1), m.weight(m.width, m.width))
    m.mix(m.shaped(m.do("Gather", mixed, m.scalar(1), axis=1)))


def chosen_of_row(m: Maker) -> None:
    """A part of each row that its own content chooses, as text encoders take their last token."""
    best = m.do("ArgMax", m.flat(), axis=1, keepdims=1)
    m.mix(m.do("Mul", m.x, m.shaped_one(m.do("GatherElements", m.flat(), best, axis=1))))


def convolved(m: Maker) -> None:
    c = m.shape[0]
    m.x = m.do("Relu", m.do("Conv", m.x, m.weight(c, c, 3, 3), pads=[1, 1, 1, 1]))


def instances(m: Maker) -> None:
    c = m.shape[0]
    m.x = m.do("InstanceNormalization", m.x, m.weight(c), m.weight(c))


def pooled(m: Maker) -> None:
    m.mix(m.do("MaxPool", m.x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))


def resized(m: Maker) -> None:
    up = m.do("Resize", m.x, "", m.net.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    m.x = m.do("AveragePool", up, kernel_shape=[2, 2], strides=[2, 2])


def windows(m: Maker) -> None:
    """Cut all rows into windows along the batch axis, and join them again, as Swin does."""
    c, h, w = m.shape
    cut = m.do("Reshape", m.x, m.ints(-1, c, 2, h // 2, 2, w // 2))
    turned = m.do("Transpose", cut, perm=[0, 2, 4, 3, 5, 1])
    flat = m.do("Reshape", turned, m.ints(-1, h * w // 4, c))
    scores = m.do("Softmax", m.do("MatMul", flat, m.do("Transpose", flat, perm=[0, 2, 1])), axis=-1)
    mixed = m.do("MatMul", scores, flat)
    back = m.do("Reshape", mixed, m.ints(-1, 2, 2, h // 2, w // 2, c))
    turned = m.do("Transpose", back, perm=[0, 5, 1, 3, 2, 4])
    m.mix(m.do("Reshape", turned, m.ints(-1, c, h, w)))


ANY: list[Callable[[Maker], None]] = [
    dense, normed, softmaxed, gated, centred, summed_up, ranked, folded_heads, token, chosen_of_row,
]  # fmt: skip
IMAGE = [convolved, instances, pooled, resized, windows]


# --- gadgets that couple rows ---------------------------------------------------------------------


def batch_mean(m: Maker) -> str:
    return m.do("Sub", m.x, m.do("ReduceMean", m.x, axes=[0], keepdims=1))


def by_the_brightest(m: Maker) -> str:
    size = m.do("ReduceMax", m.do("Abs", m.x), keepdims=0)
    return m.do("Div", m.x, m.do("Add", size, m.number(1e-3)))


def quantised(m: Maker) -> str:
    q, scale, zero = m.net.add_all("DynamicQuantizeLinear", 3, m.x)
    return m.do("DequantizeLinear", q, scale, zero)


def softmax_of_rows(m: Maker) -> str:
    return m.do("Softmax", m.x, axis=0)


def softmax_of_all(m: Maker) -> str:
    return m.do("Reshape", m.do("Softmax", m.do("Reshape", m.x, m.ints(-1)), axis=0),
                m.ints(-1, *m.shape))  # fmt: skip


def running_sum(m: Maker) -> str:
    return m.do("CumSum", m.x, m.scalar(0))


def sorted_rows(m: Maker) -> str:
    count = m.net.rows()
    best, _ = m.net.add_all("TopK", 2, m.x, count, axis=0)
    return best


def attention_over_rows(m: Maker) -> str:
    flat = m.flat()
    scores = m.do("MatMul", flat, m.do("Transpose", flat, perm=[1, 0]))
    return m.shaped(m.do("MatMul", m.do("Softmax", scores, axis=-1), flat))


def rolled(m: Maker) -> str:
    rest = m.do("Slice", m.x, m.ints(1), m.ints(2**31), m.ints(0))
    first = m.do("Slice", m.x, m.ints(0), m.ints(1), m.ints(0))
    return m.do("Concat", rest, first, axis=0)


def reversed_rows(m: Maker) -> str:
    return m.do("Slice", m.x, m.ints(-1), m.ints(-(2**31)), m.ints(0), m.ints(-1))


def interleaved(m: Maker) -> str:
    return m.shaped(m.do("Transpose", m.do("Reshape", m.flat(), m.ints(m.width, -1)), perm=[1, 0]))


def training_norm(m: Maker) -> str:
    c = m.shape[0]
    ones, zeros = (m.net.constant(np.full(c, n, np.float32)) for n in (1, 0))
    made = m.net.add_all(
        "BatchNormalization", 3, m.x, ones, zeros, zeros, ones, training_mode=1, epsilon=1e-2
    )
    return made[0]


def first_row(m: Maker) -> str:
    return m.do("Sub", m.x, m.do("Slice", m.x, m.ints(0), m.ints(1), m.ints(0)))


def best_row(m: Maker) -> str:
    best = m.do("ArgMax", m.x, axis=0, keepdims=0)
    return m.do("Sub", m.x, m.do("GatherElements", m.x, m.do("Unsqueeze", best, m.ints(0)), axis=0))


def over_the_count(m: Maker) -> str:
    return m.do("Div", m.x, m.do("Cast", m.net.rows(), to=TensorProto.FLOAT))


def numbered(m: Maker) -> str:
    count = m.do("Squeeze", m.net.rows(), m.ints(0))
    numbers = m.do("Range", m.scalar(0), count, m.scalar(1))
    column = m.do("Reshape", numbers, m.ints(-1, *[1] * len(m.shape)))
    return m.do("Mul", m.x, m.do("Cast", column, to=TensorProto.FLOAT))


def across_rows(m: Maker) -> str:
    """A convolution whose window slides over the rows."""
    lying = m.do("Unsqueeze", m.do("Transpose", m.flat(), perm=[1, 0]), m.ints(0))
    seen = m.do("Conv", lying, m.weight(m.width, m.width, 3), pads=[1, 1])
    return m.shaped(m.do("Transpose", m.do("Squeeze", seen, m.ints(0)), perm=[1, 0]))


def in_sequence(m: Maker) -> str:
    """A recurrent net whose time axis is the rows."""
    width = m.width
    series = m.do("Unsqueeze", m.flat(), m.ints(1))
    made = m.do(
        "GRU", series, m.weight(1, 3 * width, width), m.weight(1, 3 * width, width),
        hidden_size=width,
    )  # fmt: skip
    return m.shaped(m.do("Reshape", made, m.ints(-1, width)))


def mean_and_variance(m: Maker) -> str:
    image = m.do("Unsqueeze", m.flat(), m.ints(1, 2))
    return m.shaped(m.do("Flatten", m.do("MeanVarianceNormalization", image)))


def normed_rows(m: Maker) -> str:
    return m.do("LpNormalization", m.do("Add", m.x, m.number(0.1)), axis=0, p=2)


def beside_a_large_channel(m: Maker) -> str:
    """Scores relative to the whole batch, beside boxes in pixels, which are large."""
    sized = m.do("Mul", m.do("Sigmoid", m.flat()), m.number(640.0))
    scores = m.do("Softmax", m.flat(), axis=0)
    both = m.do("Concat", sized, scores, axis=1)
    return m.shaped(m.do("MatMul", both, m.weight(2 * m.width, m.width)))


def summed_products(m: Maker) -> str:
    total = m.do("Einsum", m.flat(), equation="nc->c")
    return m.shaped(m.do("Mul", m.flat(), total))


COUPLED: list[Callable[[Maker], str]] = [
    batch_mean, by_the_brightest, quantised, softmax_of_rows, softmax_of_all, running_sum,
    sorted_rows, attention_over_rows, rolled, reversed_rows, interleaved, training_norm, first_row,
    best_row, over_the_count, numbered, across_rows, in_sequence, mean_and_variance, normed_rows,
    beside_a_large_channel, summed_products,
]  # fmt: skip


# --- gadgets with extents that the data decides ---------------------------------------------------


def _count(m: Maker) -> str:
    """How many elements are above a threshold that random input rarely reaches: int64 [1]."""
    hot = m.do("Greater", m.x, m.number(float(m.random.choice([0.5, 4.0, 30.0]))))
    shape = m.do("Shape", m.do("NonZero", hot))
    return m.do("Gather", shape, m.ints(1))


def _above(m: Maker, count: str) -> str:
    """x times a factor that depends on a count, which is int64 [1]."""
    total = m.do("Add", m.do("Cast", count, to=TensorProto.FLOAT), m.number(1.0))
    return m.do("Div", m.x, total)


def counted(m: Maker) -> str:
    return _above(m, _count(m))


def counted_by_size(m: Maker) -> str:
    hot = m.do("NonZero", m.do("Greater", m.x, m.number(4.0)))
    return _above(m, m.do("Unsqueeze", m.do("Size", hot), m.ints(0)))


def counted_different(m: Maker) -> str:
    whole = m.do("Cast", m.do("Clip", m.x, m.number(-3), m.number(50)), to=TensorProto.INT64)
    return _above(m, m.do("Shape", m.net.add_all("Unique", 1, whole)[0]))


def compressed(m: Maker) -> str:
    flat = m.do("Reshape", m.x, m.ints(-1))
    kept = m.do("Compress", flat, m.do("Greater", flat, m.number(3.0)))
    return _above(m, m.do("Shape", m.do("Concat", kept, m.net.weight(1, 1), axis=0)))


def best_few(m: Maker) -> str:
    """The smallest of the best k elements as a threshold; the data decides k."""
    flat = m.do("Reshape", m.x, m.ints(-1))
    k = m.do("Min", m.do("Add", _count(m), m.ints(1)), m.ints(5))
    best, _ = m.net.add_all("TopK", 2, flat, k)
    return m.do("Sub", m.x, m.do("ReduceMin", best, keepdims=0))


def first_few(m: Maker) -> str:
    flat = m.do("Reshape", m.x, m.ints(-1))
    end = m.do("Add", _count(m), m.ints(1))
    part = m.do("Slice", flat, m.ints(0), end, m.ints(0))
    return m.do("Sub", m.x, m.do("ReduceMean", part, keepdims=0))


def sum_of_range(m: Maker) -> str:
    end = m.do("Squeeze", _count(m), m.ints(0))
    numbers = m.do("Range", m.scalar(0), m.do("Add", end, m.scalar(1)), m.scalar(1))
    return _above(m, m.do("Reshape", m.do("ReduceMax", numbers, keepdims=0), m.ints(1)))


def tiled(m: Maker) -> str:
    copies = m.do("Tile", m.ints(1), m.do("Add", _count(m), m.ints(1)))
    return _above(m, m.do("ReduceSum", copies, m.ints(0), keepdims=1))


def boxes(m: Maker) -> str:
    """The number of boxes that survive suppression."""
    size = m.width // 4 * 4
    flat = m.do("Reshape", m.x, m.ints(-1))
    part = m.do("Slice", flat, m.ints(0), m.ints(size), m.ints(0))
    corners = m.do("Reshape", part, m.ints(1, -1, 4))
    scores = m.do("ReduceMax", corners, axes=[2], keepdims=0)
    kept = m.do(
        "NonMaxSuppression", corners, m.do("Unsqueeze", scores, m.ints(1)), m.scalar(50),
        m.number(0.3), m.number(2.5),
    )  # fmt: skip
    return _above(m, m.do("Gather", m.do("Shape", kept), m.ints(0)))


def is_there_any(m: Maker) -> str:
    some = m.do("Greater", _count(m), m.ints(0))
    return m.do("Where", some, m.do("Neg", m.x), m.x)


DATA_SIZED: list[Callable[[Maker], str]] = [
    counted, counted_by_size, counted_different, compressed, best_few, first_few, sum_of_range,
    tiled, boxes, is_there_any,
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    """The choices that make one net."""

    number: int
    gadget: str  # empty if rows are independent and no extent depends on the data
    kind: str  # kind of input
    free: bool  # whether the file leaves the number of rows open
    lengths: bool  # whether the gadget turns data into an extent


def recipe(number: int) -> Recipe:
    """The recipe of a number: half are plain, 3 of 10 coupled, 2 of 10 have extents of the data."""
    kind = list(INPUTS)[number % 3]
    free = number % 4 != 3
    turn = number // 10
    if number % 10 < 5:
        return Recipe(number, "", kind, free, lengths=False)
    if number % 10 < 8:
        gadget = COUPLED[(3 * turn + number % 10) % len(COUPLED)]
        return Recipe(number, gadget.__name__, kind, free, lengths=False)
    gadget = DATA_SIZED[(2 * turn + number % 10) % len(DATA_SIZED)]
    return Recipe(number, gadget.__name__, kind, free, lengths=True)


def build(one: Recipe, folder: Path) -> Path:
    """The ONNX file of a recipe."""
    m = Maker(one.number, one.kind, "rows" if one.free else 1)
    pieces = ANY + (IMAGE if one.kind == "image" else [])
    gadgets = {gadget.__name__: gadget for gadget in (*COUPLED, *DATA_SIZED)}
    if one.lengths:  # the gadget reads the input, whose range is known, so that lengths differ
        m.mix(gadgets[one.gadget](m))
    count = int(m.random.integers(2, 5))
    at = int(m.random.integers(count))
    for i in range(count):
        pieces[int(m.random.integers(len(pieces)))](m)
        if i == at and one.gadget and not one.lengths:
            m.mix(gadgets[one.gadget](m))
    out = m.do("MatMul", m.flat(), m.weight(m.width, 5))
    return m.net.save(folder / f"m{one.number}.onnx", out)

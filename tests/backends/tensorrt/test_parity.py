"""The gate finds what is wrong, and by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edged.backends.tensorrt import parity, recipe
from edged.backends.tensorrt.orders import Port
from tests.backends.blocks import block, dense

X = (Port("x0", "FP32", (None, 8)),)
WANTED = np.random.default_rng(0).standard_normal((200, 5))


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (WANTED, ""),
        (WANTED + 1e-4, ""),
        (np.where(WANTED > 3, np.inf, WANTED), "values overflow"),
        (np.where(np.arange(200)[:, None] == 7, -WANTED, WANTED), "cosine -1.0000"),
        (WANTED * 1.2, "of the range"),
    ],
)
def test_what_is_wrong_is_named(found, says: str) -> None:
    verdict = parity.verdict(parity.compare([WANTED], [found]))
    assert says in verdict
    assert bool(says) == bool(verdict)


def test_another_best_class_in_one_of_a_hundred_rows_is_let_pass() -> None:
    near = np.tile([1.0, 1.0 + 1e-6, 0.0], (200, 1))
    for rows, says in ((2, ""), (3, "another best class in 1.5% of the rows")):
        found = near.copy()
        found[:rows, 0] += 2e-6
        assert parity.verdict(parity.compare([near], [found])) == says


def test_halves_pass_where_they_are_enough() -> None:
    data = dense(8, 5).data
    typed = recipe.typed(onnx.load_from_string(data)).SerializeToString()
    found, wrong = parity.judge(data, typed, X)
    assert wrong == ""
    assert found.rows >= parity.ROWS
    assert 0 < found.difference < parity.DIFFERENCE


def test_sums_that_overflow_halves_are_found() -> None:
    big = numpy_helper.from_array(np.full((8, 8), 3e4, np.float32), "w")
    small = numpy_helper.from_array(np.full((8, 8), 1e-5, np.float32), "v")
    nodes = [
        helper.make_node("MatMul", ["x0", "w"], ["big"]),
        helper.make_node("MatMul", ["big", "v"], ["y0"]),
    ]
    data = block(nodes, [(8,)], [(8,)], lambda x0: [x0], constants=[big, small]).data
    typed = recipe.typed(onnx.load_from_string(data)).SerializeToString()
    assert parity.judge(data, typed, X)[1] == "values overflow"

"""The gate finds what is wrong, and by name."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from edged.backends.tensorrt import closeness, parity, recipe, rounding
from edged.backends.tensorrt.orders import EnginePort
from tests.backends.blocks import block, dense

X = (EnginePort("x0", "FP32", (None, 8)),)
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
    verdict = closeness.verdict(closeness.compare([WANTED], [found]))
    assert says in verdict
    assert bool(says) == bool(verdict)


def test_another_best_class_in_one_of_a_hundred_rows_is_let_pass() -> None:
    wanted = np.tile([1.0, 1.012, 0.0], (200, 1))
    for rows, says in ((2, ""), (3, "another best class in 1.5% of the rows")):
        found = wanted.copy()
        found[:rows, 0] += 0.019
        assert closeness.verdict(closeness.compare([wanted], [found])) == says


def test_which_of_two_equal_values_is_the_best_one_is_not_asked() -> None:
    """Features are no classes: that two of them swap places is no fault."""
    wanted = np.tile([1.0, 1.001, 0.0], (200, 1))
    found = wanted + np.array([0.002, 0.0, 0.0])
    assert closeness.verdict(closeness.compare([wanted], [found])) == ""


def test_halves_pass_where_they_are_enough() -> None:
    original = onnx.load_from_string(dense(8, 5).data)
    found, wrong, rows = parity.judge(original, recipe.typed(original), X)
    assert wrong == ""
    assert rows.keys() == {"x0", "y0"}
    assert found.rows >= parity.ROWS
    assert 0 < found.difference < closeness.DIFFERENCE


def test_sums_that_overflow_halves_are_found() -> None:
    big = numpy_helper.from_array(np.full((8, 8), 3e4, np.float32), "w")
    small = numpy_helper.from_array(np.full((8, 8), 1e-5, np.float32), "v")
    nodes = [
        helper.make_node("MatMul", ["x0", "w"], ["big"]),
        helper.make_node("MatMul", ["big", "v"], ["y0"]),
    ]
    data = block(nodes, [(8,)], [(8,)], lambda x0: [x0], constants=[big, small]).data
    original = onnx.load_from_string(data)
    assert parity.judge(original, recipe.typed(original), X).wrong == "values overflow"


def test_each_half_is_rounded_once_more() -> None:
    """2049 is no half: what lies between two operators becomes 2048, as on a device."""
    one = numpy_helper.from_array(np.float32(1), "one")
    nodes = [
        helper.make_node("Add", ["x0", "one"], ["more"]),
        helper.make_node("Sub", ["more", "one"], ["y0"]),
    ]
    original = onnx.load_from_string(
        block(nodes, [(1,)], [(1,)], lambda x0: [x0], constants=[one]).data
    )
    x = np.array([[2048]], np.float32)
    found = [
        ort.InferenceSession(model.SerializeToString()).run(None, {"x0": x})[0][0, 0]
        for model in (original, rounding.rounded(recipe.typed(original)))
    ]
    assert found == [2048, 2047]

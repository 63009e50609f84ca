"""The recipe: which operators compute in FP16, and that graphs stay right."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.backends.tensorrt import facts, recipe
from edged.errors import Unsupported
from tests.backends.blocks import dense, mean_of_image, sum_and_difference

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def model(nodes, inputs, outputs, constants=(), opset: int = 17) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "block", inputs, outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def value(name: str, *shape, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, ["rows", *shape])


def constant(name: str, array) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def run(found: onnx.ModelProto, **feeds) -> list[np.ndarray]:
    session = ort.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def types(found: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value, as a strongly typed network has it."""
    of = onnx.shape_inference.infer_shapes(found, check_type=True, strict_mode=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*of.input, *of.value_info, *of.output)}


def kinds(found: onnx.ModelProto) -> dict[str, int]:
    """The type in which each kind of operator computes."""
    known = types(found)
    return {n.op_type: known[n.output[0]] for n in found.graph.node if n.op_type != "Cast"}


@pytest.mark.parametrize("block", [dense(6, 4), mean_of_image(), sum_and_difference(5)])
def test_it_computes_nearly_the_same(block) -> None:
    original = onnx.load_from_string(block.data)
    typed = recipe.typed(original)
    rng = np.random.default_rng(0)
    feeds = {
        f"x{i}": rng.random((3, *t.shape), dtype=np.float32) for i, t in enumerate(block.use.reads)
    }
    for one, other in zip(run(original, **feeds), run(typed, **feeds), strict=True):
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, one, rtol=2e-3, atol=2e-3)


def test_products_are_halves_and_borders_are_not() -> None:
    typed = recipe.typed(onnx.load_from_string(dense(6, 4).data))
    assert kinds(typed) == {"Gemm": HALF, "Relu": HALF}
    assert types(typed)["x0"] == types(typed)["y0"] == FLOAT
    assert {tensor.data_type for tensor in typed.graph.initializer} == {HALF}


def test_norms_sums_and_what_divides_by_them_stay_floats() -> None:
    nodes = [
        helper.make_node("LayerNormalization", ["x0", "scale"], ["n"], axis=-1),
        helper.make_node("MatMul", ["n", "w"], ["m"]),
        helper.make_node("Softmax", ["m"], ["s"]),
        helper.make_node("ReduceL2", ["s"], ["r"], axes=[1], keepdims=1),
        helper.make_node("Clip", ["r", "low"], ["c"]),
        helper.make_node("Div", ["s", "c"], ["d"]),
        helper.make_node("Mul", ["d", "d"], ["y0"]),
    ]
    constants = [
        constant("scale", np.ones(4, np.float32)),
        constant("w", np.eye(4, dtype=np.float32)),
        constant("low", np.float32(1e-12)),
    ]
    typed = recipe.typed(model(nodes, [value("x0", 4)], [value("y0", 4)], constants))
    found = kinds(typed)
    assert {op for op, kind in found.items() if kind == HALF} == {"MatMul", "Mul"}
    assert np.isfinite(run(typed, x0=np.zeros((1, 4), np.float32))[0]).all()


def test_the_arithmetic_of_positions_stays_exact() -> None:
    """3001 is not a half: a position computed in halves would be another one."""
    nodes = [
        helper.make_node("Shape", ["x0"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["extent"]),
        helper.make_node("Cast", ["extent"], ["float"], to=FLOAT),
        helper.make_node("Mul", ["float", "unit"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["back"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["back", "axis"], ["list"]),
        helper.make_node("Expand", ["row", "list"], ["wide"]),
        helper.make_node("Add", ["x0", "wide"], ["y0"]),
    ]
    constants = [
        constant("one", np.int64(1)), constant("unit", np.float32(1)),
        constant("axis", np.array([0])), constant("row", np.zeros(1, np.float32)),
    ]  # fmt: skip
    typed = recipe.typed(model(nodes, [value("x0", 3001)], [value("y0", 3001)], constants))
    assert run(typed, x0=np.ones((2, 3001), np.float32))[0].shape == (2, 3001)
    assert kinds(typed)["Add"] == HALF


def test_an_output_that_others_read_is_rounded_once() -> None:
    """Softmax is computed in FP32 and leaves as such, though a half of it goes on."""
    nodes = [
        helper.make_node("Softmax", ["x0"], ["y0"]),
        helper.make_node("MatMul", ["y0", "w"], ["y1"]),
    ]
    w = constant("w", np.eye(3, dtype=np.float32))
    original = model(nodes, [value("x0", 3)], [value("y0", 3), value("y1", 3)], [w])
    x = np.array([[0.1, 0.2, 0.3]], np.float32)
    one, other = run(original, x0=x), run(recipe.typed(original), x0=x)
    np.testing.assert_array_equal(other[0], one[0])


def test_a_weight_that_both_read_is_there_twice() -> None:
    nodes = [
        helper.make_node("Mul", ["x0", "w"], ["m"]),
        helper.make_node("Pow", ["m", "w"], ["y0"]),
    ]
    w = constant("w", np.full(3, 2.0, np.float32))
    typed = recipe.typed(model(nodes, [value("x0", 3)], [value("y0", 3)], [w]))
    assert sorted(tensor.data_type for tensor in typed.graph.initializer) == [FLOAT, HALF]
    np.testing.assert_array_equal(run(typed, x0=np.ones((1, 3), np.float32))[0], [[4, 4, 4]])


def test_a_graph_inside_an_operator_is_refused() -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x0"], ["z"])], "inner", [], [value("z", 3)]
    )
    nodes = [helper.make_node("If", ["flag"], ["y0"], then_branch=inner, else_branch=inner)]
    flag = constant("flag", np.bool_(True))
    with pytest.raises(Unsupported, match="If holds a graph"):
        recipe.typed(model(nodes, [value("x0", 3)], [value("y0", 3)], [flag]))


def test_the_key_names_the_recipe() -> None:
    assert facts._RECIPE == recipe.VERSION

"""Linear heads: which blocks are one, and that the engine's graph computes them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edged.backends.tensorrt import linear
from edged.backends.tensorrt.orders import CLASSES, HeadShape
from tests.backends.blocks import dense, mean_of_image, sum_and_difference

RNG = np.random.default_rng(0)


def head(nodes, *, classes: int = 5, kind: int = TensorProto.FLOAT, weights=None, bias=None):
    w = RNG.standard_normal((classes, 3)).astype(np.float32) if weights is None else weights
    b = RNG.standard_normal(classes).astype(np.float32) if bias is None else bias
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x0", kind, ["rows", 3])],
        [helper.make_tensor_value_info("y0", TensorProto.FLOAT, ["rows", classes])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


GEMM = helper.make_node("Gemm", ["x0", "w", "b"], ["y0"], transB=1)
CAST = helper.make_node("Cast", ["x0"], ["f"], to=TensorProto.FLOAT)


def run(model: onnx.ModelProto, **feeds):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


HEADS = {
    "gemm": head([GEMM]),
    "transposed": onnx.load_from_string(dense(3, 5, relu=False).data),
    "matmul and add": head(
        [
            helper.make_node("MatMul", ["x0", "w"], ["m"]),
            helper.make_node("Add", ["b", "m"], ["y0"]),
        ],
        weights=RNG.standard_normal((3, 5)).astype(np.float32),
    ),
    "no bias": head(
        [helper.make_node("MatMul", ["x0", "w"], ["y0"])], weights=np.ones((3, 5), "f")
    ),
    "features are halves": head(
        [CAST, helper.make_node("Gemm", ["f", "w", "b"], ["y0"], transB=1)],
        kind=TensorProto.FLOAT16,
    ),
}


@pytest.mark.parametrize("model", HEADS.values(), ids=HEADS)
def test_a_head_computes_the_same_in_the_engine_of_all_heads(model: onnx.ModelProto) -> None:
    found = linear.find(model)
    assert found is not None
    assert found.shape.features == 3
    assert found.shape.most_classes == CLASSES[0]
    half = found.shape.datatype == "FP16"
    x = RNG.standard_normal((4, 3)).astype(np.float16 if half else np.float32)
    engine = linear.engine_model(found.shape)
    onnx.checker.check_model(engine, full_check=True)
    got = run(engine, x0=x, w=found.weights, b=found.biases)
    np.testing.assert_allclose(got, run(model, x0=x), rtol=1e-5, atol=1e-6)


OTHERS = {
    "a relu follows": onnx.load_from_string(dense(3, 5).data),
    "no product": onnx.load_from_string(mean_of_image().data),
    "two inputs": onnx.load_from_string(sum_and_difference(5).data),
    "scaled": head([helper.make_node("Gemm", ["x0", "w", "b"], ["y0"], transB=1, alpha=2.0)]),
    "weights of the request": head(
        [helper.make_node("MatMul", ["w", "x0"], ["y0"])], classes=3, weights=np.ones((3, 3), "f")
    ),
    "too many classes": head(
        [GEMM], classes=CLASSES[-1] + 1, weights=np.ones((CLASSES[-1] + 1, 3), "f")
    ),
}


@pytest.mark.parametrize("model", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_no_head(model: onnx.ModelProto) -> None:
    assert linear.find(model) is None


def test_many_classes_have_an_engine_of_their_own() -> None:
    found = linear.find(head([GEMM], classes=CLASSES[0] + 1))
    assert found is not None
    assert found.shape == HeadShape(3, "FP32", CLASSES[1])
    assert found.shape.id != HeadShape(3, "FP32", CLASSES[0]).id

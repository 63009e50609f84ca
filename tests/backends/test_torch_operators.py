"""Each operator of the torch backend against ONNX Runtime, and whole exported models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edged.backends.torch_graph import TorchGraph, load
from edged.backends.torch_operators import OPERATORS
from edged.errors import StoreError, Unsupported

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass
class Case:
    """An operator of `values`, the graph's inputs, and `constants`, None for an absent input."""

    operator: str
    values: list[np.ndarray]
    constants: list[np.ndarray | None] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 20

    def __str__(self) -> str:
        return " ".join([self.operator, *(f"{k}={v}" for k, v in self.attributes.items())])


X, POSITIVE, IMAGE = floats(3, 4, 5), np.abs(floats(3, 4, 5)) + 0.1, floats(2, 4, 9, 8)
YES = floats(3, 4, 5) > 0
UNARY = [
    *("Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Flatten", "Floor", "Gelu", "HardSigmoid"),
    *("HardSwish", "Identity", "IsNaN", "LeakyRelu", "LogSoftmax", "Mish", "Neg", "Relu"),
    *("Round", "Selu", "Shape", "Sigmoid", "Sign", "Sin", "Size", "Softmax", "Softplus"),
    *("Tanh", "Transpose"),
]
BINARY = [
    *("Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mul"),
    *("PRelu", "Pow", "Sub"),
]
REDUCE = [
    *("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
]

CASES = [
    *(Case(name, [X]) for name in UNARY),
    *(Case(name, [POSITIVE]) for name in ("Log", "Reciprocal", "Sqrt")),
    *(Case(name, [POSITIVE], [floats(4, 1)]) for name in BINARY),
    *(Case(name, [X, X + 1, X * 2]) for name in ("Max", "Mean", "Min", "Sum")),
    *(Case(name, [YES, ~YES]) for name in ("And", "Or", "Xor")),
    *(Case(name, [X], [ints(1, -1)], {"keepdims": 0}) for name in REDUCE),
    Case("ReduceMin", [X], [], {"axes": [1], "keepdims": 1}, opset=13),
    Case("ReduceMean", [X], [], {"axes": [0, 2]}, opset=17),
    Case("ReduceSum", [X], [], {}),
    Case("ReduceProd", [X], [ints(0, 2)], {"keepdims": 1}),
    Case("Not", [YES]),
    Case("Where", [YES], [X, floats(5)]),
    Case("Cast", [X * 3], [], {"to": TensorProto.INT64}),
    Case("Cast", [YES], [], {"to": TensorProto.FLOAT}),
    Case("CastLike", [X * 3], [np.zeros(1, np.int32)]),
    Case("Div", [ints(7, -7, 9)], [ints(2, 2, -2)]),
    Case("Mod", [ints(7, -7, 9)], [ints(4, 4, -4)]),
    Case("Mod", [X], [floats(5)], {"fmod": 1}),
    Case("Clip", [X], [np.float32(-0.5), np.float32(0.5)]),
    Case("Clip", [X], [None, np.float32(0.5)]),
    Case("Clip", [X]),
    Case("Gelu", [X], [], {"approximate": "tanh"}),
    Case("Softmax", [X], [], {"axis": 1}),
    Case("HardSigmoid", [X], [], {"alpha": 0.3, "beta": 0.6}),
    Case("LeakyRelu", [X], [], {"alpha": 0.3}),
    Case("MatMul", [X], [floats(5, 2)]),
    Case("MatMul", [X, floats(3, 5, 6)]),
    Case("Gemm", [floats(3, 4)], [floats(4, 5), floats(5)]),
    Case(
        "Gemm",
        [floats(4, 3)],
        [floats(5, 4), floats(3, 5)],
        {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
    ),
    Case("Einsum", [X, floats(3, 5, 2)], [], {"equation": "bij,bjk->bik"}),
    Case("Conv", [IMAGE], [floats(6, 4, 3, 3), floats(6)]),
    Case("Conv", [IMAGE], [floats(6, 4, 3, 2)], {"strides": [2, 1], "pads": [1, 1, 1, 1]}),
    Case("Conv", [IMAGE], [floats(4, 1, 3, 3)], {"group": 4, "pads": [0, 1, 2, 1]}),
    Case("Conv", [IMAGE], [floats(6, 4, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    Case("Conv", [IMAGE], [floats(6, 4, 2, 2)], {"auto_pad": "SAME_LOWER"}),
    Case("Conv", [IMAGE], [floats(6, 4, 3, 3)], {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    Case("Conv", [floats(2, 4, 9)], [floats(6, 4, 3)], {"pads": [1, 1]}),
    Case(
        "ConvTranspose",
        [IMAGE],
        [floats(4, 3, 3, 3), floats(3)],
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    ),
    Case("MaxPool", [IMAGE], [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", [IMAGE], [], {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
    Case("MaxPool", [IMAGE], [], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    Case("AveragePool", [IMAGE], [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    Case(
        "AveragePool",
        [IMAGE],
        [],
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    Case("GlobalAveragePool", [IMAGE]),
    Case("GlobalMaxPool", [IMAGE]),
    Case("BatchNormalization", [IMAGE], [floats(4), floats(4), floats(4), np.abs(floats(4)) + 0.1]),
    Case("LayerNormalization", [X], [floats(5), floats(5)], {"axis": -1, "epsilon": 1e-6}),
    Case("LayerNormalization", [X], [floats(4, 5)], {"axis": 1}),
    Case("InstanceNormalization", [IMAGE], [floats(4), floats(4)]),
    Case("GroupNormalization", [IMAGE], [floats(4), floats(4)], {"num_groups": 2}, opset=21),
    Case("ArgMax", [X], [], {"axis": 1, "keepdims": 0}),
    Case("ArgMin", [X], [], {"axis": -1}),
    Case("TopK", [X], [ints(2)], {"axis": 1}, outputs=2),
    Case("TopK", [X], [ints(3)], {"largest": 0}, outputs=2),
    Case("CumSum", [X], [np.array(1, np.int64)]),
    Case("Shape", [X], [], {"start": 1, "end": -1}),
    Case("Reshape", [X], [ints(0, -1, 2, 5)]),
    Case("Flatten", [X], [], {"axis": -1}),
    Case("Flatten", [X], [], {"axis": 0}),
    Case("Transpose", [X], [], {"perm": [1, 2, 0]}),
    Case("Squeeze", [X[:, :1, :1]]),
    Case("Squeeze", [X[:, :1, :1]], [ints(-1)]),
    Case("Unsqueeze", [X], [ints(0, -1)]),
    Case("Concat", [X, X + 1], [], {"axis": 1}),
    Case("Split", [X], [ints(1, 3)], {"axis": 1}, outputs=2),
    Case("Split", [X], [], {"axis": 2, "num_outputs": 2}, outputs=2),
    Case("Slice", [X], [ints(0, 1), ints(2**62, -1), ints(1, -1)]),
    Case("Slice", [X], [ints(-1), ints(-(2**62)), ints(1), ints(-2)]),
    Case("Slice", [X], [ints(1, 0, 0), ints(3, 3, 5), None, ints(1, 2, 3)]),
    Case("Gather", [X], [np.array([[0, -1], [2, 1]])], {"axis": 1}),
    Case("Gather", [X], [np.array(-2)], {"axis": 2}),
    Case("Gather", [floats(7)], [np.array(3)]),
    Case("GatherElements", [X], [np.array([[[0, -1, 2, 1, 3]]] * 3)], {"axis": 1}),
    Case("GatherND", [X], [np.array([[0, 1], [2, -1]])]),
    Case("ScatterND", [X], [np.array([[0, 1], [2, 3]]), floats(2, 5)]),
    Case("Expand", [floats(4, 1)], [ints(3, 1, 5)]),
    Case("Expand", [X], [ints(1)]),
    Case("Tile", [X], [ints(1, 2, 3)]),
    Case("Pad", [X], [ints(0, 1, 2, 1, 0, 3), np.float32(7)]),
    Case("Pad", [X], [ints(0, 0, -1, 0, 0, 2)]),
    Case("Pad", [IMAGE], [ints(2, 1), None, ints(-1)]),
    Case("Pad", [IMAGE], [ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "reflect"}),
    Case("Pad", [IMAGE], [ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "edge"}),
    Case("Trilu", [X], [np.array(1)], {"upper": 0}),
    Case("Trilu", [X]),
    Case("DepthToSpace", [IMAGE], [], {"blocksize": 2}),
    Case("DepthToSpace", [IMAGE], [], {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", [IMAGE[:, :, :8]], [], {"blocksize": 2}),
    Case(
        "Resize",
        [IMAGE],
        [None, np.array([1, 1, 2, 2], np.float32)],
        {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
    ),
    *(
        Case(
            "Resize",
            [IMAGE],
            [None, None, ints(2, 4, 13, 5)],
            {"mode": mode, "coordinate_transformation_mode": place, "cubic_coeff_a": -0.75},
        )
        for mode in ("linear", "cubic")
        for place in ("half_pixel", "align_corners")
    ),
    Case("Dropout", [X]),
    Case("DequantizeLinear", [ints(3, 250, 7).astype(np.uint8)], [np.float32(0.1), np.uint8(128)]),
    Case(
        "DequantizeLinear",
        [RNG.integers(-128, 127, (2, 3, 4), dtype=np.int8)],
        [np.abs(floats(3)), np.zeros(3, np.int8)],
        {"axis": 1},
    ),
    Case("QuantizeLinear", [X], [np.float32(0.02), np.uint8(128)]),
    Case("QuantizeLinear", [X], [np.abs(floats(4)) + 0.01, np.zeros(4, np.int8)], {"axis": 1}),
]
ONLY_IN_GRAPHS = {"ConstantOfShape", "Range"}  # tested below, among shapes


def model_of(case: Case) -> onnx.ModelProto:
    names, initializers = [], []
    for index, constant in enumerate(case.constants):
        names.append("" if constant is None else f"c{index}")
        if constant is not None:
            initializers.append(numpy_helper.from_array(np.asarray(constant), f"c{index}"))
    inputs = [
        helper.make_tensor_value_info(
            f"x{index}", helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for index, value in enumerate(case.values)
    ]
    outputs = [f"y{index}" for index in range(case.outputs)]
    node = helper.make_node(
        case.operator, [*(i.name for i in inputs), *names], outputs, **case.attributes
    )
    graph = helper.make_graph(
        [node], "case", inputs, [onnx.ValueInfoProto(name=name) for name in outputs], initializers
    )
    opset = [helper.make_opsetid("", case.opset)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def compare(model: onnx.ModelProto, *values: np.ndarray, atol: float = 1e-5) -> None:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    graph = TorchGraph(model, CPU)
    names = [value.name for value in model.graph.input]
    expected = session.run(None, dict(zip(names, values, strict=True)))
    with torch.inference_mode():
        found = graph(*(torch.from_numpy(value.copy()) for value in values))
    for one, other in zip(found, expected, strict=True):
        assert one.numpy().dtype == other.dtype
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_does_what_onnxruntime_does(case: Case) -> None:
    compare(model_of(case), *case.values)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_reads_no_values_of_the_device(case: Case) -> None:
    """They are not there on the `meta` device, as they are not while a CUDA graph is recorded."""
    meta = torch.device("meta")
    graph = TorchGraph(model_of(case), meta)
    graph.upload(lambda values: [value.to(meta) for value in values], WeakValueDictionary())
    for output in graph(*(torch.from_numpy(value).to(meta) for value in case.values)):
        assert output.device == meta


def test_every_operator_is_tested() -> None:
    assert {case.operator for case in CASES} | ONLY_IN_GRAPHS == set(OPERATORS)


def test_a_reduction_over_no_axes_can_mean_none() -> None:
    """This is not compared with onnxruntime, because version 1.23 fails on it."""
    x = torch.from_numpy(X)
    assert OPERATORS["ReduceSum"]({"noop_with_empty_axes": 1}, x) is x


def test_shapes_are_computed_from_the_rows() -> None:
    """A table of zeros and positions with as many rows as the input, as exporters write it."""
    nodes = [
        helper.make_node("Shape", ["x0"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "axis"], ["one"]),
        helper.make_node("Concat", ["one", "four"], ["target"], axis=0),
        helper.make_node("ConstantOfShape", ["target"], ["zeros"]),
        helper.make_node("Range", ["zero", "rows", "step"], ["positions"]),
        helper.make_node("Cast", ["positions"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "last"], ["column"]),
        helper.make_node("Add", ["zeros", "column"], ["table"]),
        helper.make_node("Add", ["x0", "table"], ["y0"]),
    ]
    constants = {"zero": 0, "step": 1, "axis": [0], "last": [1], "four": [4]}
    graph = helper.make_graph(
        nodes,
        "shapes",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y0", TensorProto.FLOAT, ["rows", 4])],
        [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for rows in (1, 3):
        compare(model, floats(rows, 4))


class Window(torch.nn.Module):
    """The hard parts of exported vision models: rolls, windows, attention, norms, odd strides."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 8, 4, stride=4)
        self.norm = torch.nn.LayerNorm(8)
        self.qkv = torch.nn.Linear(8, 24)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.batch = torch.nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.hardswish(self.batch(self.depthwise(self.embed(x))))
        x = torch.roll(x.permute(0, 2, 3, 1), (-1, -1), (1, 2))
        rows, height, width, channels = x.shape
        x = x.view(rows, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
        x = self.norm(x.reshape(-1, 4, channels))
        q, k, v = self.qkv(x).view(-1, 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        x = torch.nn.functional.gelu(x.transpose(1, 2).reshape(rows, -1, channels))
        return torch.nn.functional.normalize(x.mean(1), dim=-1)


@pytest.mark.filterwarnings("ignore")  # torch's exporters warn of themselves
@pytest.mark.parametrize("dynamo", [True, False])
def test_an_exported_model(dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    names: dict[str, Any] = {"input_names": ["x0"], "output_names": ["y0"]}
    example = (torch.randn(2, 3, 16, 16),)
    if dynamo:
        rows = torch.export.Dim("rows", min=1, max=64)
        program = torch.onnx.export(
            Window().eval(), example, dynamo=True, dynamic_shapes=({0: rows},), **names
        )
        program.save(str(path))
    else:
        torch.onnx.export(
            Window().eval(),
            example,
            str(path),
            dynamo=False,
            opset_version=17,
            dynamic_axes={"x0": {0: "rows"}},
            **names,
        )
    for rows in (1, 5):
        compare(onnx.load(path), floats(rows, 3, 16, 16))
    assert [arg.name for arg in load(path, CPU).args[1]] == ["y0"]


def test_an_operator_that_there_is_not_is_named() -> None:
    case = Case("Hardmax", [X])
    with pytest.raises(Unsupported, match="no operator Hardmax: use backend onnxruntime"):
        TorchGraph(model_of(case), CPU)


def test_an_old_opset_is_refused() -> None:
    with pytest.raises(Unsupported, match="opset 11, the torch backend reads 13 and later"):
        TorchGraph(model_of(Case("Relu", [X], opset=11)), CPU)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "block.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(StoreError, match="is not an ONNX file"):
        load(path, CPU)

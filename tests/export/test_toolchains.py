"""Models that other tools made: quantised, optimised for a runtime, in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic
from onnxruntime.quantization import quantize_static as quantize

from edged.store import Store
from export.add import add_models
from export.source import Source
from tests.export.helpers import digests, picture
from tests.export.nets import Net, classifier, transformer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").create()


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self._batches = iter([random.standard_normal((2, 3, 16, 16), np.float32) for _ in range(3)])

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[type-arg]
        batch = next(self._batches, None)
        return None if batch is None else {"x": batch}


def with_output_type(file: Path) -> str:
    """A copy of the model with typed outputs, which the quantisers need."""
    model = onnx.load(str(file))
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(model.graph.output[0].name, TensorProto.FLOAT, ["rows", 4])
    )
    onnx.save(model, str(file))
    return str(file)


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.filterwarnings("ignore")
def test_static_int8(store: Store, tmp_path: Path, form: QuantFormat) -> None:
    files = {}
    for name, stages in (("one", "ab"), ("two", "ax")):
        source = with_output_type(classifier(tmp_path / f"{name}.onnx", stages))
        files[name] = tmp_path / f"{name}.int8.onnx"
        quantize(source, str(files[name]), Calibration(), quant_format=form)
    report = add_models(store, [Source(n, f) for n, f in files.items()], min_bytes=0)
    for added in report.added:
        assert added.manifest.precision == "int8"
        assert added.difference.relative < 0.02
    first, second = picture(store, *files)
    assert first[0] == second[0], "the stem and the first stage are quantised alike"
    crossing = [
        store.model("one").value(name).datatype for name in store.model("one").steps[0].writes
    ]
    assert crossing in (["UINT8"], ["INT8"]), "between blocks integers cross, not floats"


@pytest.mark.filterwarnings("ignore")
def test_dynamic_int8(store: Store, tmp_path: Path) -> None:
    source = with_output_type(transformer(tmp_path / "m.onnx", "ab"))
    quantize_dynamic(source, str(tmp_path / "int8.onnx"), op_types_to_quantize=["MatMul"])
    (added,) = add_models(store, [Source("t", tmp_path / "int8.onnx")]).added
    assert added.manifest.precision == "int8"
    assert added.difference.largest > 1e-3


def test_operators_of_a_runtime(store: Store, tmp_path: Path) -> None:
    """ONNX Runtime saves its fusions as operators of its own, which onnx does not know."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 4
    file = classifier(tmp_path / "m.onnx", "abc")
    ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    domains = {node.domain for node in onnx.load(str(tmp_path / "fused.onnx")).graph.node}
    assert "com.microsoft" in domains
    (added,) = add_models(store, [Source("t", tmp_path / "fused.onnx")]).added
    assert added.difference.relative < 1e-5
    assert len(digests(tmp_path / "fused.onnx")) > 3


def halves(file: Path) -> Iterator[TensorProto]:
    for tensor in onnx.load(str(file)).graph.initializer:
        array = numpy_helper.to_array(tensor)
        half = array.astype(np.float16) if array.dtype == np.float32 else array
        yield numpy_helper.from_array(half, tensor.name)


def test_half_precision(store: Store, tmp_path: Path) -> None:
    file = classifier(tmp_path / "m.onnx", "ab")
    model = onnx.load(str(file))
    tensors = list(halves(file))
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, str(tmp_path / "half.onnx"))
    (added,) = add_models(store, [Source("t", tmp_path / "half.onnx")]).added
    assert added.manifest.precision == "fp16"
    assert added.manifest.value("x").datatype == "FP16"
    assert added.difference.relative < 0.02


def test_channels_last(store: Store, tmp_path: Path) -> None:
    """A model like those of tf2onnx: transposed at the input, and around operators that need it."""
    net = Net((16, 16, 3))
    x = net.conv_relu(net.add("Transpose", net.x, perm=[0, 3, 1, 2]), 3, 8, seed=1)
    for seed in (2, 3):
        x = net.residual(x, 8, seed)
        x = net.add("Transpose", net.add("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])
    out = net.add("ReduceMean", net.add("Transpose", x, perm=[0, 2, 3, 1]), axes=[1, 2], keepdims=0)
    file = net.save(tmp_path / "m.onnx", net.gemm(out, 8, 4, seed=4))
    (added,) = add_models(store, [Source("t", file)]).added
    assert added.manifest.value("x").shape == (16, 16, 3)
    assert len(digests(file)) >= 5

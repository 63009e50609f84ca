"""ResNet-18 and MobileNetV2 at 224 x 224 as ONNX files, with random weights of the usual scale.

Straight in ONNX, so that no framework is needed. Normalisations are folded into convolutions, as
exporters leave them. He initialisation keeps activations at the size that real weights give:
where they vanish, denormal numbers slow a processor down and say nothing of the real net.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

SIDE = 224  # pixels


def resnet18(path: Path, seed: int) -> None:
    """He et al. 2016 (arXiv:1512.03385), table 1, 18 layers."""
    net = _Net(seed)
    x = net.relu(net.conv("x", 3, 64, size=7, stride=2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    before = 64
    for width, stride in (
        (64, 1),
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        (512, 1),
    ):
        inner = net.relu(net.conv(x, before, width, stride=stride))
        inner = net.conv(inner, width, width)
        if before != width:
            x = net.conv(x, before, width, size=1, stride=stride)
        x = net.relu(net.add("Add", inner, x))
        before = width
    net.save(path, net.classify(x, before))


def mobilenet_v2(path: Path, seed: int) -> None:
    """Sandler et al. 2018 (arXiv:1801.04381), table 2."""
    net = _Net(seed)
    x = net.relu6(net.conv("x", 3, 32, stride=2))
    before = 32
    for expansion, width, count, first_stride in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):  # fmt: skip
        for i in range(count):
            stride, inner, hidden = first_stride if i == 0 else 1, x, before * expansion
            if expansion > 1:
                inner = net.relu6(net.conv(inner, before, hidden, size=1))
            inner = net.relu6(net.conv(inner, hidden, hidden, stride=stride, group=hidden))
            inner = net.conv(inner, hidden, width, size=1)
            x = net.add("Add", inner, x) if before == width and stride == 1 else inner
            before = width
    x = net.relu6(net.conv(x, before, 1280, size=1))
    net.save(path, net.classify(x, 1280))


NETS: dict[str, Callable[[Path, int], None]] = {"mobilenet_v2": mobilenet_v2, "resnet18": resnet18}


class _Net:
    """Appends operators; each method returns the name of the value that it makes."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def add(self, operator: str, *reads: str, **attributes: object) -> str:
        made = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, reads, [made], **attributes))  # type: ignore[arg-type]
        return made

    def conv(
        self, x: str, before: int, width: int, *, size: int = 3, stride: int = 1, group: int = 1
    ) -> str:
        kernel = self._weight(width, before // group, size, size)
        pads = [size // 2] * 4
        bias = self._weight(width)
        return self.add("Conv", x, kernel, bias, strides=[stride] * 2, pads=pads, group=group)

    def relu(self, x: str) -> str:
        return self.add("Relu", x)

    def relu6(self, x: str) -> str:
        return self.add("Clip", x, self._constant(np.float32(0)), self._constant(np.float32(6)))

    def classify(self, x: str, width: int) -> str:
        pooled = self.add("Flatten", self.add("GlobalAveragePool", x))
        return self.add("Gemm", pooled, self._weight(1000, width), self._weight(1000), transB=1)

    def save(self, path: Path, output: str) -> None:
        graph = helper.make_graph(
            self._nodes,
            path.stem,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3, SIDE, SIDE])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", 1000])],
            self._weights,
        )
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))

    def _weight(self, *shape: int) -> str:
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.01
        return self._constant((scale * self._random.standard_normal(shape)).astype(np.float32))

    def _constant(self, array: np.ndarray | np.float32) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

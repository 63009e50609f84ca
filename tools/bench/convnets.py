"""ResNets and MobileNetV2 as ONNX files, with random weights of the usual scale.

They are written in ONNX directly, so that no framework is needed. Normalisations are folded into
convolutions, as exporters do. He initialisation keeps activations as large as real weights would:
vanishing activations are denormal numbers, which slow a processor down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

SIDE = 224  # pixels
CLASSES = 1000
_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def resnet18(path: Path, seed: int) -> None:
    """He et al. 2016 (arXiv:1512.03385), table 1, 18 layers."""
    _resnet(_Net(repeat(np.random.default_rng(seed))), 18).save(path)


def resnet(
    path: Path, depth: int, seeds: Sequence[Sequence[int]], *, side: int, classes: int
) -> None:
    """The ResNet of 18, 34 or 50 layers, with a seed for each layer from bottom to top.

    A layer is a convolution or the classifier. Nets whose lower seeds are equal share these layers.
    """
    net = _Net(map(np.random.default_rng, seeds), side, classes)
    _resnet(net, depth).save(path)


def _resnet(net: _Net, depth: int) -> _Net:
    bottleneck = depth == 50
    x = net.relu(net.conv("x", 3, 64, size=7, stride=2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    before = 64
    for stage, count in enumerate(_STAGES[depth]):
        width = 64 * 2**stage
        out = 4 * width if bottleneck else width
        for i in range(count):
            stride = 2 if stage and not i else 1
            if bottleneck:
                inner = net.relu(net.conv(x, before, width, size=1))
                inner = net.relu(net.conv(inner, width, width, stride=stride))
                inner = net.conv(inner, width, out, size=1)
            else:
                inner = net.relu(net.conv(x, before, width, stride=stride))
                inner = net.conv(inner, width, width)
            if before != out:
                x = net.conv(x, before, out, size=1, stride=stride)
            x = net.relu(net.add("Add", inner, x))
            before = out
    net.classify(x, before)
    return net


def mobilenet_v2(path: Path, seed: int) -> None:
    """Sandler et al. 2018 (arXiv:1801.04381), table 2."""
    net = _Net(repeat(np.random.default_rng(seed)))
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
    net.classify(net.relu6(net.conv(x, before, 1280, size=1)), 1280)
    net.save(path)


NETS: dict[str, Callable[[Path, int], None]] = {"mobilenet_v2": mobilenet_v2, "resnet18": resnet18}


class _Net:
    """Appends operators; each method returns the name of the value that it makes."""

    def __init__(
        self, randoms: Iterable[np.random.Generator], side: int = SIDE, classes: int = CLASSES
    ) -> None:
        """`randoms` has a generator for each layer with weights."""
        self._randoms = iter(randoms)
        self._side = side
        self._classes = classes
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []

    def add(self, operator: str, *reads: str, **attributes: object) -> str:
        made = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, reads, [made], **attributes))  # type: ignore[arg-type]
        return made

    def conv(
        self, x: str, before: int, width: int, *, size: int = 3, stride: int = 1, group: int = 1
    ) -> str:
        random = next(self._randoms)
        kernel = self._weight(random, width, before // group, size, size)
        pads = [size // 2] * 4
        bias = self._weight(random, width)
        return self.add("Conv", x, kernel, bias, strides=[stride] * 2, pads=pads, group=group)

    def relu(self, x: str) -> str:
        return self.add("Relu", x)

    def relu6(self, x: str) -> str:
        return self.add("Clip", x, self._constant(np.float32(0)), self._constant(np.float32(6)))

    def classify(self, x: str, width: int) -> str:
        random = next(self._randoms)
        pooled = self.add("Flatten", self.add("GlobalAveragePool", x))
        weight = self._weight(random, self._classes, width)
        return self.add("Gemm", pooled, weight, self._weight(random, self._classes), transB=1)

    def save(self, path: Path) -> None:
        """Write the net; its output is the value of the last operator."""
        shape: list[str | int | None] = ["rows", 3, self._side, self._side]
        output = self._nodes[-1].output[0]
        graph = helper.make_graph(
            self._nodes,
            path.stem,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", self._classes])],
            self._weights,
        )
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))

    def _weight(self, random: np.random.Generator, *shape: int) -> str:
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.01)
        return self._constant(scale * random.standard_normal(shape, np.float32))

    def _constant(self, array: np.ndarray | np.float32) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

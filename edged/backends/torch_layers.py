"""ONNX operators as torch functions: convolutions, pools and normalisations.

Source: onnx/docs/Operators.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from edged.backends.torch_values import Attributes, refuse


def _pads(attributes: Attributes, x: Tensor, kernel: Sequence[int]) -> list[int]:
    """The padding before and after each spatial axis in the order of F.pad: last axis first."""
    rank = len(kernel)
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        strides = attributes.get("strides", [1] * rank)
        dilations = attributes.get("dilations", [1] * rank)
        pads = []
        for axis in range(rank):
            extent = x.shape[2 + axis]
            span = (kernel[axis] - 1) * dilations[axis] + 1
            steps = math.ceil(extent / strides[axis])
            total = max(0, (steps - 1) * strides[axis] + span - extent)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if mode == "SAME_UPPER" else (large, small))
    else:
        given = attributes.get("pads", [0] * 2 * rank) if mode == "NOTSET" else [0] * 2 * rank
        pads = list(zip(given[:rank], given[rank:], strict=True))
    return [amount for pair in reversed(pads) for amount in pair]


_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {
    1: F.avg_pool1d,
    2: F.avg_pool2d,
    3: F.avg_pool3d,
}


def _even(pads: Sequence[int]) -> list[int] | None:
    """The padding of each axis, first axis first; None unless it is the same before and after."""
    if pads[::2] != pads[1::2]:
        return None
    return list(pads[::2])[::-1]


def conv(attributes: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    rank = w.dim() - 2
    pads = _pads(attributes, x, w.shape[2:])
    padding = _even(pads)
    if padding is None:
        x, padding = F.pad(x, pads), [0] * rank
    return _CONVOLUTIONS[rank](
        x,
        w,
        b,
        stride=attributes.get("strides", [1] * rank),
        padding=padding,
        dilation=attributes.get("dilations", [1] * rank),
        groups=attributes.get("group", 1),
    )


def conv_transpose(attributes: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    rank = w.dim() - 2
    padding = _even(_pads(attributes, x, w.shape[2:]))
    if padding is None or "output_shape" in attributes:
        raise refuse("ConvTranspose with uneven padding or a given output shape")
    return _TRANSPOSED[rank](
        x,
        w,
        b,
        stride=attributes.get("strides", [1] * rank),
        padding=padding,
        output_padding=attributes.get("output_padding", [0] * rank),
        groups=attributes.get("group", 1),
        dilation=attributes.get("dilations", [1] * rank),
    )


def max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    pads = _pads(attributes, x, kernel)
    padding = _even(pads)
    if padding is None or any(p > k // 2 for p, k in zip(padding, kernel, strict=True)):
        x, padding = F.pad(x, pads, value=-math.inf), [0] * len(kernel)
    return _MAX_POOLS[len(kernel)](
        x,
        kernel,
        stride=attributes.get("strides", [1] * len(kernel)),
        padding=padding,
        dilation=attributes.get("dilations", [1] * len(kernel)),
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
    )


def average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    padding = _even(_pads(attributes, x, kernel))
    if padding is None or any(d != 1 for d in attributes.get("dilations", [])):
        raise refuse("AveragePool with uneven padding or dilations")
    return _AVERAGE_POOLS[len(kernel)](
        x,
        kernel,
        stride=attributes.get("strides", [1] * len(kernel)),
        padding=padding,
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
        count_include_pad=bool(attributes.get("count_include_pad", 0)),
    )


def spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


def batch_norm(
    attributes: Attributes, x: Tensor, scale: Tensor, b: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, b, eps=attributes.get("epsilon", 1e-5))


def layer_norm(attributes: Attributes, x: Tensor, scale: Tensor, b: Tensor | None = None) -> Tensor:
    axis = attributes.get("axis", -1) % x.dim()
    shape = x.shape[axis:]
    eps = attributes.get("epsilon", 1e-5)
    if scale.shape != shape:
        normed = F.layer_norm(x, shape, eps=eps) * scale
        return normed if b is None else normed + b
    return F.layer_norm(x, shape, scale, b, eps)


def instance_norm(attributes: Attributes, x: Tensor, scale: Tensor, b: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=b, eps=attributes.get("epsilon", 1e-5))


def group_norm(attributes: Attributes, x: Tensor, scale: Tensor, b: Tensor) -> Tensor:
    groups = attributes["num_groups"]
    if scale.shape[0] != x.shape[1]:
        raise refuse("GroupNormalization with a scale for each group (opset below 21)")
    return F.group_norm(x, groups, scale, b, attributes.get("epsilon", 1e-5))

"""ONNX operators as torch functions: those that exporters make of vision models, from opset 13.

A function takes the node's attributes and its inputs, None for one that is absent, and returns a
tensor or a tuple of tensors. Inputs listed in HOST are shapes and the like, which are in host
memory and are read as numbers. Source: onnx/docs/Operators.md. Knows no graphs and no devices.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edged.backends import torch_layers as layers
from edged.backends import torch_shapes as shapes
from edged.backends.torch_values import Attributes, Operator, dtype, numbers, refuse

HOST: dict[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "ReduceL1": (1,),
    "ReduceL2": (1,),
    "ReduceLogSumExp": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceProd": (1,),
    "ReduceSum": (1,),
    "ReduceSumSquare": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
}
"""Positions of inputs that are numbers, by operator."""


# --- arithmetic ---------------------------------------------------------------------------------


def _divide(_: Attributes, x: Tensor, y: Tensor) -> Tensor:
    if x.is_floating_point():
        return x / y
    return torch.div(x, y, rounding_mode="trunc")


def _modulo(attributes: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if attributes.get("fmod") else torch.remainder(x, y)


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def operator(_: Attributes, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return operator


def _mean(_: Attributes, *values: Tensor) -> Tensor:
    return sum(values[1:], start=values[0]) / len(values)


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda _, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda _, x, y: function(x, y)


def _clip(
    _: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    product = (a.t() if attributes.get("transA") else a) @ (
        b.t() if attributes.get("transB") else b
    )
    product = product * attributes.get("alpha", 1.0) if "alpha" in attributes else product
    return product if c is None else product + c * attributes.get("beta", 1.0)


def _gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=attributes.get("approximate", b"none").decode())


def _hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.clamp(x * attributes.get("alpha", 0.2) + attributes.get("beta", 0.5), 0, 1)


def _prelu(_: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


# --- reductions ---------------------------------------------------------------------------------


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def operator(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        dims = numbers(axes if axes is not None else attributes.get("axes"))
        if not dims:
            if attributes.get("noop_with_empty_axes"):
                return x
            dims = list(range(x.dim()))
        return function(x, dims, bool(attributes.get("keepdims", 1)))

    return operator


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted((d % x.dim() for d in dims), reverse=True):
        x = x.prod(dim, keepdim=keep)
    return x


def _extreme(function: Callable[..., Tensor]) -> Operator:
    def operator(attributes: Attributes, x: Tensor) -> Tensor:
        if attributes.get("select_last_index"):
            raise refuse("ArgMax or ArgMin of the last of equal values")
        return function(
            x, dim=attributes.get("axis", 0), keepdim=bool(attributes.get("keepdims", 1))
        )

    return operator


def _top_k(attributes: Attributes, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    values, indices = torch.topk(
        x,
        numbers(k)[0],
        dim=attributes.get("axis", -1),
        largest=bool(attributes.get("largest", 1)),
        sorted=bool(attributes.get("sorted", 1)),
    )
    return values, indices


def _cumulate(attributes: Attributes, x: Tensor, axis: Tensor) -> Tensor:
    if attributes.get("exclusive") or attributes.get("reverse"):
        raise refuse("CumSum that is exclusive or reversed")
    return torch.cumsum(x, numbers(axis)[0])


# --- quantisation -------------------------------------------------------------------------------


def _along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """The values in a shape that broadcasts: one value for all, or one for each index of `axis`."""
    if values.numel() == 1:
        return values.reshape(())
    return values.reshape([-1 if at == axis % x.dim() else 1 for at in range(x.dim())])


def _dequantize(
    attributes: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None
) -> Tensor:
    axis = attributes.get("axis", 1)
    shifted = x.to(scale.dtype)
    if zero is not None:
        shifted = shifted - _along(zero, x, axis).to(scale.dtype)
    return shifted * _along(scale, x, axis)


def _quantize(
    attributes: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None
) -> Tensor:
    axis = attributes.get("axis", 1)
    kind = torch.uint8 if zero is None else zero.dtype
    levels = torch.round(x / _along(scale, x, axis))
    if zero is not None:
        levels = levels + _along(zero, x, axis).to(levels.dtype)
    limits = torch.iinfo(kind)
    return torch.clamp(levels, limits.min, limits.max).to(kind)


OPERATORS: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "ArgMax": _extreme(torch.argmax),
    "ArgMin": _extreme(torch.argmin),
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_norm,
    "Cast": lambda a, x: x.to(dtype(a["to"])),
    "CastLike": lambda a, x, like: x.to(like.dtype),
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Concat": lambda a, *values: torch.cat(values, a["axis"]),
    "ConstantOfShape": shapes.constant_of_shape,
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "Cos": _unary(torch.cos),
    "CumSum": _cumulate,
    "DepthToSpace": shapes.depth_to_space,
    "DequantizeLinear": _dequantize,
    "Div": _divide,
    "Dropout": lambda a, x, *_: x,
    "Einsum": lambda a, *values: torch.einsum(a["equation"].decode(), *values),
    "Elu": lambda a, x: F.elu(x, a.get("alpha", 1.0)),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Floor": _unary(torch.floor),
    "Gather": shapes.gather,
    "GatherElements": shapes.gather_elements,
    "GatherND": shapes.gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean(layers.spatial(x), keepdim=True),
    "GlobalMaxPool": lambda a, x: x.amax(layers.spatial(x), keepdim=True),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "GroupNormalization": layers.group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": lambda a, x: x,
    "InstanceNormalization": layers.instance_norm,
    "IsNaN": _unary(torch.isnan),
    "LayerNormalization": layers.layer_norm,
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": lambda a, x: torch.log_softmax(x, a.get("axis", -1)),
    "MatMul": _binary(torch.matmul),
    "Max": _fold(torch.maximum),
    "MaxPool": layers.max_pool,
    "Mean": _mean,
    "Min": _fold(torch.minimum),
    "Mish": _unary(F.mish),
    "Mod": _modulo,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pad": shapes.pad,
    "Pow": _binary(torch.pow),
    "QuantizeLinear": _quantize,
    "Range": shapes.arange,
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL1": _reduce(lambda x, dims, keep: x.abs().sum(dims, keepdim=keep)),
    "ReduceL2": _reduce(lambda x, dims, keep: torch.linalg.vector_norm(x, 2, dims, keep)),
    "ReduceLogSumExp": _reduce(lambda x, dims, keep: torch.logsumexp(x, dims, keep)),
    "ReduceMax": _reduce(lambda x, dims, keep: x.amax(dims, keepdim=keep)),
    "ReduceMean": _reduce(lambda x, dims, keep: x.mean(dims, keepdim=keep)),
    "ReduceMin": _reduce(lambda x, dims, keep: x.amin(dims, keepdim=keep)),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(lambda x, dims, keep: x.sum(dims, keepdim=keep)),
    "ReduceSumSquare": _reduce(lambda x, dims, keep: x.square().sum(dims, keepdim=keep)),
    "Relu": _unary(torch.relu),
    "Reshape": shapes.reshape,
    "Resize": shapes.resize,
    "Round": _unary(torch.round),
    "ScatterND": shapes.scatter_nd,
    "Selu": _unary(F.selu),
    "Shape": shapes.shape,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Size": lambda a, x: torch.tensor(x.numel()),
    "Slice": shapes.slice_along,
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "Softplus": _unary(F.softplus),
    "SpaceToDepth": shapes.space_to_depth,
    "Split": shapes.split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": shapes.squeeze,
    "Sub": _binary(torch.sub),
    "Sum": _fold(torch.add),
    "Tanh": _unary(torch.tanh),
    "Tile": lambda a, x, repeats: x.repeat(numbers(repeats)),
    "TopK": _top_k,
    "Transpose": shapes.transpose,
    "Trilu": shapes.trilu,
    "Unsqueeze": shapes.unsqueeze,
    "Where": lambda a, condition, x, y: torch.where(condition, x, y),
    "Xor": _binary(torch.logical_xor),
}

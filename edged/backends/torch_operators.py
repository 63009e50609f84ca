"""ONNX operators as torch functions: those that exporters make of vision models, from opset 13.

Each takes the node's attributes and its inputs, None for one that is left out, and returns a
tensor or a tuple of them. Source: onnx/docs/Operators.md. Knows no graphs and no devices; inputs
listed in HOST are shapes and the like, which lie in host memory and are read as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from edged.errors import Unsupported

Attributes: TypeAlias = Mapping[str, Any]
Operator: TypeAlias = Callable[..., Any]

DTYPES: dict[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
}

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


def dtype(number: int) -> torch.dtype:
    """Raises Unsupported."""
    if number not in DTYPES:
        name = onnx.TensorProto.DataType.Name(number)
        raise Unsupported(f"torch has no {name}: use backend onnxruntime")
    return DTYPES[number]


def constant(proto: onnx.TensorProto) -> Tensor:
    """A tensor of the file, in host memory."""
    if proto.data_type == onnx.TensorProto.BFLOAT16:
        words = onnx.numpy_helper.to_array(proto).view("int16").copy()
        return torch.from_numpy(words).view(torch.bfloat16)
    dtype(proto.data_type)
    return torch.from_numpy(onnx.numpy_helper.to_array(proto).copy())


def _numbers(value: Tensor | Sequence[int] | None) -> list[int]:
    if value is None:
        return []
    return value.reshape(-1).tolist() if isinstance(value, Tensor) else list(value)


def _refuse(what: str) -> Unsupported:
    return Unsupported(f"the torch backend has no {what}: use backend onnxruntime")


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


# --- layers -------------------------------------------------------------------------------------


def _pads(attributes: Attributes, x: Tensor, kernel: Sequence[int]) -> list[int]:
    """Before and after each spatial axis, as F.pad wants them: last axis first."""
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
    """The padding of each axis, first axis first, if it is the same before and after."""
    if pads[::2] != pads[1::2]:
        return None
    return list(pads[::2])[::-1]


def _conv(attributes: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
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


def _conv_transpose(
    attributes: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None
) -> Tensor:
    rank = w.dim() - 2
    padding = _even(_pads(attributes, x, w.shape[2:]))
    if padding is None or "output_shape" in attributes:
        raise _refuse("ConvTranspose with uneven padding or a given output shape")
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


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
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


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    padding = _even(_pads(attributes, x, kernel))
    if padding is None or any(d != 1 for d in attributes.get("dilations", [])):
        raise _refuse("AveragePool with uneven padding or dilations")
    return _AVERAGE_POOLS[len(kernel)](
        x,
        kernel,
        stride=attributes.get("strides", [1] * len(kernel)),
        padding=padding,
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
        count_include_pad=bool(attributes.get("count_include_pad", 0)),
    )


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


def _batch_norm(
    attributes: Attributes, x: Tensor, scale: Tensor, b: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, b, eps=attributes.get("epsilon", 1e-5))


def _layer_norm(
    attributes: Attributes, x: Tensor, scale: Tensor, b: Tensor | None = None
) -> Tensor:
    axis = attributes.get("axis", -1) % x.dim()
    shape = x.shape[axis:]
    eps = attributes.get("epsilon", 1e-5)
    if scale.shape != shape:
        normed = F.layer_norm(x, shape, eps=eps) * scale
        return normed if b is None else normed + b
    return F.layer_norm(x, shape, scale, b, eps)


def _instance_norm(attributes: Attributes, x: Tensor, scale: Tensor, b: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=b, eps=attributes.get("epsilon", 1e-5))


def _group_norm(attributes: Attributes, x: Tensor, scale: Tensor, b: Tensor) -> Tensor:
    groups = attributes["num_groups"]
    if scale.shape[0] != x.shape[1]:
        raise _refuse("GroupNormalization with a scale for each group (opset below 21)")
    return F.group_norm(x, groups, scale, b, attributes.get("epsilon", 1e-5))


# --- reductions ---------------------------------------------------------------------------------


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def operator(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        dims = _numbers(axes if axes is not None else attributes.get("axes"))
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
            raise _refuse("ArgMax or ArgMin of the last of equal values")
        return function(
            x, dim=attributes.get("axis", 0), keepdim=bool(attributes.get("keepdims", 1))
        )

    return operator


def _top_k(attributes: Attributes, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    values, indices = torch.topk(
        x,
        _numbers(k)[0],
        dim=attributes.get("axis", -1),
        largest=bool(attributes.get("largest", 1)),
        sorted=bool(attributes.get("sorted", 1)),
    )
    return values, indices


def _cumulate(attributes: Attributes, x: Tensor, axis: Tensor) -> Tensor:
    if attributes.get("exclusive") or attributes.get("reverse"):
        raise _refuse("CumSum that is exclusive or reversed")
    return torch.cumsum(x, _numbers(axis)[0])


# --- shapes -------------------------------------------------------------------------------------


def _shape(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[attributes.get("start", 0) : attributes.get("end")])


def _reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    extents = _numbers(shape)
    if not attributes.get("allowzero"):
        extents = [x.shape[at] if extent == 0 else extent for at, extent in enumerate(extents)]
    return x.reshape(extents)


def _flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.get("axis", 1)
    axis += x.dim() if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(attributes: Attributes, x: Tensor) -> Tensor:
    return x.permute(attributes.get("perm", list(range(x.dim()))[::-1]))


def _squeeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = _numbers(axes if axes is not None else attributes.get("axes"))
    return x.squeeze(dims) if dims else x.squeeze()


def _unsqueeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = _numbers(axes if axes is not None else attributes.get("axes"))
    rank = x.dim() + len(dims)
    for dim in sorted(d % rank for d in dims):
        x = x.unsqueeze(dim)
    return x


def _split(attributes: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    parts = _numbers(sizes if sizes is not None else attributes.get("split"))
    if not parts:
        count = attributes["num_outputs"]
        parts = [math.ceil(x.shape[axis] / count)] * (count - 1)
        parts.append(x.shape[axis] - sum(parts))
    return torch.split_with_sizes(x, parts, axis)


def _slice(
    attributes: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    dims = _numbers(axes) or list(range(starts.numel()))
    strides = _numbers(steps) or [1] * len(dims)
    for dim, start, end, step in zip(dims, _numbers(starts), _numbers(ends), strides, strict=True):
        at = range(x.shape[dim])[start:end:step]
        up = at if step > 0 else at[::-1]
        x = x[(slice(None),) * (dim % x.dim()) + (slice(up.start, up.stop, up.step),)]
        if step < 0:
            x = x.flip(dim)
    return x


def _gather(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % x.dim()
    found = x.index_select(axis, _not_negative(indices, x.shape[axis]).reshape(-1))
    return found.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _not_negative(indices: Tensor, extent: int) -> Tensor:
    return torch.where(indices < 0, indices + extent, indices)


def _gather_elements(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0)
    return x.gather(axis, _not_negative(indices, x.shape[axis]))


def _gather_nd(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    if attributes.get("batch_dims"):
        raise _refuse("GatherND with batch axes")
    return x[tuple(indices.unbind(-1))]


def _scatter_nd(attributes: Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if attributes.get("reduction", b"none") != b"none":
        raise _refuse("ScatterND with a reduction")
    return x.clone().index_put(tuple(indices.unbind(-1)), updates)


def _expand(_: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    extents = _numbers(shape)
    missing = [1] * (len(extents) - x.dim())
    pairs = zip([1] * (x.dim() - len(extents)) + extents, [*missing, *x.shape], strict=True)
    return x.expand([have if want == 1 else want for want, have in pairs])


def _pad(
    attributes: Attributes,
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    amounts = _numbers(pads)
    dims = [d % x.dim() for d in _numbers(axes)] or list(range(x.dim()))
    pairs = [(0, 0)] * x.dim()
    for at, dim in enumerate(dims):
        pairs[dim] = (amounts[at], amounts[at + len(dims)])
    mode = attributes.get("mode", b"constant").decode()
    flat = [amount for pair in reversed(pairs) for amount in pair]
    if mode == "constant":
        return F.pad(x, flat, value=0 if value is None else value.item())
    name = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode]
    if any(pair != (0, 0) for pair in pairs[:-2]):
        raise _refuse(f"Pad in mode {mode} of more than the last two axes")
    flat = flat[: 2 * min(2, x.dim() - 1)]
    return F.pad(x, flat, mode=name)


def _range(_: Attributes, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _constant_of_shape(attributes: Attributes, shape: Tensor) -> Tensor:
    value = constant(attributes["value"]) if "value" in attributes else torch.zeros(1)
    return torch.full(_numbers(shape), value.item(), dtype=value.dtype)


def _trilu(attributes: Attributes, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = _numbers(k)[0] if k is not None else 0
    return torch.triu(x, diagonal) if attributes.get("upper", 1) else torch.tril(x, diagonal)


def _resize(
    attributes: Attributes,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    mode = attributes.get("mode", b"nearest").decode()
    place = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    nearest = attributes.get("nearest_mode", b"round_prefer_floor").decode()
    known = {
        ("nearest", "asymmetric", "floor"): ("nearest", None),
        ("linear", "half_pixel", nearest): ("bilinear", False),
        ("linear", "pytorch_half_pixel", nearest): ("bilinear", False),
        ("linear", "align_corners", nearest): ("bilinear", True),
        ("cubic", "half_pixel", nearest): ("bicubic", False),
        ("cubic", "pytorch_half_pixel", nearest): ("bicubic", False),
        ("cubic", "align_corners", nearest): ("bicubic", True),
    }.get((mode, place, nearest))
    if known is None or x.dim() != 4 or attributes.get("antialias") or "axes" in attributes:
        raise _refuse(f"Resize in mode {mode}, {place}, {nearest} on {x.dim()} axes")
    if sizes is not None and sizes.numel():
        size = _numbers(sizes)[2:]
    else:
        assert scales is not None
        size = [math.floor(n * s) for n, s in zip(x.shape, scales.tolist(), strict=True)][2:]
    return F.interpolate(x, size=size, mode=known[0], align_corners=known[1])


def _depth_to_space(attributes: Attributes, x: Tensor) -> Tensor:
    block = attributes["blocksize"]
    if attributes.get("mode", b"DCR") == b"CRD":
        return F.pixel_shuffle(x, block)
    rows, channels, height, width = x.shape
    parts = x.reshape(rows, block, block, channels // block**2, height, width)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(rows, -1, height * block, width * block)


def _space_to_depth(attributes: Attributes, x: Tensor) -> Tensor:
    block = attributes["blocksize"]
    rows, channels, height, width = x.shape
    parts = x.reshape(rows, channels, height // block, block, width // block, block)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(rows, -1, height // block, width // block)


# --- quantisation -------------------------------------------------------------------------------


def _along(values: Tensor, x: Tensor, axis: int) -> Tensor:
    """One value for all, or one for each index of `axis`."""
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
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda a, x: x.to(dtype(a["to"])),
    "CastLike": lambda a, x, like: x.to(like.dtype),
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Concat": lambda a, *values: torch.cat(values, a["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": _unary(torch.cos),
    "CumSum": _cumulate,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize,
    "Div": _divide,
    "Dropout": lambda a, x, *_: x,
    "Einsum": lambda a, *values: torch.einsum(a["equation"].decode(), *values),
    "Elu": lambda a, x: F.elu(x, a.get("alpha", 1.0)),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _unary(torch.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean(_spatial(x), keepdim=True),
    "GlobalMaxPool": lambda a, x: x.amax(_spatial(x), keepdim=True),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": lambda a, x: x,
    "InstanceNormalization": _instance_norm,
    "IsNaN": _unary(torch.isnan),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": lambda a, x: torch.log_softmax(x, a.get("axis", -1)),
    "MatMul": _binary(torch.matmul),
    "Max": _fold(torch.maximum),
    "MaxPool": _max_pool,
    "Mean": _mean,
    "Min": _fold(torch.minimum),
    "Mish": _unary(F.mish),
    "Mod": _modulo,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _binary(torch.pow),
    "QuantizeLinear": _quantize,
    "Range": _range,
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
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _unary(torch.round),
    "ScatterND": _scatter_nd,
    "Selu": _unary(F.selu),
    "Shape": _shape,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Size": lambda a, x: torch.tensor(x.numel()),
    "Slice": _slice,
    "Softmax": lambda a, x: torch.softmax(x, a.get("axis", -1)),
    "Softplus": _unary(F.softplus),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Sum": _fold(torch.add),
    "Tanh": _unary(torch.tanh),
    "Tile": lambda a, x, repeats: x.repeat(_numbers(repeats)),
    "TopK": _top_k,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Where": lambda a, condition, x, y: torch.where(condition, x, y),
    "Xor": _binary(torch.logical_xor),
}

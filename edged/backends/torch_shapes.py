"""ONNX operators as torch functions: those that rearrange values, and those that read shapes.

Source: onnx/docs/Operators.md.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edged.backends.torch_values import Attributes, constant, numbers, refuse


def shape(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[attributes.get("start", 0) : attributes.get("end")])


def reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    extents = numbers(shape)
    if not attributes.get("allowzero"):
        extents = [x.shape[at] if extent == 0 else extent for at, extent in enumerate(extents)]
    return x.reshape(extents)


def flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.get("axis", 1)
    axis += x.dim() if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), -1)


def transpose(attributes: Attributes, x: Tensor) -> Tensor:
    return x.permute(attributes.get("perm", list(range(x.dim()))[::-1]))


def squeeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = numbers(axes if axes is not None else attributes.get("axes"))
    return x.squeeze(dims) if dims else x.squeeze()


def unsqueeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = numbers(axes if axes is not None else attributes.get("axes"))
    rank = x.dim() + len(dims)
    for dim in sorted(d % rank for d in dims):
        x = x.unsqueeze(dim)
    return x


def split(attributes: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    parts = numbers(sizes if sizes is not None else attributes.get("split"))
    if not parts:
        count = attributes["num_outputs"]
        parts = [math.ceil(x.shape[axis] / count)] * (count - 1)
        parts.append(x.shape[axis] - sum(parts))
    return torch.split_with_sizes(x, parts, axis)


def slice_along(
    attributes: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    dims = numbers(axes) or list(range(starts.numel()))
    strides = numbers(steps) or [1] * len(dims)
    for dim, start, end, step in zip(dims, numbers(starts), numbers(ends), strides, strict=True):
        at = range(x.shape[dim])[start:end:step]
        up = at if step > 0 else at[::-1]
        x = x[(slice(None),) * (dim % x.dim()) + (slice(up.start, up.stop, up.step),)]
        if step < 0:
            x = x.flip(dim)
    return x


def gather(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % x.dim()
    found = x.index_select(axis, _not_negative(indices, x.shape[axis]).reshape(-1))
    return found.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _not_negative(indices: Tensor, extent: int) -> Tensor:
    return torch.where(indices < 0, indices + extent, indices)


def gather_elements(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0)
    return x.gather(axis, _not_negative(indices, x.shape[axis]))


def gather_nd(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    if attributes.get("batch_dims"):
        raise refuse("GatherND with batch axes")
    return x[tuple(indices.unbind(-1))]


def scatter_nd(attributes: Attributes, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if attributes.get("reduction", b"none") != b"none":
        raise refuse("ScatterND with a reduction")
    return x.clone().index_put(tuple(indices.unbind(-1)), updates)


def expand(_: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    extents = numbers(shape)
    missing = [1] * (len(extents) - x.dim())
    pairs = zip([1] * (x.dim() - len(extents)) + extents, [*missing, *x.shape], strict=True)
    return x.expand([have if want == 1 else want for want, have in pairs])


def pad(
    attributes: Attributes,
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    amounts = numbers(pads)
    dims = [d % x.dim() for d in numbers(axes)] or list(range(x.dim()))
    pairs = [(0, 0)] * x.dim()
    for at, dim in enumerate(dims):
        pairs[dim] = (amounts[at], amounts[at + len(dims)])
    mode = attributes.get("mode", b"constant").decode()
    flat = [amount for pair in reversed(pairs) for amount in pair]
    if mode == "constant":
        return F.pad(x, flat, value=0 if value is None else value.item())
    name = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode]
    if any(pair != (0, 0) for pair in pairs[:-2]):
        raise refuse(f"Pad in mode {mode} of more than the last two axes")
    flat = flat[: 2 * min(2, x.dim() - 1)]
    return F.pad(x, flat, mode=name)


def arange(_: Attributes, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def constant_of_shape(attributes: Attributes, shape: Tensor) -> Tensor:
    value = constant(attributes["value"]) if "value" in attributes else torch.zeros(1)
    return torch.full(numbers(shape), value.item(), dtype=value.dtype)


def trilu(attributes: Attributes, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = numbers(k)[0] if k is not None else 0
    return torch.triu(x, diagonal) if attributes.get("upper", 1) else torch.tril(x, diagonal)


def resize(
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
        raise refuse(f"Resize in mode {mode}, {place}, {nearest} on {x.dim()} axes")
    if sizes is not None and sizes.numel():
        size = numbers(sizes)[2:]
    else:
        assert scales is not None
        size = [math.floor(n * s) for n, s in zip(x.shape, scales.tolist(), strict=True)][2:]
    return F.interpolate(x, size=size, mode=known[0], align_corners=known[1])


def depth_to_space(attributes: Attributes, x: Tensor) -> Tensor:
    block = attributes["blocksize"]
    if attributes.get("mode", b"DCR") == b"CRD":
        return F.pixel_shuffle(x, block)
    rows, channels, height, width = x.shape
    parts = x.reshape(rows, block, block, channels // block**2, height, width)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(rows, -1, height * block, width * block)


def space_to_depth(attributes: Attributes, x: Tensor) -> Tensor:
    block = attributes["blocksize"]
    rows, channels, height, width = x.shape
    parts = x.reshape(rows, channels, height // block, block, width // block, block)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(rows, -1, height // block, width // block)

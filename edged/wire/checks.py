"""What the payload of a request must be, by its header and the published limits. Pure.

Looks at sizes alone, never into a payload. Raises InvalidArgument for what contradicts itself and
ResourceExhausted for what is above a limit; the message says what was wrong and what to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from math import prod
from typing import TypeVar

from edged.errors import EdgedError, InvalidArgument, ResourceExhausted
from edged.wire.base import Limits
from edged.wire.operations import RequestHeader
from edged.wire.requests import Announce, Chunk, Infer, InputTensor, Share

ITEM_BYTES = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2,
    "INT32": 4, "INT64": 8, "FP16": 2, "FP32": 4, "FP64": 8,
}  # fmt: skip

_T = TypeVar("_T")


def check_payload(header: RequestHeader, sizes: Sequence[int], limits: Limits) -> None:
    """Check a request whose payload frames have these `sizes` in bytes."""
    if isinstance(header, Infer):
        _check_infer(header, _sizes_sent(header, sizes, limits), limits)
    elif isinstance(header, Chunk):
        if len(sizes) != 1 or not sizes[0]:
            raise InvalidArgument("a chunk has one payload frame, which is not empty")
    elif sizes:
        raise InvalidArgument(
            f"{len(sizes)} payload frames follow a header that takes none: send two frames"
        )
    elif isinstance(header, Announce):
        _check_within("rows", header.rows, limits.max_rows)
        _check_within("bytes", header.sent + header.bytes, limits.max_message_bytes)
    elif isinstance(header, Share):
        _check_within("bytes", header.bytes, limits.max_shared_bytes)


def by_input(inputs: Sequence[InputTensor], frames: Iterable[_T]) -> tuple[tuple[_T, ...], ...]:
    """Group by input what there is one of for each payload frame: the frames, or their sizes.

    A BYTES input has one frame a row, any other input has one.
    """
    each = iter(frames)
    return tuple([tuple(islice(each, _frames_of(tensor))) for tensor in inputs])


def _sizes_sent(header: Infer, sizes: Sequence[int], limits: Limits) -> Sequence[int]:
    """The sizes in bytes of the payload frames, which lie in this message, in earlier chunks or in
    shared memory.
    """
    upload, shared = header.parameters.upload, header.parameters.shared
    if (upload is not None) + (shared is not None) + bool(sizes) > 1:
        raise InvalidArgument(
            "the payload comes twice: send it in chunks, in shared memory, or in this message"
        )
    if upload is not None:
        _check_within("parameters.upload", sum(upload), limits.max_message_bytes)
        return upload
    if shared is not None:
        sizes = shared.sizes
        _check_within("parameters.shared", sum(sizes), limits.max_message_bytes)
        return sizes
    return sizes


def _check_infer(header: Infer, sizes: Sequence[int], limits: Limits) -> None:
    """Check an INFER whose payload frames, however they are sent, have these `sizes` in bytes."""
    _check_counts(header, limits)
    if len(header.inputs) > 1:
        _check_unique("input", [tensor.name for tensor in header.inputs])
    if len(header.outputs) > 1:
        _check_unique("output", [(o.name, o.parameters.model or "") for o in header.outputs])
    expected = 0
    for tensor in header.inputs:
        _check_shape(tensor, header.inputs[0].shape[0], limits)
        expected += _frames_of(tensor)
    if len(sizes) != expected:
        raise InvalidArgument(
            f"{len(sizes)} payload frames for inputs that take {expected}: "
            "send one a row for BYTES, one for any other input"
        )
    for tensor, mine in zip(header.inputs, by_input(header.inputs, sizes), strict=True):
        _check_bytes(tensor, mine)


def _check_counts(header: Infer, limits: Limits) -> None:
    for what, value, limit in (
        ("inputs", len(header.inputs), limits.max_inputs),
        ("outputs", len(header.outputs), limits.max_outputs),
        ("parameters.priority", header.parameters.priority, limits.max_priority),
        ("parameters.timeout", header.parameters.timeout or 0, limits.max_timeout_us),
    ):
        if value > limit:
            raise _too_many(what, value, limit)
    for output in header.outputs:
        if (output.parameters.classification or 0) > limits.max_classification:
            raise ResourceExhausted(
                f"output {output.name!r} asks for the {output.parameters.classification} best "
                f"classes, above the daemon's limit of {limits.max_classification}"
            )


def _check_within(what: str, value: int, limit: int) -> None:
    if value > limit:
        raise _too_many(what, value, limit)


def _too_many(what: str, value: int, limit: int) -> EdgedError:
    return ResourceExhausted(f"{what}: {value} is above the daemon's limit of {limit}")


def _check_unique(what: str, names: Sequence[object]) -> None:
    if len(set(names)) < len(names):
        name = Counter(names).most_common(1)[0][0]
        raise InvalidArgument(f"{what} {name!r} is listed twice: name each {what} once")


def _check_shape(tensor: InputTensor, rows: int, limits: Limits) -> None:
    name, shape = tensor.name, tensor.shape
    if shape[0] != rows:
        raise InvalidArgument(
            f"input {name!r} has {shape[0]} rows, the first input has {rows}: "
            "axis 0 is the row, the same for all inputs"
        )
    if rows > limits.max_rows:
        raise ResourceExhausted(
            f"{rows} rows are above the daemon's limit of {limits.max_rows}: split the request"
        )
    if tensor.datatype == "BYTES" and len(shape) != 1:
        raise InvalidArgument(
            f"input {name!r} is BYTES of shape {list(shape)}: make it [rows], one image a frame"
        )
    is_image = tensor.datatype == "UINT8" and len(shape) == 4 and shape[3] == 3
    if is_image and shape[1] * shape[2] > limits.max_pixels:
        raise ResourceExhausted(
            f"input {name!r} has images of {shape[1] * shape[2]} pixels, the daemon's limit is "
            f"{limits.max_pixels}: send smaller images"
        )


def _check_bytes(tensor: InputTensor, sizes: Sequence[int]) -> None:
    """`sizes` are those of the frames of `tensor`, in bytes."""
    if tensor.datatype == "BYTES":
        for row, size in enumerate(sizes):
            if not size:
                raise InvalidArgument(
                    f"input {tensor.name!r}, row {row}: the image is empty; send a JPEG or PNG file"
                )
        return
    # This is exact, since Python's integers do not overflow.
    need = prod(tensor.shape) * ITEM_BYTES[tensor.datatype]
    if sizes[0] != need:
        raise InvalidArgument(
            f"input {tensor.name!r}: {tensor.datatype} of shape {list(tensor.shape)} takes "
            f"{need} bytes, its frame has {sizes[0]}"
        )


def _frames_of(tensor: InputTensor) -> int:
    return tensor.shape[0] if tensor.datatype == "BYTES" else 1

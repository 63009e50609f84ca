"""Frames to messages and back. Pure: knows no sockets, no clock, no arrays.

A message is `[b"EDG1" + op, header, payload frames...]`, without the routing id that a ROUTER puts
in front. Payload frames are never copied or looked into. Everything is checked against the limits
before anything is allocated in proportion to what a frame claims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from math import prod
from typing import Any, TypeAlias, TypeVar

import msgspec

from edged.errors import Code, EdgedError, InvalidArgument, ResourceExhausted, Unsupported
from edged.wire.base import MAX_ITEMS, Id, Limits
from edged.wire.headers import convert, one_line, unpack
from edged.wire.operations import (
    ADMIN_REQUESTS,
    REPLIES,
    REQUESTS,
    ReplyHeader,
    RequestHeader,
    why_unsupported,
)
from edged.wire.replies import ErrorReply, InferReply
from edged.wire.requests import Announce, Chunk, Infer, InputTensor, Share

MAGIC = b"EDG1"  # the digit is the version of the protocol
ITEM_BYTES = {
    "BOOL": 1, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8, "INT8": 1, "INT16": 2,
    "INT32": 4, "INT64": 8, "FP16": 2, "FP32": 4, "FP64": 8,
}  # fmt: skip

MAX_REPLY_ITEMS = 65_536  # labels of large vocabularies
MAX_REPLY_HEADER_BYTES = 16 * 2**20  # statistics, labels and top-k of many rows travel in headers

Buffer: TypeAlias = bytes | bytearray | memoryview
Frames: TypeAlias = list[Buffer]
_H = TypeVar("_H")


class RequestMessage(msgspec.Struct, frozen=True):
    """A request as it was received. Only Infer and Chunk have a `payload`: that of an Infer has one
    frame for each row of a BYTES input, and one for any other input, in the order of the inputs.
    """

    header: RequestHeader
    payload: tuple[Buffer, ...] = ()


class ReplyMessage(msgspec.Struct, frozen=True):
    """A reply as it was received. Only InferReply has a `payload`: one frame for each output
    without classification.
    """

    header: ReplyHeader
    payload: tuple[Buffer, ...] = ()


class BadRequest(EdgedError):
    """The frames are no valid request. `code` says why; `id` is None where it was not readable."""

    def __init__(self, cause: EdgedError, id: str | None) -> None:
        super().__init__(str(cause), retry_after_s=cause.retry_after_s)
        self.code = cause.code
        self.id = id


# --- requests -----------------------------------------------------------------------------------


def decode_request(
    frames: Sequence[Buffer],
    limits: Limits,
    operations: Mapping[int, type[RequestHeader]] = REQUESTS,
) -> RequestMessage:
    """The request in `frames`, which must be one of the endpoint's `operations`.

    Raises BadRequest, and nothing else, for any other content.
    """
    try:
        sizes = _sizes(frames, limits)
        header_type = _header_type(frames[0], operations)
        header = _decode(frames[1], header_type, MAX_ITEMS, "request header")
        _check_payload(header, sizes[2:], limits)
    except EdgedError as error:
        raise BadRequest(error, _readable_id(frames, limits)) from error
    return RequestMessage(header, tuple(frames[2:]))


def encode_request(header: RequestHeader, payload: Sequence[Buffer] = ()) -> Frames:
    """The frames of a request, unchecked: see `check_request`."""
    return [_FIRST_FRAMES[type(header)], _encoder.encode(header), *payload]


def check_request(header: RequestHeader, payload: Sequence[Buffer], limits: Limits) -> None:
    """Check before sending what the daemon checks on receipt.

    Raises InvalidArgument or ResourceExhausted, with the daemon's message.
    """
    sizes = _sizes(encode_request(header, payload), limits)
    _check_payload(header, sizes[2:], limits)


# --- what the payload of a request must be ------------------------------------------------------


def _check_payload(header: RequestHeader, sizes: Sequence[int], limits: Limits) -> None:
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
        _check_within("parameters.shared", sum(shared.sizes), limits.max_message_bytes)
        return shared.sizes
    return sizes


def _check_infer(header: Infer, sizes: Sequence[int], limits: Limits) -> None:
    """Check an INFER whose payload frames, however they are sent, have these `sizes` in bytes."""
    _check_counts(header, limits)
    if len(header.inputs) > 1:
        _check_unique("input", [tensor.name for tensor in header.inputs])
    if len(header.outputs) > 1:
        _check_unique("output", [(o.name, o.parameters.model or "") for o in header.outputs])
    rows = header.inputs[0].shape[0]
    for tensor in header.inputs:
        _check_shape(tensor, rows, limits)
    counts = [rows if tensor.datatype == "BYTES" else 1 for tensor in header.inputs]
    if len(sizes) != sum(counts):
        raise InvalidArgument(
            f"{len(sizes)} payload frames for inputs that take {sum(counts)}: "
            "send one a row for BYTES, one for any other input"
        )
    left = iter(sizes)
    for tensor, count in zip(header.inputs, counts, strict=True):
        _check_bytes(tensor, list(islice(left, count)))


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
                    f"input {tensor.name!r}, row {row}: the image is empty; send a file"
                )
        return
    # This is exact, since Python's integers do not overflow.
    need = prod(tensor.shape) * ITEM_BYTES[tensor.datatype]
    if sizes[0] != need:
        raise InvalidArgument(
            f"input {tensor.name!r}: {tensor.datatype} of shape {list(tensor.shape)} takes "
            f"{need} bytes, its frame has {sizes[0]}"
        )


# --- replies ------------------------------------------------------------------------------------


def encode_reply(header: ReplyHeader, payload: Sequence[Buffer] = ()) -> Frames:
    """The frames of a reply."""
    return [_FIRST_FRAMES[type(header)], _encoder.encode(header), *payload]


def reply_type(header: RequestHeader) -> type[ReplyHeader]:
    """The type of a successful reply to `header`."""
    return _REPLY_TYPES[type(header)]


def encode_error(error: EdgedError, id: str | None) -> Frames:
    """The frames of an error reply. `id` is the request's; None where it is not known."""
    after_s = error.retry_after_s
    return encode_reply(
        ErrorReply(
            error=one_line(str(error)),
            code=Code(error.code).value,
            id=id,
            retry_after_us=None if after_s is None else round(after_s * 1e6),
        )
    )


def decode_reply(frames: Sequence[Buffer]) -> ReplyMessage:
    """The reply in `frames`, an ErrorReply included. Raises EdgedError when they are no reply."""
    if len(frames) < 2:
        raise EdgedError(f"the daemon's reply has {len(frames)} frames, it takes at least two")
    header_type = _header_type(frames[0], REPLIES)
    if memoryview(frames[1]).nbytes > MAX_REPLY_HEADER_BYTES:
        raise EdgedError(f"the daemon's reply has a header above {MAX_REPLY_HEADER_BYTES} bytes")
    try:
        header = _decode(frames[1], header_type, MAX_REPLY_ITEMS, "reply header")
    except EdgedError as error:
        raise EdgedError(f"the daemon's reply is not readable: {error}") from error
    payload = tuple(frames[2:])
    _check_reply_payload(header, payload)
    return ReplyMessage(header, payload)


def _check_reply_payload(header: ReplyHeader, payload: Sequence[Buffer]) -> None:
    sizes = []
    if isinstance(header, InferReply):
        sizes = [
            prod(output.shape) * ITEM_BYTES[output.datatype]
            for output in header.outputs
            if output.classification is None
        ]
    if sizes != [memoryview(frame).nbytes for frame in payload]:
        raise EdgedError("the payload frames of the daemon's reply do not match its header")


# --- both ways ----------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
_ALL_REQUESTS = REQUESTS | ADMIN_REQUESTS
_REPLY_TYPES = {request: REPLIES[op] for op, request in _ALL_REQUESTS.items()}
# Each inference needs these headers, so they are decoded in one step. The step allocates no more
# memory than the frame has bytes, because no field of theirs takes values of any depth.
_DECODERS: dict[type, msgspec.msgpack.Decoder[Any]] = {
    header: msgspec.msgpack.Decoder(header) for header in (Infer, InferReply)
}
_FIRST_FRAMES: dict[type, bytes] = {
    cls: MAGIC + bytes([op]) for table in (_ALL_REQUESTS, REPLIES) for op, cls in table.items()
}


def _sizes(frames: Sequence[Buffer], limits: Limits) -> list[int]:
    """The size of each frame in bytes. Raises if they are too few, too many or too large."""
    sizes = [memoryview(frame).nbytes for frame in frames]
    if len(sizes) < 2:
        raise InvalidArgument(
            f"the message has {len(sizes)} frames: send the operation, a header, the payload"
        )
    if len(sizes) > limits.max_frames:
        raise ResourceExhausted(
            f"{len(sizes)} frames are above the daemon's limit of {limits.max_frames}"
        )
    if (have := sizes[1]) > limits.max_header_bytes:
        raise ResourceExhausted(
            f"a header of {have} bytes is above the daemon's limit of {limits.max_header_bytes}"
        )
    if (have := sum(sizes)) > limits.max_message_bytes:
        raise ResourceExhausted(
            f"a message of {have} bytes is above the daemon's limit of {limits.max_message_bytes}: "
            "send fewer rows or smaller images"
        )
    return sizes


def _header_type(frame: Buffer, operations: Mapping[int, type[_H]]) -> type[_H]:
    """The type of the header after the first `frame`, which must be one of `operations`."""
    head = bytes(frame) if memoryview(frame).nbytes == len(MAGIC) + 1 else b""
    if head[:3] != MAGIC[:3]:
        raise InvalidArgument(
            "the first frame is not EDG1 and an operation byte: is the other end edged?"
        )
    if head[:4] != MAGIC:
        raise Unsupported(
            f"this end speaks protocol EDG1, the other {one_line(repr(head[:4])[2:-1])}: "
            "use a client and a daemon of the same version"
        )
    header_type = operations.get(head[4])
    if header_type is None:
        raise Unsupported(why_unsupported(head[4]))
    return header_type


def _decode(frame: Buffer, header_type: type[_H], max_items: int, what: str) -> _H:
    """The header in `frame`. Raises InvalidArgument that says what is wrong with it."""
    decoder = _DECODERS.get(header_type)
    if decoder is not None:
        try:
            header: _H = decoder.decode(frame)
            return header
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # decoding in two steps says what is wrong
    return convert(unpack(frame, max_items), header_type, what)


def _readable_id(frames: Sequence[Buffer], limits: Limits) -> str | None:
    """The id in a request that is refused; None where it cannot be read."""
    if len(frames) < 2 or memoryview(frames[1]).nbytes > limits.max_header_bytes:
        return None
    try:
        raw = unpack(frames[1], MAX_ITEMS)
        return msgspec.convert(raw.get("id") if isinstance(raw, dict) else None, Id)
    except (InvalidArgument, msgspec.ValidationError):
        return None

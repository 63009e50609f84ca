"""Frames to messages and back. Pure: knows no sockets, no clock, no arrays.

A message is `[b"EDG1" + op, header, payload frames...]`, without the routing id that a ROUTER puts
in front. Payload frames are never copied or looked into. Everything is checked against the limits
before anything is allocated in proportion to what a frame claims.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, TypeAlias, TypeVar

import msgpack
import msgspec

from edged.errors import Code, EdgedError, InvalidArgument, ResourceExhausted, Unsupported
from edged.wire.base import MAX_ITEMS, Id, Limits
from edged.wire.checks import ITEM_BYTES, check_payload
from edged.wire.operations import (
    ADMIN_REQUESTS,
    REPLIES,
    REQUESTS,
    WITHDRAWN,
    AdminOp,
    ReplyHeader,
    RequestHeader,
)
from edged.wire.replies import ErrorReply, InferReply
from edged.wire.requests import Infer

MAGIC = b"EDG1"  # the digit is the version of the protocol
MAX_REPLY_ITEMS = 65_536  # labels of large vocabularies
MAX_REPLY_HEADER_BYTES = 16 * 2**20  # statistics, labels and top-k of many rows travel in headers

Buffer: TypeAlias = bytes | bytearray | memoryview
Frames: TypeAlias = list[Buffer]
_H = TypeVar("_H")


class RequestMessage(msgspec.Struct, frozen=True):
    """A request as it was received. Only Infer and Chunk have a `payload`; `by_input` tells which
    frame of an Infer belongs to which input.
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
        sizes = _sizes(frames)
        _check_size(sizes, limits)
        header_type = _operation(_op_number(frames[0]), operations)
        header = _decode(frames[1], header_type, MAX_ITEMS, "request header")
        check_payload(header, sizes[2:], limits)
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
    sizes = _sizes(encode_request(header, payload))
    _check_size(sizes, limits)
    check_payload(header, sizes[2:], limits)


def _sizes(frames: Sequence[Buffer]) -> list[int]:
    """The size of each frame in bytes."""
    return [memoryview(frame).nbytes for frame in frames]


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
    header_type = _operation(_op_number(frames[0]), REPLIES)
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


def one_line(text: str, limit: int = 400) -> str:
    """`text` made fit for a log line or a terminal: printable, one line, at most `limit` long."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."


def _check_size(sizes: Sequence[int], limits: Limits) -> None:
    """Raise if the frames, of these sizes in bytes, are too few, too many or too large."""
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


def _op_number(frame: Buffer) -> int:
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
    return head[4]


def _operation(number: int, table: Mapping[int, type[_H]]) -> type[_H]:
    header_type = table.get(number)
    if header_type is not None:
        return header_type
    if number in WITHDRAWN:
        raise Unsupported(
            f"operation 0x{number:02x}, {WITHDRAWN[number]}, was replaced by "
            f"0x{AdminOp.MODEL_SET:02x}, {AdminOp.MODEL_SET.name}: use an edged command or client "
            "of the daemon's version"
        )
    if number in ADMIN_REQUESTS:
        raise Unsupported(f"operation 0x{number:02x} is for the admin endpoint (server.admin) only")
    if number in REQUESTS:
        raise Unsupported(
            f"operation 0x{number:02x} is not for the admin endpoint: connect to server.endpoints"
        )
    raise Unsupported(f"operation 0x{number:02x} is not known: see docs/protocol.md")


def _decode(frame: Buffer, header_type: type[_H], max_items: int, what: str) -> _H:
    """The header in `frame`. Raises InvalidArgument that says what is wrong with it."""
    decoder = _DECODERS.get(header_type)
    if decoder is not None:
        try:
            header: _H = decoder.decode(frame)
            return header
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass  # decoding in two steps says what is wrong
    return _convert(_unpack(frame, max_items), header_type, what)


def _unpack(frame: Buffer, max_items: int) -> Any:
    """The msgpack value of a header: maps with text keys, lists, text, numbers, booleans, null.

    An array or a map is allocated when its length is read, before its items are there, and they
    nest: `max_items` bounds each of them.
    """
    try:
        return msgpack.unpackb(
            frame,
            raw=False,
            strict_map_key=True,
            max_str_len=memoryview(frame).nbytes,
            max_bin_len=0,
            max_array_len=max_items,
            max_map_len=max_items,
            max_ext_len=0,
        )
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        what = one_line(str(error), 100) or type(error).__name__
        raise InvalidArgument(f"the header is not one plain msgpack map: {what}") from error


def _convert(raw: Any, header_type: type[_H], what: str) -> _H:
    try:
        return msgspec.convert(raw, header_type)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidArgument(f"{what}: {one_line(str(error), 300)}") from error


def _readable_id(frames: Sequence[Buffer], limits: Limits) -> str | None:
    """The id in a request that is refused; None where it cannot be read."""
    if len(frames) < 2 or memoryview(frames[1]).nbytes > limits.max_header_bytes:
        return None
    try:
        raw = _unpack(frames[1], MAX_ITEMS)
        return msgspec.convert(raw.get("id") if isinstance(raw, dict) else None, Id)
    except (InvalidArgument, msgspec.ValidationError):
        return None

"""One request of a client until its outcome: its state, and how often it is sent. No I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, IntEnum, auto

import msgspec
from msgspec.structs import replace

from edged import wire
from edged.errors import EdgedError, InvalidArgument
from edged.sharedmem.writer import Piece, Region
from edged.uplink.sender import Upload


def positive_s(value: float, what: str) -> float:
    """`value` as a time to wait, in seconds. Raises InvalidArgument (bool, NaN, 0, -1, ...)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e6:
        raise InvalidArgument(f"{what} is {value!r}: give seconds above 0, at most 1e6")
    return float(value)


def positive_count(value: int, what: str) -> int:
    """`value` as a whole number from 1 up. Raises InvalidArgument."""
    if type(value) is not int or value < 1:
        raise InvalidArgument(f"{what} is {value!r}: give a whole number from 1 up")
    return value


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a request is sent again. Both waits double with each time it is sent."""

    attempts: int = 3  # how often one request is sent, the first time included
    resend_after_s: float = 5.0  # wait for an answer before the request is sent again
    backoff_s: float = 0.1  # shortest wait after the daemon has said "not now"

    def __post_init__(self) -> None:
        positive_count(self.attempts, "attempts")
        positive_s(self.resend_after_s, "resend_after_s")
        positive_s(self.backoff_s, "backoff_s")


class CallStage(Enum):
    """How far a call is."""

    QUEUED = auto()  # it is sent as soon as the connection and the daemon's limit allow
    UPLOADING = auto()  # it was announced on this connection; chunks are sent as granted
    OUT = auto()  # it was sent on this connection; the daemon may be working on it
    WAITING = auto()  # the daemon said "not now"; it is sent again later
    ENDED = auto()  # it has its outcome


class Rank(IntEnum):
    """Priority among the calls that wait to be sent: the lowest number first, then the oldest."""

    CONTROL = 0  # everything but INFER and its chunks
    CHUNK = 1  # a chunk of a granted upload
    INFER = 2


class Call(msgspec.Struct, eq=False):
    """One request until its outcome. The session alone changes it."""

    header: wire.RequestHeader
    payload: tuple[wire.Buffer, ...]
    began_s: float
    deadline_s: float
    order: int = 0  # counts the calls of a client as they are submitted
    is_infer: bool = False  # an INFER counts in the daemon's limit, and all others overtake it
    stage: CallStage = CallStage.QUEUED
    rank: Rank | None = None  # priority to be sent; None: it does not wait to be sent
    sends: int = 0
    wake_s: float = math.inf  # time at which it is sent (again) or ends
    upload: Upload | None = None  # the upload of an announced inference
    piece: Piece | None = None  # the shared memory that holds its payload
    outcome: wire.ReplyMessage | EdgedError | None = None
    ended_s: float = math.inf

    @property
    def id(self) -> str:
        return self.header.id


ON_THE_WAY = (CallStage.UPLOADING, CallStage.OUT)


def request_frames(
    call: Call, limits: wire.Limits, region: Region | None, now: float
) -> wire.Frames:
    """The frames of a call's own request.

    The request says how much time is left, which the daemon counts by its own clock. It has payload
    frames unless the payload was uploaded, or lies in `region`, which is shared with the daemon. A
    request that is sent again brings its payload.
    """
    header, upload, piece = call.header, call.upload, call.piece
    if not isinstance(header, wire.Infer):
        return wire.encode_request(header, call.payload)
    left_us = max(1, int((call.deadline_s - now) * 1e6))
    uploaded = shared = None
    if upload is not None and not upload.in_one_piece:
        uploaded = upload.sizes
    if piece is not None and piece.region is region and call.sends == 1:
        shared = piece.where
    parameters = replace(
        header.parameters,
        timeout=min(left_us, limits.max_timeout_us),
        upload=uploaded,
        shared=shared,
    )
    payload = call.payload if uploaded is None and shared is None else ()
    return wire.encode_request(replace(header, parameters=parameters), payload)

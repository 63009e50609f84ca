"""One request of a client until its outcome, how often it is sent, and where it is. No I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum, IntEnum, auto

import msgspec

from edged import wire
from edged.errors import EdgedError, InvalidArgument
from edged.sharedmem.writer import Piece
from edged.uplink.sender import Upload


def positive_s(value: float, what: str) -> float:
    """`value` if it is a time to wait, in seconds; else InvalidArgument (bool, NaN, 0, -1, ...)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1e6:
        raise InvalidArgument(f"{what} is {value!r}: give seconds above 0, at most 1e6")
    return float(value)


def positive_count(value: int, what: str) -> int:
    """`value` if it is a whole number from 1 up, else InvalidArgument."""
    if type(value) is not int or value < 1:
        raise InvalidArgument(f"{what} is {value!r}: give a whole number from 1 up")
    return value


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a request is sent again. Both waits double from send to send."""

    attempts: int = 3  # sends of one request, the first included
    resend_after_s: float = 5.0  # without any answer
    backoff_s: float = 0.1  # at least, when the daemon says "not now"

    def __post_init__(self) -> None:
        positive_count(self.attempts, "attempts")
        positive_s(self.resend_after_s, "resend_after_s")
        positive_s(self.backoff_s, "backoff_s")


class Stage(Enum):
    """Where a call is."""

    QUEUED = auto()  # to be sent as soon as the connection and the daemon's limit allow
    UPLOADING = auto()  # announced on this connection, and sent piece by piece when granted
    OUT = auto()  # sent on this connection; the daemon may be working on it
    WAITING = auto()  # the daemon said "not now"
    ENDED = auto()  # has its outcome


class Rank(IntEnum):
    """What overtakes what in the line of what is to be sent. Within a rank, what came first."""

    CONTROL = 0  # all but INFER and what belongs to it
    PIECE = 1  # of an upload that was granted
    INFER = 2


class Call(msgspec.Struct, eq=False):
    """One request until its outcome. The session alone changes it."""

    header: wire.RequestHeader
    payload: tuple[wire.Buffer, ...]
    order: int  # of submission
    began_s: float
    deadline_s: float
    is_infer: bool = False  # it counts in the daemon's limit; all others overtake it
    stage: Stage = Stage.QUEUED
    rank: Rank | None = None  # in the line of what is to be sent; None: it is not there
    sends: int = 0
    wake_s: float = math.inf  # when something is due: sending it (again), or its end
    upload: Upload | None = None  # of an inference that is to be announced
    piece: Piece | None = None  # of shared memory, where its payload lies
    outcome: wire.Reply | EdgedError | None = None
    ended_s: float = math.inf

    @property
    def id(self) -> str:
        return self.header.id


ON_THE_WAY = (Stage.UPLOADING, Stage.OUT)

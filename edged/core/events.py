"""The whole vocabulary of the scheduler on one page: what it is told and what it orders.

Times are seconds on a monotonic clock. A request is known by `rid`, a number that the driver
gives; payloads stay with the driver. The scheduler owes each arrived request exactly one
Answer or Refuse, and ends what it began on the device with the last BatchDone or a Discard.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from edged.errors import Code


class Part(msgspec.Struct, frozen=True):
    """Models of one request that begin with the same block (`group`): they run in one batch."""

    group: str
    models: tuple[str, ...]
    alone: bool = False  # a model that takes one request at a time


class Request(msgspec.Struct, frozen=True):
    """What the scheduler knows of a request."""

    rid: int
    client: int
    parts: tuple[Part, ...]
    rows: int = 1
    staging_rows: int = 1  # rows times the distinct preparations that the models need
    level: int = 0  # priority; 0 goes first
    deadline_s: float | None = None  # absolute
    stream: str | None = None  # requests of one stream of one client supersede each other
    ordered: bool = False  # answered after those of its client and stream that came before it


class Member(msgspec.Struct, frozen=True):
    """One request's share of a batch."""

    rid: int
    models: tuple[str, ...]


class GroupCost(msgspec.Struct, frozen=True):
    """Measured seconds of a batch of `rows[i]` rows through a group's path, ascending rows."""

    group: str
    rows: tuple[int, ...]
    time_s: tuple[float, ...]


# --- events ---------------------------------------------------------------------------------


class Arrived(msgspec.Struct, frozen=True, tag=True):
    """A request that the driver could decode. Duplicates and bad input never get here."""

    request: Request


class Prepared(msgspec.Struct, frozen=True, tag=True):
    """The request's rows lie in staging memory."""

    rid: int
    prepare_s: float


class PrepareFailed(msgspec.Struct, frozen=True, tag=True):
    """The request's payload is unusable; its staging rows are free again."""

    rid: int
    code: Code
    message: str


class BatchDone(msgspec.Struct, frozen=True, tag=True):
    """The batch has run. Rows whose models have all run have left staging memory."""

    batch: int
    infer_s: float
    output_s: float


class BatchFailed(msgspec.Struct, frozen=True, tag=True):
    """The batch has not run; its rows are still in staging memory."""

    batch: int
    code: Code
    message: str


class CancelAsked(msgspec.Struct, frozen=True, tag=True):
    rid: int


class ClientGone(msgspec.Struct, frozen=True, tag=True):
    """Nobody is left to answer: the client's requests are dropped."""

    client: int


class DeviceUp(msgspec.Struct, frozen=True, tag=True):
    """The worker is warm and empty. `costs` are of one lane."""

    costs: tuple[GroupCost, ...] = ()
    lanes: int = 1  # batches that it runs side by side


class DeviceDown(msgspec.Struct, frozen=True, tag=True):
    """The worker is gone, and with it everything that was on the device."""

    reason: str


class DrainAsked(msgspec.Struct, frozen=True, tag=True):
    """Finish what was accepted, refuse what comes; `Drained` follows."""


class Woke(msgspec.Struct, frozen=True, tag=True):
    """`wakeup_at()` has come."""


Event: TypeAlias = (
    Arrived
    | Prepared
    | PrepareFailed
    | BatchDone
    | BatchFailed
    | CancelAsked
    | ClientGone
    | DeviceUp
    | DeviceDown
    | DrainAsked
    | Woke
)


# --- commands -------------------------------------------------------------------------------


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Decode the payload into staging rows; answered by Prepared or PrepareFailed."""

    rid: int


class Run(msgspec.Struct, frozen=True, tag=True):
    """Run these rows through their models; answered by BatchDone or BatchFailed."""

    batch: int
    group: str
    members: tuple[Member, ...]
    rows: int
    wide: bool = True  # with the whole device; False: on one lane of several


class Discard(msgspec.Struct, frozen=True, tag=True):
    """Free the staging rows of a request that will not run (any more)."""

    rid: int


class Answer(msgspec.Struct, frozen=True, tag=True):
    """Send the results. The times add up to the request's time in the daemon."""

    rid: int
    queue_s: float
    prepare_s: float
    infer_s: float
    output_s: float
    batch_rows: int  # of the largest batch that the request was in


class Refuse(msgspec.Struct, frozen=True, tag=True):
    """Send an error."""

    rid: int
    code: Code
    message: str
    retry_after_s: float | None = None


class Drained(msgspec.Struct, frozen=True, tag=True):
    """Every accepted request is answered."""


Command: TypeAlias = Prepare | Run | Discard | Answer | Refuse | Drained

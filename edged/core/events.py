"""The whole vocabulary of the scheduler on one page: what it is told and what it orders.

What follows an event, and in which order, is in `Scheduler.handle`.
Times are seconds on a monotonic clock. A request is known by `rid`, a number that the driver
gives; payloads stay with the driver. The scheduler owes each arrived request exactly one
Answer or Refuse, and ends what it began on the device with the last BatchDone or a Discard.
It owes each `...Asked` with an `ask`, a number that the driver gives, exactly one Settled.

A driver that tells no Library has all models on the device for good. One that does tells it before
DeviceUp, and again whenever it changes; no model is then on the device but by DeviceUp and Load.
A device is known by the number that the driver gives it; the only one is number 0.

Recordings (`edged.observe.recording`) hold these classes by their tags and by the order of their
fields. A class or a field may be renamed at any time; a new field goes to the end, with a default.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from edged.errors import Code
from edged.typeinfo import describe

Seconds: TypeAlias = Annotated[float, Meta(ge=0.0, le=1e9)]
"""A time that a device reports. The bounds are checked where a report or a recording is read: no
honest device takes longer, and sums of such times stay far below what a float can hold."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Models of one request that begin with the same block (`group`): they run in one batch."""

    group: str
    models: tuple[str, ...]
    alone: bool = False  # a model that takes one request at a time


class Request(msgspec.Struct, frozen=True, array_like=True):
    """What the scheduler knows of a request."""

    rid: int
    client: int
    parts: tuple[Part, ...]
    rows: int = 1
    staging_rows: int = 1  # rows times the number of distinct preparations that the models need
    level: int = 0  # priority; 0 goes first
    deadline_s: float | None = None  # absolute time
    stream: str | None = None  # requests of one stream of one client supersede each other
    ordered: bool = False  # answered after what came before it of its client and stream
    # Prepared by the batch that runs it: Prepared is never sent, PrepareFailed may be.
    inline: bool = False
    payload_bytes: int = 0  # size of the payload that the driver keeps


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One request's share of a batch."""

    rid: int
    models: tuple[str, ...]


class GroupCost(msgspec.Struct, frozen=True, array_like=True):
    """Measured seconds of a batch of `rows[i]` rows through a group's path, ascending rows.

    They are those of one lane; `speed_up` is the factor by which all lanes together are faster.
    """

    group: str
    rows: tuple[int, ...]
    time_s: tuple[float, ...]
    speed_up: float | None = None  # None: not measured


class Model(msgspec.Struct, frozen=True, array_like=True):
    """A model that can be asked for, and what must be on the device to run it."""

    name: str
    blocks: tuple[str, ...]  # each once, in the order of the path
    measured: bool = True  # False: what its batches take is to be measured in idle moments


class BlockCost(msgspec.Struct, frozen=True, array_like=True):
    """What a block will take, from the store or a profile; measured values correct both."""

    block: str
    bytes: int
    load_s: float


class HeldBlock(msgspec.Struct, frozen=True, array_like=True):
    """A block on the device, and the bytes that it was measured to hold there."""

    block: str
    bytes: int


class Overhead(msgspec.Struct, frozen=True, array_like=True):
    """Bytes that the daemon's processes hold besides blocks."""

    fixed_bytes: int = 0  # measured, without any block
    staging_bytes: int = 0  # all staging rows, and pictures that are being decoded
    row_bytes: int = 0  # activations and buffers, for each row of the largest batch


# --- events ---------------------------------------------------------------------------------


class Arrived(msgspec.Struct, frozen=True, array_like=True, tag="arrived"):
    """A request that the driver could decode. Duplicates and bad input never get here."""

    request: Request


class Prepared(msgspec.Struct, frozen=True, array_like=True, tag="prepared"):
    """The request's rows lie in staging memory."""

    rid: int
    prepare_s: Seconds


class PrepareFailed(msgspec.Struct, frozen=True, array_like=True, tag="prepare-failed"):
    """The request's payload is unusable; its staging rows are free again.

    An inline request may have been cancelled, or put into a batch, before this is reported. The
    batch runs without it; the device forgets it with that batch or a Discard.
    """

    rid: int
    code: Code
    message: str


class BatchDone(msgspec.Struct, frozen=True, array_like=True, tag="batch-done"):
    """The batch has run. Rows whose models have all run have left staging memory."""

    batch: int
    infer_s: Seconds
    output_s: Seconds
    prepare_s: Seconds = 0.0  # time for the inline requests in it
    device: int = 0


class BatchFailed(msgspec.Struct, frozen=True, array_like=True, tag="batch-failed"):
    """The batch has not run; its rows are still in staging memory."""

    batch: int
    code: Code
    message: str
    device: int = 0


class CancelAsked(msgspec.Struct, frozen=True, array_like=True, tag="cancel-asked"):
    rid: int


class ClientGone(msgspec.Struct, frozen=True, array_like=True, tag="client-gone"):
    """Nobody is left to answer: the client's requests are dropped."""

    client: int


class DeviceUp(msgspec.Struct, frozen=True, array_like=True, tag="device-up"):
    """The worker is up and has no requests. `costs` are of one lane."""

    costs: tuple[GroupCost, ...] = ()
    lanes: int = 1  # batches that it runs side by side
    resident: tuple[HeldBlock, ...] = ()
    overhead: Overhead = Overhead()
    device: int = 0
    preparers: int | None = None  # requests that it prepares side by side; None: not known
    first: tuple[str, ...] = ()  # models to be loaded as far as there is room, in this order
    depth: int = 1  # batches that it has use for at once where it has one lane
    sizes: tuple[int, ...] = ()  # rows that batches are padded to, ascending; none: they are not


class DeviceDown(msgspec.Struct, frozen=True, array_like=True, tag="device-down"):
    """The worker is gone, and with it everything that was on the device.

    `suspects`: the requests that it is gone because of, where that is known; else it may be any
    that it was preparing, or that was in a batch which had begun.
    """

    reason: str
    suspects: tuple[int, ...] | None = None
    device: int = 0


class Library(msgspec.Struct, frozen=True, array_like=True, tag="library"):
    """All models that may be asked for, and all their blocks, in place of what was told before.

    Requests that were accepted for a model that has vanished are still served.
    """

    models: tuple[Model, ...]
    blocks: tuple[BlockCost, ...]


class BlockLoaded(msgspec.Struct, frozen=True, array_like=True, tag="block-loaded"):
    """The block can be run."""

    block: str
    bytes: Annotated[int, Meta(ge=0)]  # it was measured to hold, as if no other block were there
    load_s: Seconds  # reading and preparing it, without its wait for others
    pieces: dict[str, Annotated[int, Meta(ge=0)]] = {}  # bytes; names that blocks share


class BlockLoadFailed(msgspec.Struct, frozen=True, array_like=True, tag="block-load-failed"):
    """The block is not on the device, and nothing of it is."""

    block: str
    code: Code
    message: str


class BlockUnloaded(msgspec.Struct, frozen=True, array_like=True, tag="block-unloaded"):
    """The block's memory is the system's again."""

    block: str


class MemoryMeasured(msgspec.Struct, frozen=True, array_like=True, tag="memory-measured"):
    """The budget of the memory that blocks are in, and what the daemon holds of it together."""

    budget_bytes: int
    used_bytes: int | None = None  # None: not measured
    ceiling_bytes: int | None = None  # the budget if nobody else took memory; None: the same


class Calibrated(msgspec.Struct, frozen=True, array_like=True, tag="calibrated"):
    """One run of a Calibrate has ended, with what is known by now.

    `costs` and `overhead` take the place of what was told before.
    """

    model: str
    done: bool  # nothing more is to be measured of the model
    costs: tuple[GroupCost, ...] = ()
    overhead: Overhead | None = None  # None: as before


class PaceChanged(msgspec.Struct, frozen=True, array_like=True, tag="pace-changed"):
    """The device's clocks have changed: batches take `pace` times as long as when measured."""

    pace: float


class PayloadRoom(msgspec.Struct, frozen=True, array_like=True, tag="payload-room"):
    """Room for payloads that wait, and as much for staged ones: in the settings, at least one."""

    bytes: int


class LoadAsked(msgspec.Struct, frozen=True, array_like=True, tag="load-asked"):
    """Put a model on the device, and serve it from now on. It may be evicted later."""

    ask: int
    model: str


class UnloadAsked(msgspec.Struct, frozen=True, array_like=True, tag="unload-asked"):
    """Accept no more requests for a model, serve the accepted ones, and take it off the device."""

    ask: int
    model: str


class PinAsked(msgspec.Struct, frozen=True, array_like=True, tag="pin-asked"):
    """Load and never evict a model, or no more. Of all errors only RESOURCE_EXHAUSTED undoes it."""

    ask: int
    model: str
    pinned: bool


class DrainAsked(msgspec.Struct, frozen=True, array_like=True, tag="drain-asked"):
    """Finish what was accepted, refuse what comes; `Drained` follows."""


class Woke(msgspec.Struct, frozen=True, array_like=True, tag="woke"):
    """`wakeup_at()` has come."""


Event: TypeAlias = (
    Arrived | Prepared | PrepareFailed | BatchDone | BatchFailed | CancelAsked | ClientGone
    | DeviceUp | DeviceDown | Library | BlockLoaded | BlockLoadFailed | BlockUnloaded
    | MemoryMeasured | Calibrated | PaceChanged | PayloadRoom | LoadAsked | UnloadAsked | PinAsked
    | DrainAsked | Woke
)  # fmt: skip


# --- commands -------------------------------------------------------------------------------


class Prepare(msgspec.Struct, frozen=True, array_like=True, tag="prepare"):
    """Decode the payload into staging rows; answered by Prepared or PrepareFailed.

    An inline request is staged with that, and may be run at once.
    """

    rid: int


class Run(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """Run these rows through their models; answered by BatchDone or BatchFailed.

    It may be ordered before a lane is free; batches run in the order in which they are ordered.
    """

    batch: int
    group: str
    members: tuple[Member, ...]
    rows: int
    wide: bool = True  # it gets the whole device; False: one lane of several
    device: int = 0


class Discard(msgspec.Struct, frozen=True, array_like=True, tag="discard"):
    """Free the staging rows of a request that will not run (any more)."""

    rid: int


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Put a block on the device; answered by BlockLoaded or BlockLoadFailed. Loads go in order."""

    block: str


class Unload(msgspec.Struct, frozen=True, array_like=True, tag="unload"):
    """Take a block off the device that no request there needs; answered by BlockUnloaded."""

    block: str


class Calibrate(msgspec.Struct, frozen=True, array_like=True, tag="calibrate"):
    """Measure what batches of a model take, by one run of `rows` rows at most that nobody sent.

    Its blocks are on the device, which has nothing else to do. Answered by Calibrated.
    """

    model: str
    rows: int


class Settled(msgspec.Struct, frozen=True, array_like=True, tag="settled"):
    """What was asked has been done, or cannot be."""

    ask: int
    code: Code | None = None  # None: done
    message: str = ""
    retry_after_s: float | None = None


class Answer(msgspec.Struct, frozen=True, array_like=True, tag="answer"):
    """Send the results. The times add up to the request's time in the daemon."""

    rid: int
    queue_s: float
    prepare_s: float
    infer_s: float
    output_s: float
    batch_rows: int  # rows of the largest batch that the request was in


class Refuse(msgspec.Struct, frozen=True, array_like=True, tag="refuse"):
    """Send an error."""

    rid: int
    code: Code
    message: str
    retry_after_s: float | None = None


class Drained(msgspec.Struct, frozen=True, array_like=True, tag="drained"):
    """Every accepted request is answered."""


Command: TypeAlias = (
    Prepare | Run | Discard | Load | Unload | Calibrate | Answer | Refuse | Settled | Drained
)


describe(Event, Command)

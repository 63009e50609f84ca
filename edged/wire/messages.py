"""The vocabulary of the wire protocol: operations, headers of requests and replies, limits.

Knows no frames and no sockets; `edged.wire.codec` turns these values into frames. Names are those
of the Open Inference Protocol where it has one. docs/protocol.md is the same for people: a change
here is a change there.

Headers of requests refuse unknown fields, so that a misspelt one cannot be ignored; a field at its
default may be left out. Headers of replies name every field, and who reads them takes unknown ones,
so that an older client can talk to a newer daemon.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edged.errors import Code
from edged.manifest import MAX_TENSOR_NAME, NAME, DataType
from edged.typeinfo import describe

MAX_ITEMS = 256  # of one array or map in a request's header
GRANTS, SHARED_MEMORY = "grants", "shared_memory"  # extensions that clients look for
DEFAULT_ENDPOINT = "ipc:///run/edged/edged.sock"


class Op(IntEnum):
    """The byte after the magic. 0x40 to 0x5f are the admin endpoint's: edged.wire.admin."""

    INFER = 0x01
    CANCEL = 0x02
    PING = 0x03
    ANNOUNCE = 0x04
    CHUNK = 0x05  # a part of an INFER
    SHARE = 0x06
    SERVER_LIVE = 0x10
    SERVER_READY = 0x11
    SERVER_METADATA = 0x12
    MODEL_READY = 0x20
    MODEL_METADATA = 0x21
    REPOSITORY_INDEX = 0x22
    STATISTICS = 0x23
    ERROR = 0x7F


class Limits(msgspec.Struct, frozen=True):
    """What one request may hold, published in the server metadata.

    The daemon also sets ZMQ_MAXMSGSIZE to `max_message_bytes`: a frame above it closes the
    connection without an answer, so clients check before they send.
    """

    max_message_bytes: int = 64 * 2**20  # all frames of a message together
    max_header_bytes: int = 65_536
    max_frames: int = 256
    max_rows: int = 64  # extent of axis 0
    max_pixels: int = 2**25  # of one image, height times width; 8K video fits
    max_inputs: int = 16
    max_outputs: int = 64
    max_classification: int = 100
    max_priority: int = 100
    max_timeout_us: int = 3_600_000_000
    max_in_flight: int = 64  # unanswered INFER requests of one client
    max_shared_bytes: int = 256 * 2**20  # of the memory that one client shares with the daemon


Id: TypeAlias = Annotated[str, Meta(pattern=r"^[!-~]{1,128}\Z")]
"""What a client calls a request or a stream: 1 to 128 visible ASCII characters."""

Name: TypeAlias = Annotated[str, Meta(pattern=rf"^{NAME}\Z")]
"""Of a task or a model, as in a manifest."""

TensorName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_TENSOR_NAME)]

Extent: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]

Shape: TypeAlias = Annotated[tuple[Extent, ...], Meta(min_length=1, max_length=8)]


class RequestBase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class ReplyBase(msgspec.Struct, frozen=True):
    pass


# --- requests -----------------------------------------------------------------------------------


class InputTensor(RequestBase, frozen=True):
    """One input; `shape[0]` is the number of rows, the same for all inputs of a request.

    BYTES            shape (rows,): one JPEG or PNG file a row, each in its own payload frame
    UINT8            shape (rows, height, width, 3): decoded RGB images; resized and normalised
                     by tasks that take images
    anything else    the model's own input tensor, one payload frame, row-major, little-endian

    With one input in the request and one in the model, the name is not looked at.
    """

    name: TensorName
    datatype: DataType | Literal["BYTES"]
    shape: Shape


class OutputParameters(RequestBase, frozen=True):
    """How a task's result comes back. Both apply to the first output tensor of its model."""

    classification: Annotated[int, Meta(ge=1)] | None = None  # top k; None: the raw tensor
    softmax: bool = False  # over the last axis; False: scores as the model gives them
    model: Name | None = None  # this variant of the task; None: the daemon's choice


class RequestedOutput(RequestBase, frozen=True):
    """A task that the request wants done on its rows."""

    name: Name
    parameters: OutputParameters = OutputParameters()


class Shared(RequestBase, frozen=True):
    """Where a payload lies in the memory that its client shares with the daemon."""

    region: Id
    # Offset and size in bytes of each payload frame.
    frames: Annotated[
        tuple[tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=1)]], ...],
        Meta(min_length=1, max_length=MAX_ITEMS),
    ]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple([size for _, size in self.frames])


class InferParameters(RequestBase, frozen=True):
    timeout: Annotated[int, Meta(ge=1)] | None = None  # µs from receipt; None: the daemon's default
    priority: Annotated[int, Meta(ge=0)] = 0  # 1 is the highest; 0: the daemon's default level
    stream: Id | None = None  # newer requests of a client's stream replace those that still wait
    ordered: bool = False  # answered after those of its client and stream that came before it
    # Sizes in bytes of the payload frames, where they have come as chunks before.
    upload: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(max_length=MAX_ITEMS)] | None = (
        None
    )
    shared: Shared | None = None  # the payload lies there; no frames follow


class Infer(RequestBase, frozen=True):
    id: Id
    inputs: Annotated[tuple[InputTensor, ...], Meta(min_length=1, max_length=MAX_ITEMS)]
    outputs: Annotated[tuple[RequestedOutput, ...], Meta(min_length=1, max_length=MAX_ITEMS)]
    parameters: InferParameters = InferParameters()


class Cancel(RequestBase, frozen=True):
    """Takes back the INFER request `request` of the same client."""

    id: Id
    request: Id


class Ping(RequestBase, frozen=True):
    """With `interval`, a promise to be heard from at least so often while requests are out.

    The daemon drops the work of a client that is then silent for three intervals.
    """

    id: Id
    interval: Annotated[int, Meta(ge=10_000, le=60_000_000)] | None = None  # µs; None: no promise


class Announce(RequestBase, frozen=True):
    """Asks for a grant to upload the payload of the coming INFER `request`, in chunks.

    Again with what is left, when a grant has ended before all was sent.
    """

    id: Id
    request: Id
    task: Name  # one that the request will ask for
    bytes: Annotated[int, Meta(ge=1)]  # of payload that are left to send
    sent: Annotated[int, Meta(ge=0)] = 0  # before these, under earlier grants
    rows: Annotated[int, Meta(ge=1)] = 1
    link_bytes_s: Annotated[int, Meta(ge=1)] | None = None  # what the device's link carries alone


class Chunk(RequestBase, frozen=True):
    """Bytes of the payload of the INFER `id`, all of its frames strung together."""

    id: Id
    offset: Annotated[int, Meta(ge=0)]  # of the first of these bytes


class Share(RequestBase, frozen=True):
    """Asks for memory in which the daemon reads payloads; for a client on the daemon's host."""

    id: Id
    bytes: Annotated[int, Meta(ge=1)]


class ServerLive(RequestBase, frozen=True):
    id: Id


class ServerReady(RequestBase, frozen=True):
    id: Id


class ServerMetadata(RequestBase, frozen=True):
    id: Id


class ModelReady(RequestBase, frozen=True):
    """`name`: a task (then: its default model), or a model."""

    id: Id
    name: Name


class ModelMetadata(RequestBase, frozen=True):
    """`name`: a task (then: its default model), or a model."""

    id: Id
    name: Name


class RepositoryIndex(RequestBase, frozen=True):
    id: Id
    ready: bool = False  # True: only models that can be used now


class Statistics(RequestBase, frozen=True):
    id: Id


OrdinaryRequest: TypeAlias = (
    Infer
    | Cancel
    | Ping
    | Announce
    | Chunk
    | Share
    | ServerLive
    | ServerReady
    | ServerMetadata
    | ModelReady
    | ModelMetadata
    | RepositoryIndex
    | Statistics
)


# --- replies ------------------------------------------------------------------------------------


class Class(ReplyBase, frozen=True):
    """One of the best classes of a row; `label` is empty where the model names none."""

    index: int
    score: float
    label: str = ""


class OutputTensor(ReplyBase, frozen=True):
    """One output tensor of the model that served task `name`.

    `classification` holds the best classes of each row, best first, in place of the payload
    frame; `datatype` and `shape` are then those of the tensor that they were taken from.
    """

    name: str
    model: str
    tensor: str
    datatype: DataType
    shape: tuple[int, ...]
    classification: tuple[tuple[Class, ...], ...] | None = None


class InferTimes(ReplyBase, frozen=True):
    """Where the time of a request went, in what company, and what the client may send now."""

    queue_us: int = 0  # waiting, prepared or not
    compute_input_us: int = 0  # decode, resize, normalise
    compute_infer_us: int = 0
    compute_output_us: int = 0  # softmax, top-k, copies
    batch_size: int = 0  # rows of the largest batch that it was part of
    tier: str = "edge"
    emulated: bool = False  # the time is another device's, the values mean nothing
    credits: int | None = None  # such requests that the client may have unanswered from now on


class InferReply(ReplyBase, frozen=True):
    id: str
    outputs: tuple[OutputTensor, ...]
    parameters: InferTimes = InferTimes()


class CancelReply(ReplyBase, frozen=True):
    """True: the request is answered with CANCELLED. False: too late, or never heard of it."""

    id: str
    cancelled: bool


class PingReply(ReplyBase, frozen=True):
    id: str


class GrantReply(ReplyBase, frozen=True):
    """Leave to upload at `rate_bytes_s` for `lease_us`, beginning `start_us` after this came.

    Without a rate the uplink is not shared out: send the INFER in one piece, at once.
    """

    id: str
    start_us: int = 0
    rate_bytes_s: int | None = None
    lease_us: int | None = None


class ChunkReply(ReplyBase, frozen=True):
    """`received`: bytes of the upload that are there."""

    id: str
    received: int


class ShareReply(ReplyBase, frozen=True):
    """The file `path`, of `bytes`, is the client's to map and to write while it holds a lock."""

    id: str
    region: str
    path: str
    bytes: int


class LiveReply(ReplyBase, frozen=True):
    id: str
    live: bool


class ReadyReply(ReplyBase, frozen=True):
    id: str
    ready: bool
    state: str = ""  # STARTING, READY, DRAINING, RECOVERING
    reason: str = ""  # why it is not ready, for people


class ServerMetadataReply(ReplyBase, frozen=True):
    id: str
    name: str
    version: str
    extensions: tuple[str, ...] = ()
    limits: Limits = Limits()


class ModelReadyReply(ReplyBase, frozen=True):
    id: str
    name: str  # of the model
    ready: bool
    reason: str = ""


class TensorMetadata(ReplyBase, frozen=True):
    """`shape` with the row axis; -1 is any extent."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadataReply(ReplyBase, frozen=True):
    id: str
    name: str
    task: str
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    max_rows: int | None = None  # rows that run at once; None: as many as come together
    labels: tuple[str, ...] = ()  # of the last axis of the first output
    preprocess: dict[str, Any] | None = None  # as in the manifest; None: takes tensors only
    accuracy: dict[str, Any] | None = None  # as in the manifest


class ModelState(ReplyBase, frozen=True):
    name: str
    task: str
    state: str  # READY, LOADING, UNAVAILABLE
    reason: str = ""
    default: bool = True  # serves the task when no variant is asked for
    precision: str = ""
    total_bytes: int | None = None  # of all its blocks
    shared_bytes: int | None = None  # of those that other models use, too
    version: str = ""  # of its manifest; another one after a reload with changes
    pinned: bool = False  # never leaves the device


class RepositoryIndexReply(ReplyBase, frozen=True):
    id: str
    models: tuple[ModelState, ...]


class Duration(ReplyBase, frozen=True):
    count: int = 0
    ns: int = 0  # the sum


class Failures(ReplyBase, frozen=True):
    count: int = 0
    by_code: dict[str, int] = {}


class ServerStatistics(ReplyBase, frozen=True):
    state: str = ""
    reason: str = ""
    pid: int = 0
    uptime_s: float = 0.0
    worker_restarts: int = 0
    clients: int = 0
    in_flight: int = 0  # accepted requests without an answer
    queued: int = 0  # those of them that are not on the device


class TaskStatistics(ReplyBase, frozen=True):
    """One task since the daemon started. A request for three tasks counts in all three."""

    name: str
    inference_count: int = 0  # rows
    execution_count: int = 0  # batches with at least one row of the task
    success: Duration = Duration()  # requests, from receipt to reply
    fail: Failures = Failures()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    latency_us: dict[str, float] = {}  # p50, p99 of successes
    queued: int = 0


class BatchStatistics(ReplyBase, frozen=True):
    """Batches of `rows` rows: how many, and how many of those held more than one task."""

    rows: int
    count: int = 0
    mixed: int = 0


class StatisticsReply(ReplyBase, frozen=True):
    id: str
    server: ServerStatistics = ServerStatistics()
    tasks: tuple[TaskStatistics, ...] = ()
    batches: tuple[BatchStatistics, ...] = ()
    memory: dict[str, int] = {}  # bytes by name


class ErrorReply(ReplyBase, frozen=True):
    """`id` is None when the request was so damaged that its id could not be read."""

    error: str
    code: str = Code.INTERNAL.value
    id: str | None = None
    retry_after_us: int | None = None


OrdinaryReply: TypeAlias = (
    InferReply
    | CancelReply
    | PingReply
    | GrantReply
    | ChunkReply
    | ShareReply
    | LiveReply
    | ReadyReply
    | ServerMetadataReply
    | ModelReadyReply
    | ModelMetadataReply
    | RepositoryIndexReply
    | StatisticsReply
    | ErrorReply
)

REQUESTS: dict[int, type[OrdinaryRequest]] = {
    Op.INFER: Infer,
    Op.CANCEL: Cancel,
    Op.PING: Ping,
    Op.ANNOUNCE: Announce,
    Op.CHUNK: Chunk,
    Op.SHARE: Share,
    Op.SERVER_LIVE: ServerLive,
    Op.SERVER_READY: ServerReady,
    Op.SERVER_METADATA: ServerMetadata,
    Op.MODEL_READY: ModelReady,
    Op.MODEL_METADATA: ModelMetadata,
    Op.REPOSITORY_INDEX: RepositoryIndex,
    Op.STATISTICS: Statistics,
}

REPLIES: dict[int, type[OrdinaryReply]] = {
    Op.INFER: InferReply,
    Op.CANCEL: CancelReply,
    Op.PING: PingReply,
    Op.ANNOUNCE: GrantReply,
    Op.CHUNK: ChunkReply,
    Op.SHARE: ShareReply,
    Op.SERVER_LIVE: LiveReply,
    Op.SERVER_READY: ReadyReply,
    Op.SERVER_METADATA: ServerMetadataReply,
    Op.MODEL_READY: ModelReadyReply,
    Op.MODEL_METADATA: ModelMetadataReply,
    Op.REPOSITORY_INDEX: RepositoryIndexReply,
    Op.STATISTICS: StatisticsReply,
    Op.ERROR: ErrorReply,
}


describe(*REQUESTS.values(), *REPLIES.values())

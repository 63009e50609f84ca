"""Headers of the daemon's replies. Values only.

Knows no frames and no sockets; `edged.wire.codec` turns these values into frames.
"""

from __future__ import annotations

from typing import Any, TypeAlias, get_args

from msgspec import field

from edged.errors import Code
from edged.manifest import DataType
from edged.typeinfo import describe
from edged.wire.base import Limits, ReplyBase


class ClassScore(ReplyBase, frozen=True):
    """One of the best classes of a row; `label` is empty where the model names none."""

    index: int
    score: float
    label: str = ""


class OutputTensor(ReplyBase, frozen=True):
    """One output tensor of the model that served task `name`.

    `classification` holds the best classes of each row, best first. It replaces the payload frame;
    `datatype` and `shape` are then those of the tensor that the classes were taken from.
    """

    name: str
    model: str
    tensor: str
    datatype: DataType
    shape: tuple[int, ...]
    classification: tuple[tuple[ClassScore, ...], ...] | None = None


class InferTimes(ReplyBase, frozen=True):
    """Where the time of a request went, its batch, and how much the client may send from now on."""

    queue_us: int = 0  # time of waiting, before and after preparation
    compute_input_us: int = 0  # time of decoding, resizing, normalising
    compute_infer_us: int = 0
    compute_output_us: int = 0  # time of softmax, top-k, copies
    batch_size: int = 0  # rows of the largest batch that the request was part of
    tier: str = "edge"
    emulated: bool = False  # true: the times are another device's, the values mean nothing
    credits: int | None = None  # INFER requests that the client may have unanswered from now on


class InferReply(ReplyBase, frozen=True):
    id: str
    outputs: tuple[OutputTensor, ...]
    parameters: InferTimes = InferTimes()


class CancelReply(ReplyBase, frozen=True):
    """True: the request is answered with CANCELLED. False: it was answered, or never arrived."""

    id: str
    cancelled: bool


class PingReply(ReplyBase, frozen=True):
    id: str


class GrantReply(ReplyBase, frozen=True):
    """Permission to upload at `rate_bytes_s` for `lease_us`, beginning `start_us` after receipt.

    Without a rate the daemon limits no uploads: the client sends the INFER in one message.
    """

    id: str
    start_us: int = 0
    rate_bytes_s: int | None = None
    lease_us: int | None = None


class ChunkReply(ReplyBase, frozen=True):
    """`received` is the number of bytes of the upload that have arrived."""

    id: str
    received: int


class ShareReply(ReplyBase, frozen=True):
    """The client may map and write the file of `bytes` at `path` while it holds a lock on it."""

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
    name: str  # the name of the model
    ready: bool
    reason: str = ""


class TensorMetadata(ReplyBase, frozen=True):
    """`shape` includes the row axis; -1 is any extent."""

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
    max_rows: int | None = None  # largest number of rows that run together; None: no bound
    labels: tuple[str, ...] = ()  # names along the last axis of the first output
    preprocess: dict[str, Any] | None = None  # the manifest's; None: the model takes tensors only
    accuracy: dict[str, Any] | None = None  # the manifest's


class ModelIndex(ReplyBase, frozen=True):
    """One model of the repository."""

    name: str
    task: str
    state: str  # READY, LOADING, UNAVAILABLE
    reason: str = ""
    default: bool = True  # true: serves the task when no variant is named
    precision: str = ""
    total_bytes: int | None = None  # size of all its blocks
    shared_bytes: int | None = None  # size of its blocks that other models use, too
    version: str = ""  # version of its manifest; a reload that changes the model changes it
    pinned: bool = False  # never leaves the device


class RepositoryIndexReply(ReplyBase, frozen=True):
    id: str
    models: tuple[ModelIndex, ...]


class Duration(ReplyBase, frozen=True):
    count: int = 0
    ns: int = 0  # the sum of the durations


class Failures(ReplyBase, frozen=True):
    count: int = 0
    by_code: dict[str, int] = field(default_factory=dict)


class ServerStatistics(ReplyBase, frozen=True):
    state: str = ""
    reason: str = ""
    pid: int = 0
    uptime_s: float = 0.0
    worker_restarts: int = 0
    clients: int = 0
    in_flight: int = 0  # accepted requests that are not answered yet
    queued: int = 0  # accepted requests that are not on the device yet


class TaskWindow(ReplyBase, frozen=True):
    """What was asked of a task in the last minute or ten; zeros where nothing was."""

    span_s: int  # of the window; it begins a little earlier, or with the daemon
    seconds: float  # from its beginning until now
    answered: int = 0  # requests
    failed: int = 0
    rows: int = 0  # those of answered requests
    latency_us: dict[str, float] = field(default_factory=dict)  # empty where none was answered


class TaskStatistics(ReplyBase, frozen=True):
    """One task since the daemon started. A request for three tasks counts for each of them."""

    name: str
    inference_count: int = 0  # rows
    execution_count: int = 0  # batches that held a row of the task
    success: Duration = Duration()  # time of requests from receipt to reply
    fail: Failures = Failures()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    # p50, p90 and p99 of successful requests; empty where there are none
    latency_us: dict[str, float] = field(default_factory=dict)
    queued: int = 0
    windows: tuple[TaskWindow, ...] = ()


class BatchStatistics(ReplyBase, frozen=True):
    """The number of batches of `rows` rows, and of those that held more than one task."""

    rows: int
    count: int = 0
    mixed: int = 0


class BoardStatistics(ReplyBase, frozen=True):
    """What the board tells of itself now. None, or missing from a map: it does not tell."""

    power_mode: str | None = None
    gpu_load: float | None = None  # 0 to 1
    gpu_hz: int | None = None
    gpu_limit_hz: int | None = None  # what the power mode, and cooling, allow
    temperatures_c: dict[str, float] = field(default_factory=dict)  # one for each sensor
    rails_w: dict[str, float] = field(default_factory=dict)  # one for each rail
    total_w: float | None = None  # power of the whole board
    throttled: tuple[str, ...] = ()  # why it is throttled, as gpu-throttle-alert
    pace: float = 1.0  # batches are expected to take so many times as long as at the start
    answers_j: float | None = None  # energy of the board while batches ran, since the start
    answer_j: float | None = None  # the same for each answered request


class BatchWindow(ReplyBase, frozen=True):
    """The batches of the last minute or ten."""

    span_s: int
    seconds: float
    count: int = 0
    rows: int = 0  # those of all of them together
    mixed: int = 0


class BlockStatistics(ReplyBase, frozen=True):
    """One block that is on the device, or on its way there or back, and who shares it."""

    block: str
    bytes: int
    state: str  # loading, resident, leaving or unloading
    models: tuple[str, ...] = ()  # names of those that have it


class StatisticsReply(ReplyBase, frozen=True):
    id: str
    server: ServerStatistics = ServerStatistics()
    tasks: tuple[TaskStatistics, ...] = ()
    batches: tuple[BatchStatistics, ...] = ()
    memory: dict[str, int] = field(default_factory=dict)  # bytes, by what they are used for
    board: BoardStatistics | None = None  # None: the machine tells nothing of itself
    batch_windows: tuple[BatchWindow, ...] = ()
    blocks: tuple[BlockStatistics, ...] = ()


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


describe(*get_args(OrdinaryReply))

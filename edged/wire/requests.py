"""Headers of the requests that a client sends to the daemon. Values only.

Knows no frames and no sockets; `edged.wire.codec` turns these values into frames.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from msgspec import Meta

from edged.manifest import DataType
from edged.typeinfo import describe
from edged.wire.base import MAX_ITEMS, Id, Name, RequestBase, Shape, TensorName


class InputTensor(RequestBase, frozen=True):
    """One input; `shape[0]` is the number of rows, the same for all inputs of a request.

    BYTES            shape (rows,): one file a row (JPEG, PNG, WebP, BMP), each in a frame
    UINT8            shape (rows, height, width, 3): decoded RGB images; resized and normalised
                     by tasks that take images
    anything else    the model's own input tensor, one payload frame, row-major, little-endian

    The name does not matter where both the request and the model have one input.
    """

    name: TensorName
    datatype: DataType | Literal["BYTES"]
    shape: Shape


class OutputParameters(RequestBase, frozen=True):
    """How a task's result comes back. Both apply to the first output tensor of its model."""

    classification: Annotated[int, Meta(ge=1)] | None = (
        None  # number of best classes; None: the raw tensor
    )
    softmax: bool = False  # the last axis as probabilities; False: scores as the model gives them
    model: Name | None = None  # the variant of the task; None: the daemon chooses


class RequestedOutput(RequestBase, frozen=True):
    """A task to be done on the rows of the request."""

    name: Name
    parameters: OutputParameters = OutputParameters()


class SharedPayload(RequestBase, frozen=True):
    """Where a payload lies in the memory that its client shares with the daemon."""

    region: Id
    # The offset and the size in bytes of each payload frame.
    frames: Annotated[
        tuple[tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=1)]], ...],
        Meta(min_length=1, max_length=MAX_ITEMS),
    ]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple([size for _, size in self.frames])


class InferParameters(RequestBase, frozen=True):
    timeout: Annotated[int, Meta(ge=1)] | None = (
        None  # µs after receipt; None: the daemon's default
    )
    priority: Annotated[int, Meta(ge=0)] = 0  # 1 is the highest; 0: the daemon's default priority
    stream: Id | None = None  # a newer request of the same stream replaces those that still wait
    ordered: bool = False  # answers keep the order of arrival within the client and stream
    # Sizes in bytes of the payload frames that were sent in chunks before this request.
    upload: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(max_length=MAX_ITEMS)] | None = (
        None
    )
    shared: SharedPayload | None = None  # where the payload lies; no payload frames follow


class Infer(RequestBase, frozen=True):
    id: Id
    inputs: Annotated[tuple[InputTensor, ...], Meta(min_length=1, max_length=MAX_ITEMS)]
    outputs: Annotated[tuple[RequestedOutput, ...], Meta(min_length=1, max_length=MAX_ITEMS)]
    parameters: InferParameters = InferParameters()


class Cancel(RequestBase, frozen=True):
    """Cancels the INFER request `request` of the same client."""

    id: Id
    request: Id


class Ping(RequestBase, frozen=True):
    """Asks whether the daemon's front answers.

    With `interval` the client also promises to send something that often while it has unanswered
    requests. The daemon drops the work of a client that breaks the promise for three intervals.
    """

    id: Id
    interval: Annotated[int, Meta(ge=10_000, le=60_000_000)] | None = None  # µs; None: no promise


class Announce(RequestBase, frozen=True):
    """Asks for a grant to upload the payload of a later INFER, `request`, in chunks.

    A client whose grant has ended before all was sent announces the rest again.
    """

    id: Id
    request: Id
    task: Name  # one of the tasks that the request will ask for
    bytes: Annotated[int, Meta(ge=1)]  # payload that is left to send
    sent: Annotated[int, Meta(ge=0)] = 0  # payload that was sent under earlier grants
    rows: Annotated[int, Meta(ge=1)] = 1
    link_bytes_s: Annotated[int, Meta(ge=1)] | None = (
        None  # rate of the client's link when it is alone
    )


class Chunk(RequestBase, frozen=True):
    """A part of the payload of the INFER `id`, whose frames are joined without gaps."""

    id: Id
    offset: Annotated[int, Meta(ge=0)]  # position of the first byte in the whole payload


class Share(RequestBase, frozen=True):
    """Asks for memory that a client on the daemon's host fills and the daemon reads."""

    id: Id
    bytes: Annotated[int, Meta(ge=1)]


class ServerLive(RequestBase, frozen=True):
    id: Id


class ServerReady(RequestBase, frozen=True):
    id: Id


class ServerMetadata(RequestBase, frozen=True):
    id: Id


class ModelReady(RequestBase, frozen=True):
    """`name` is a model, or a task, which stands for its default model."""

    id: Id
    name: Name


class ModelMetadata(RequestBase, frozen=True):
    """`name` is a model, or a task, which stands for its default model."""

    id: Id
    name: Name


class RepositoryIndex(RequestBase, frozen=True):
    id: Id
    ready: bool = False  # True: only models that can be used now


class StatisticsQuery(RequestBase, frozen=True):
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
    | StatisticsQuery
)


describe(*get_args(OrdinaryRequest))

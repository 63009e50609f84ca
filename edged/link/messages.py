"""What the front and the device worker say to each other: messages, and their form as frames.

The vocabulary is that of the scheduler, `edged.core.events`: its orders go to the worker as they
are, and what the worker reports of them goes to the scheduler as it is. This module adds what the
scheduler has no part in: payloads, results, models, the worker's own start and memory. Knows no
sockets. A message is one frame (msgpack) and its payload frames: the input bytes after a
PayloadHeader, the raw output tensors after BatchOutputs.

Rules that both ends hold to:

* PayloadHeader takes the place of the scheduler's Prepare. Each gets exactly one Prepared or
  PrepareFailed, each Run one BatchOutputs or BatchFailed.
* A Run may come before a lane is free: lanes take them in the order in which they come.
* An inline request gets an answer only when it cannot be prepared, and its Run may follow at once:
  the worker copies a tensor as it reads it, and the lane of a Run decodes images that are not
  decoded yet. A Run skips requests whose inline preparation has failed; they stay known until
  their Discard.
* A request takes `rows` staging rows for each distinct preparation that its models need
  (`edged.device.inputs.preparations`). The front never lets the sum exceed `staging_rows`.
* The worker has freed these rows when the front reads PrepareFailed, or the BatchOutputs of the
  last of the request's models. A BatchFailed leaves them in place, so its members can run again.
* Discard may come at any time, and is not answered. Before the preparation was answered, it turns
  the answer into PrepareFailed(CANCELLED), unless they crossed, and no further picture is decoded;
  while a batch runs with the request, its rows stay until that batch answers. Otherwise they are
  free for the next request at once.
* A shared payload is read when it is prepared, at the latest before the BatchOutputs of its Run.
  Close tells that no PayloadHeader will name a file again.
* Load, Unload, Define and Forget are done in the order in which they come, beside the batches.
  Each Load gets one BlockLoaded or BlockLoadFailed, each Unload one BlockUnloaded, each Define one
  Defined or DefineFailed. The front unloads nothing that a staged request needs.
* A worker that cannot start sends WorkerFailed and exits with status 1. One that can starts without
  any block, and says Ready at once.
* Each Calibrate gets one ModelMeasured, when its one run has ended. The front sends it when no
  request is on the device, and no second one before that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from edged import wire
from edged.budget import DeviceBytes, Size
from edged.core.events import (
    BatchDone,
    BatchFailed,
    BlockLoaded,
    BlockLoadFailed,
    BlockUnloaded,
    Calibrate,
    Discard,
    Load,
    Prepared,
    PrepareFailed,
    Run,
    Unload,
)
from edged.errors import Code
from edged.manifest import DataType, Manifest

# A request is prepared inline only below both limits. To copy this many bytes takes less time than
# to tell the front that it is done, and larger images would hold up the rest of their batch.
INLINE_BYTES = 1 << 20
# Pixels of all pictures of a request: they take a lane a tenth of a second at most.
INLINE_PIXELS = 2**22


_Count: TypeAlias = Annotated[int, Meta(ge=1)]


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Encoded as the scheduler's events are."""


class _Part(msgspec.Struct, frozen=True, array_like=True):
    pass


class Input(_Part, frozen=True):
    """One input of a request; `shape` has the row axis.

    encoded  files of pictures, one payload frame a row; datatype and shape say nothing
    pixels   one frame, uint8 RGB of shape (rows, height, width, 3)
    tensor   one frame, row-major and little-endian, for the model's input called `name`
             (with one input on either side the name is not looked at)
    """

    name: str
    kind: Literal["encoded", "pixels", "tensor"]
    datatype: DataType
    shape: tuple[int, ...]


class Ask(_Part, frozen=True):
    """What a request wants of one model: all outputs, the first as the `classification` best."""

    model: str
    classification: int | None = None  # top k with labels; None: the raw tensor
    softmax: bool = False  # softmax of the first output, over its last axis


# --- front to worker -----------------------------------------------------------------------


class PayloadFile(_Part, frozen=True):
    """A payload in a file, which is memory that a client shares."""

    path: str
    frames: tuple[tuple[int, int], ...]  # offset and size in bytes of each

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple([size for _, size in self.frames])


class PayloadHeader(_Message, frozen=True):
    """Decode the payload frames that follow into staging rows."""

    rid: int
    rows: int
    inputs: tuple[Input, ...]
    asks: tuple[Ask, ...]
    inline: bool = False  # prepared by the batch that runs it: only a failure is reported
    shared: PayloadFile | None = None  # where the payload lies; no frames follow then
    # Client and priority level: the worker decodes first what is to run first.
    client: int = 0
    level: int = 0


class Close(_Message, frozen=True):
    """A client that shared this file is gone."""

    path: str


class Define(_Message, frozen=True):
    """Models to be served from now on, by key: prepare their blocks for this host, load none."""

    models: tuple[tuple[str, Manifest], ...]


class Forget(_Message, frozen=True):
    """Models that no request asks for any more; what only they needed is unloaded already.

    A batch may still run with a request that was taken back: the worker waits for its end.
    """

    models: tuple[str, ...]


class Measure(_Message, frozen=True):
    """Answered by WorkerMemory."""

    n: int


class Stop(_Message, frozen=True):
    """Finish what runs, then exit with status 0."""


ToWorker: TypeAlias = (
    PayloadHeader
    | Run
    | Discard
    | Load
    | Unload
    | Calibrate
    | Close
    | Define
    | Forget
    | Measure
    | Stop
)


# --- worker to front -----------------------------------------------------------------------


class BlockInfo(_Part, frozen=True):
    """One block, as it was loaded last."""

    id: str
    bytes_used: int  # host or device memory that the block takes while it is loaded
    load_us: int
    pieces: dict[str, int] = {}  # bytes of it, as in BlockLoaded; empty before it was loaded


class WarmUp(_Part, frozen=True):
    """Time of one model alone, all blocks of its path, measured after a first untimed run."""

    group: str  # id of the path's first block
    model: str
    rows: int
    infer_us: int
    wide: bool = True  # measured with the whole device; False: on one lane of several


class Ready(_Message, frozen=True):
    """The worker has opened its device and its store. No block is loaded yet; `blocks`, `warm_ups`
    and `measured` say what is known of earlier starts.

    `fixed_bytes`, `row_bytes`, `base_bytes` and `loading_bytes` are of the memory that blocks are
    in: the machine's with the device's, or the device's own alone.
    """

    backend: str
    device: str  # its name for people, such as "cpu (2 threads)"
    lanes: _Count  # batches that run side by side
    emulated: bool  # nothing is computed; figures and answers must say so
    models: tuple[str, ...]
    blocks: tuple[BlockInfo, ...]
    warm_ups: tuple[WarmUp, ...]
    versions: dict[str, str]
    staging_bytes: int
    pss_bytes: int  # proportional set size of the worker
    fixed_bytes: int = 0  # taken before anything was loaded
    private_bytes: int = 0  # the part of it that no file backs
    row_bytes: Size = 0  # activations in all lanes, for each row of the largest batch
    base_bytes: int = 0  # what runs take however many rows they have
    loading_bytes: int = 0  # what loading a block takes on top, for a moment
    lanes_prepare: bool = False  # the lanes decode small images themselves, inline
    decoding_bytes: int = 0  # the most that pictures take while they are decoded
    measured: tuple[str, ...] = ()  # models of which nothing is left to be measured
    device_bytes: DeviceBytes | None = None  # a GPU's memory, which is in no PSS
    depth: _Count = 1  # batches that it has use for at once on one lane: in flight, or running
    sizes: tuple[_Count, ...] = ()  # rows that batches are padded to; none: they are not


class WorkerFailed(_Message, frozen=True):
    """The worker could not start, or cannot go on; it exits with status 1."""

    code: Code
    message: str


class ModelOutput(_Part, frozen=True):
    """One output of one model for one request; `shape` has the row axis.

    `classes` holds one tuple a row, best first, where a classification was asked for. Without
    it the tensor is a payload frame; the frames of BatchOutputs are in the order of its outputs.
    """

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    classes: tuple[tuple[wire.ClassScore, ...], ...] | None = None


class ModelAnswer(_Part, frozen=True):
    """The outputs of one model for one request."""

    rid: int
    model: str
    outputs: tuple[ModelOutput, ...]


class BlockRun(_Part, frozen=True):
    """One block within a batch, on all its rows, in one run or in micro-batches."""

    block: str
    rows: int
    us: int


class BatchOutputs(_Message, frozen=True):
    """A batch has run; what it found for each model of each member."""

    done: BatchDone
    answers: tuple[ModelAnswer, ...]
    blocks: tuple[BlockRun, ...] = ()  # only where the worker's settings ask for them


class Defined(_Message, frozen=True):
    """The models can be asked for, as soon as their blocks are loaded."""

    models: tuple[str, ...]


class DefineFailed(_Message, frozen=True):
    """None of them can."""

    models: tuple[str, ...]
    code: Code
    message: str


class Building(_Message, frozen=True):
    """How far the blocks are whose preparation takes minutes; told as it goes on, and of no order.

    A Load of one of them fails at once, and can be ordered again when it waits no longer.
    """

    waiting: tuple[str, ...]  # blocks that are still to be prepared, first the one under way
    of: int  # how many they were at the beginning
    phase: str  # what the one under way does, for people
    share: float  # how much of it is done, 0 to 1


class ModelMeasured(_Message, frozen=True):
    """The one run of a Calibrate has ended. Where the model is `done`, its `warm_ups` and the
    figures of Ready with the same names take the place of what was known."""

    model: str
    done: bool
    warm_ups: tuple[WarmUp, ...] = ()
    row_bytes: Size = 0
    base_bytes: Size = 0
    loading_bytes: Size = 0


class WorkerMemory(_Message, frozen=True):
    """What the worker's process holds."""

    n: int
    pss_bytes: Size
    staging_bytes: int
    buffer_bytes: int  # activations at block borders
    private_bytes: Size = 0  # the part of the PSS that no file backs: nobody else can have it
    device_bytes: DeviceBytes | None = None  # a GPU's memory, which is in no PSS


FromWorker: TypeAlias = (
    Prepared
    | PrepareFailed
    | BatchOutputs
    | BatchFailed
    | BlockLoaded
    | BlockLoadFailed
    | BlockUnloaded
    | Ready
    | WorkerFailed
    | Defined
    | DefineFailed
    | Building
    | ModelMeasured
    | WorkerMemory
)


# Messages to their first frames, and back. Decoding raises msgspec.DecodeError or a ValueError: as
# both ends are ours, that is a bug. The front reads by edged.daemon.worker_port, and survives it.
encode: Callable[[ToWorker | FromWorker], bytes] = msgspec.msgpack.Encoder().encode
decode_to_worker: Callable[[bytes | memoryview], ToWorker]
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker: Callable[[bytes | memoryview], FromWorker]
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode

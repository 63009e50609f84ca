"""What the front and the device worker say to each other: messages, and their form as frames.

Knows no sockets and no scheduler. A message is one frame (msgpack) and its payload frames: the
input bytes of a Prepare, the raw output tensors of a BatchDone.

Rules that both ends hold to:

* Each Prepare gets exactly one Prepared or PrepareFailed, each Run one BatchDone or BatchFailed.
* A Run may come before a lane is free: lanes take them in the order in which they come.
* A light Prepare gets an answer only when it fails, and a Run may follow it at once: the worker
  copies a tensor as it reads it, and the lane of a Run decodes what images are not decoded yet. A
  Run leaves out requests whose light Prepare has failed; they stay known until their Discard.
* A request takes `rows` staging rows for each distinct preparation that its models need
  (`edged.device.inputs.preparations`). The front never lets the sum exceed `staging_rows`.
* The worker has freed these rows when the front reads PrepareFailed, or the BatchDone that ran the
  last of the request's models. A BatchFailed leaves them in place, so its members can run again.
* Discard may come at any time, and is not answered. Before the Prepare was answered, it turns the
  answer into PrepareFailed(CANCELLED), unless they crossed, and no further picture is decoded;
  while a batch runs with the request, its rows stay until that batch answers. Otherwise they are
  free for the next Prepare at once.
* The payload of a Prepare that is shared is read when it is prepared, at the latest before the
  BatchDone of its Run. Close tells that no Prepare will name a file again.
* Load, Unload, Define and Forget are done in the order in which they come, beside the batches.
  Each Load gets one Loaded or LoadFailed, each Unload one Unloaded, each Define one Defined or
  DefineFailed. The front unloads nothing that a staged request needs.
* A worker that cannot start sends Failed and exits with status 1. One that can starts without any
  block, and says Ready at once.
* Each Calibrate gets one Calibrated, when its one run has ended; the front sends it when no request
  is on the device, and no second one before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec

from edged.errors import Code
from edged.manifest import DataType, Manifest

LIGHT_BYTES = 1 << 20  # to copy that much takes less time than to tell the front that it is done;
# and larger images would hold up those that they share a batch with
LIGHT_PIXELS = 2**22  # of all pictures of a request: they take a lane a tenth of a second at most


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    pass


class _Part(msgspec.Struct, frozen=True, array_like=True):
    pass


class Input(_Part, frozen=True):
    """One input of a request; `shape` has the row axis.

    encoded  JPEG or PNG files, one payload frame a row; datatype and shape say nothing
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
    softmax: bool = False  # of the first output, over its last axis


class Member(_Part, frozen=True):
    """One request in a batch, with those of its models that this batch computes."""

    rid: int
    models: tuple[str, ...]


# --- front to worker -----------------------------------------------------------------------


class Shared(_Part, frozen=True):
    """Payload in a file, which is memory that a client shares."""

    path: str
    frames: tuple[tuple[int, int], ...]  # offset and size in bytes of each

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple([size for _, size in self.frames])


class Prepare(_Message, frozen=True):
    """Decode the payload frames into staging rows."""

    rid: int
    rows: int
    inputs: tuple[Input, ...]
    asks: tuple[Ask, ...]
    light: bool = False  # `is_light`
    shared: Shared | None = None  # the payload lies there; no frames follow
    # Whose it is and how urgent: what is decoded first is chosen as what runs first is.
    client: int = 0
    level: int = 0


class Run(_Message, frozen=True):
    """Compute one batch. All models of all members begin with the same block."""

    batch: int
    members: tuple[Member, ...]
    wide: bool = True  # alone on the whole device; False: on one lane of several


class Discard(_Message, frozen=True):
    """Forget a request."""

    rid: int


class Close(_Message, frozen=True):
    """A client that shared this file is gone."""

    path: str


class Load(_Message, frozen=True):
    """Bring a block of a defined model to the device."""

    block: str


class Unload(_Message, frozen=True):
    """Give a loaded block's memory back."""

    block: str


class Define(_Message, frozen=True):
    """Models to be served from now on, by key: prepare their blocks for this host, load none."""

    models: tuple[tuple[str, Manifest], ...]


class Forget(_Message, frozen=True):
    """Models that no request asks for any more; what only they needed is unloaded already.

    A batch may still run with a request that was taken back: the worker waits for its end.
    """

    models: tuple[str, ...]


class Calibrate(_Message, frozen=True):
    """Measure a model, whose blocks are loaded, by one run of at most so many rows; answered by
    Calibrated."""

    model: str
    rows: int


class Ping(_Message, frozen=True):
    """Answered by Pong from the thread that reads it, whatever the lanes do."""

    n: int


class Measure(_Message, frozen=True):
    """Answered by Memory."""

    n: int


class Stop(_Message, frozen=True):
    """Finish what runs, then exit with status 0."""


ToWorker: TypeAlias = (
    Prepare
    | Run
    | Discard
    | Close
    | Load
    | Unload
    | Define
    | Forget
    | Calibrate
    | Ping
    | Measure
    | Stop
)


# --- worker to front -----------------------------------------------------------------------


class BlockInfo(_Part, frozen=True):
    """One block, as it was loaded last."""

    id: str
    bytes_used: int  # host or device memory that the block takes while it is loaded
    load_us: int


class WarmUp(_Part, frozen=True):
    """Time of one model alone, all blocks of its path, measured after a first untimed run."""

    group: str  # id of the path's first block
    model: str
    rows: int
    infer_us: int
    wide: bool = True  # as of Run


class Ready(_Message, frozen=True):
    """The worker has opened its device and its store. No block is loaded yet; `blocks`, `warm_ups`
    and `measured` say what is known of earlier starts."""

    backend: str
    device: str  # for people, as "cpu (2 threads)"
    lanes: int  # batches that run side by side
    emulated: bool  # nothing is computed; figures and answers must say so
    models: tuple[str, ...]
    blocks: tuple[BlockInfo, ...]
    warm_ups: tuple[WarmUp, ...]
    versions: dict[str, str]
    staging_bytes: int
    pss_bytes: int  # proportional set size of the worker
    fixed_bytes: int = 0  # of it, before anything was loaded
    private_bytes: int = 0  # of it, what no file backs
    row_bytes: int = 0  # of activations in all lanes, for each row of the largest batch
    loading_bytes: int = 0  # that loading a block takes on top, for a moment
    lanes_prepare: bool = False  # they decode small images themselves: see `is_light`
    decoding_bytes: int = 0  # of pictures that are being decoded, at most
    measured: tuple[str, ...] = ()  # models of which nothing is left to be measured


class Failed(_Message, frozen=True):
    """The worker could not start, or cannot go on; it exits with status 1."""

    code: Code
    message: str


class Prepared(_Message, frozen=True):
    rid: int
    prepare_us: int  # time of the work itself, without waiting for a thread


class PrepareFailed(_Message, frozen=True):
    rid: int
    code: Code
    message: str


class Class(_Part, frozen=True):
    """One of the best classes; `label` is empty where the model names none."""

    index: int
    score: float
    label: str


class Output(_Part, frozen=True):
    """One output of one model for one request; `shape` has the row axis.

    `classes` holds one tuple a row, best first, where a classification was asked for. Without
    it the tensor is a payload frame; the frames of a BatchDone are in the order of its outputs.
    """

    name: str
    datatype: DataType
    shape: tuple[int, ...]
    classes: tuple[tuple[Class, ...], ...] | None = None


class Answer(_Part, frozen=True):
    """The outputs of one model for one request."""

    rid: int
    model: str
    outputs: tuple[Output, ...]


class BlockRun(_Part, frozen=True):
    """One block within a batch, on all its rows, in one run or in micro-batches."""

    block: str
    rows: int
    us: int


class BatchDone(_Message, frozen=True):
    batch: int
    infer_us: int  # from the start of the batch to its last block
    output_us: int  # top-k, softmax and copies after that
    blocks: tuple[BlockRun, ...]
    answers: tuple[Answer, ...]
    prepare_us: int = 0  # before that, of images that were not decoded yet


class BatchFailed(_Message, frozen=True):
    """No member of the batch has a result; all of them are still staged."""

    batch: int
    code: Code
    message: str


class Loaded(_Message, frozen=True):
    block: str
    bytes_used: int
    load_us: int


class LoadFailed(_Message, frozen=True):
    """Nothing of the block is left."""

    block: str
    code: Code
    message: str


class Unloaded(_Message, frozen=True):
    block: str


class Defined(_Message, frozen=True):
    """The models can be asked for, as soon as their blocks are loaded."""

    models: tuple[str, ...]


class DefineFailed(_Message, frozen=True):
    """None of them can."""

    models: tuple[str, ...]
    code: Code
    message: str


class Calibrated(_Message, frozen=True):
    """One run of a Calibrate has ended. `warm_ups` are of that model; where it is `done` they, and
    the figures of Ready with their names, take the place of what was known."""

    model: str
    done: bool
    warm_ups: tuple[WarmUp, ...] = ()
    row_bytes: int = 0
    loading_bytes: int = 0


class Pong(_Message, frozen=True):
    n: int


class Memory(_Message, frozen=True):
    n: int
    pss_bytes: int
    staging_bytes: int
    buffer_bytes: int  # activations at block borders
    private_bytes: int = 0  # of the PSS, what no file backs: it is not available to anyone else


FromWorker: TypeAlias = (
    Ready
    | Failed
    | Prepared
    | PrepareFailed
    | BatchDone
    | BatchFailed
    | Loaded
    | LoadFailed
    | Unloaded
    | Defined
    | DefineFailed
    | Calibrated
    | Pong
    | Memory
)


def is_light(
    inputs: Sequence[Input],
    payload_bytes: int,
    *,
    lanes_prepare: bool,
    pixels: Callable[[], int | None],
) -> bool:
    """Whether a request needs no more preparation than to copy a few bytes, or lanes do the rest.

    lanes_prepare  as the worker has said; lanes that take all processors of the host have nobody
                   to wait for but each other
    pixels         of its files together, if their beginnings say; asked only where it matters
    """
    if payload_bytes > LIGHT_BYTES:
        return False
    if inputs[0].kind == "encoded":
        return lanes_prepare and (pixels() or LIGHT_PIXELS + 1) <= LIGHT_PIXELS
    return inputs[0].kind == "tensor" or lanes_prepare


# Between messages and their first frames. Decoding raises msgspec.DecodeError or a ValueError: both
# ends are ours, so that is a bug; the front reads by edged.daemon.owed, and outlives it.
encode: Callable[[ToWorker | FromWorker], bytes] = msgspec.msgpack.Encoder().encode
decode_to_worker: Callable[[bytes | memoryview], ToWorker]
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker: Callable[[bytes | memoryview], FromWorker]
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode

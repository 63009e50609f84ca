"""The manifest, a store's description of a model: its values, JSON form and checks. No I/O.

A model is an ordered list of steps. Each step names a block (the SHA-256 of its ONNX file), the
values that it reads and the values that it writes. Axis 0 of every value is the row and is not part
of shapes here: an image batch of shape (rows, 3, 224, 224) has shape (3, 224, 224).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Literal

import msgspec

from edged.errors import InvalidArgument, StoreError
from edged.typeinfo import describe

SCHEMA = 1  # raised when an older daemon could misread a newer manifest
CHECKS = 1  # raised when the exporter refuses models that older ones have accepted

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"  # names of tasks and models, here and on the wire
MAX_TENSOR_NAME = 256  # characters of an input's or output's name, here and on the wire

_NAME = re.compile(NAME)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NULL = msgspec.Raw(b"null")
_RARE = ("lengths", "spans")  # fields that are not stored if they are empty

DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64",
]  # fmt: skip


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that enters, leaves or crosses blocks. `shape` is without the row axis."""

    name: str
    datatype: DataType
    shape: tuple[int, ...]


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The smallest piece that a block can be split into, known by the digest of its content.

    `reads` and `writes` name values, as those of a PathStep do. Layers stay the same when their
    block is split, so shared parts of models are found by comparing layers.
    """

    digest: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    weight_bytes: int


class PathStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One block of a path. `reads[i]` feeds the block's input `x{i}`; `y{i}` writes `writes[i]`.

    `layers` are the layers of the block, in order. Only `export` reads them; a block without layers
    cannot be split.
    """

    block: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    layers: tuple[Layer, ...] = ()


class Preprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an encoded image (or a decoded uint8 HWC one) becomes a model's input.

    The image is decoded to 8-bit RGB (EXIF orientation applied), resized, cropped or put on a
    border, and normalised by (x * scale - mean) / std per channel; a grey one has the luma of
    BT.601 and the first of the means and divisors. The head of a model was trained on exactly this,
    so it is part of the model's identity.

    `resize_version` 2 gives the same bytes on every processor. A stored manifest without it is
    older, and means 1.
    """

    height: int  # pixels of the model's input
    width: int
    resize: Literal["stretch", "shorter-side", "letterbox"] = "stretch"
    resize_to: int | None = None  # shorter side in pixels before the crop; None: no extra margin
    interpolation: Literal["linear", "area", "cubic"] = "linear"
    crop: Literal["none", "center"] = "none"
    color: Literal["RGB", "BGR", "GRAY"] = "RGB"
    scale: float = 1.0 / 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    resize_version: Literal[1, 2] = 2
    datatype: Literal["FP32", "FP16", "UINT8"] = "FP32"  # of the model's input
    border: tuple[int, int, int] = (114, 114, 114)  # RGB beside a letterboxed picture
    align: Literal["center", "corner"] = "center"  # where a letterboxed picture lies; corner: 0, 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the model's input, without the row axis."""
        channels = 1 if self.color == "GRAY" else 3
        if self.layout == "NCHW":
            return (channels, self.height, self.width)
        return (self.height, self.width, channels)


_PLAIN = Preprocess(0, 0)


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A measured accuracy, and the images that it was measured on."""

    metric: Literal["top1", "top5"]
    value: float
    chance: float
    images: int
    note: str = ""


class HeadOf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The features that a trained head needs: those of one backbone, in one precision."""

    model: str  # name of the model that it was trained with; for people
    features: str  # features_digest() of the value that the last layer reads


class FreeLength(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An output whose length depends on the data, as boxes do that were found.

    Its value has room for the most that it can be; what lies beyond its length means nothing.
    """

    output: str  # name of an output
    axes: tuple[int, ...]  # the axes of a row whose extents depend on the data, ascending
    told_by: str  # another output, INT64 (len(axes),): these extents in this row; no client sees it


class NumberSpan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole numbers that trial runs give an input that cannot take 0 and 1."""

    input: str
    least: int
    largest: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model: the task that it serves, its path through blocks and how to feed it."""

    schema: int
    name: str
    task: str
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    inputs: tuple[str, ...]  # names of values
    outputs: tuple[str, ...]  # names of values
    values: tuple[Value, ...]  # every tensor that a step or a layer names
    steps: tuple[PathStep, ...]
    whole_bytes: int  # bytes of the model as one uncut ONNX file, for comparison
    preprocess: Preprocess | None = None  # None if the model takes tensors only
    max_rows: int | None = None  # most rows of one run; None: any; 1: rows of a run would mix
    checks: int = CHECKS  # version of the checks that it passed; a manifest without it is older
    unfit: str = ""  # why these checks found that it must not be served; empty if it may be
    labels: tuple[str, ...] = ()  # names of the indices of the first output's last axis
    accuracy: Accuracy | None = None
    head_of: HeadOf | None = None
    lengths: tuple[FreeLength, ...] = ()  # the model runs one row at a time if there is one
    spans: tuple[NumberSpan, ...] = ()  # of inputs that cannot take 0 and 1

    def value(self, name: str) -> Value:
        """The value of that name. It is there: `check` accepts only names that are listed."""
        return next(v for v in self.values if v.name == name)

    @property
    def rows_at_once(self) -> int | None:
        """The most rows of one run; None if there is no limit. Older checks missed coupled rows."""
        return 1 if self.checks < CHECKS else self.max_rows

    @property
    def answers(self) -> tuple[str, ...]:
        """The outputs that clients get."""
        hidden = {length.told_by for length in self.lengths}
        return tuple(name for name in self.outputs if name not in hidden)

    def client_shape(self, output: str) -> tuple[int, ...]:
        """The shape of a row of an output; -1 is an extent that depends on the data."""
        shape = list(self.value(output).shape)
        for length in self.lengths:
            for axis in length.axes if length.output == output else ():
                shape[axis] = -1
        return tuple(shape)

    def span(self, name: str) -> tuple[int, int] | None:
        """The least and largest of the whole numbers that trials give an input, if it has such."""
        return next(((s.least, s.largest) for s in self.spans if s.input == name), None)


def features_digest(manifest: Manifest, value: str) -> str:
    """The identity of the features that the model computes as `value`: hex SHA-256.

    It covers the layers that lead to the value, their wiring, the precision and the preprocessing.
    It is made of layers and not of blocks, so that splitting a block does not orphan its heads.
    """
    known: dict[str, object] = {
        name: ["input", i, manifest.value(name).datatype, manifest.value(name).shape]
        for i, name in enumerate(manifest.inputs)
    }
    for layer in layers(manifest):
        sources = [known[name] for name in layer.reads]
        for i, name in enumerate(layer.writes):
            known[name] = _digest([layer.digest, i, sources])
    preprocess = msgspec.Raw(msgspec.json.encode(_stored(manifest.preprocess)))
    return _digest([known[value], manifest.precision, preprocess])


def check_head(manifest: Manifest) -> None:
    """Raise StoreError if the model ends in a head that was trained on other features.

    A trained head is the model's last layer, and the features are its first input.
    """
    bound = manifest.head_of
    if bound is None:
        return
    if features_digest(manifest, layers(manifest)[-1].reads[0]) != bound.features:
        raise StoreError(
            f"the head of model {manifest.name!r} was trained on other features of "
            f"{bound.model!r} (other weights, precision or preprocessing) than its path computes: "
            "train it again"
        )


def layers(manifest: Manifest) -> tuple[Layer, ...]:
    """The layers of the whole path; a block without layers counts as one layer."""
    return tuple(
        layer
        for step in manifest.steps
        for layer in step.layers or (Layer(step.block, step.reads, step.writes, 0),)
    )


def _digest(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


# The exceptions that decoding arbitrary bytes may raise. Text that is not UTF-8 is a ValueError.
DECODING = (msgspec.MsgspecError, ValueError, RecursionError, MemoryError)


def decode(data: bytes) -> Manifest:
    """A checked manifest. Raises StoreError, and nothing else, if it is damaged or newer."""
    try:
        probe = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        schema = msgspec.json.decode(probe.get("schema", _NULL), type=int)
    except DECODING as error:
        raise StoreError(f"the manifest is not readable: {error}") from error
    if schema > SCHEMA:
        raise StoreError(
            f"the manifest has schema {schema}, this edged reads up to {SCHEMA}: upgrade edged, "
            "or export the model again with this version"
        )
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
        stored = msgspec.json.decode(
            probe.get("preprocess", _NULL), type=dict[str, msgspec.Raw] | None
        )
    except DECODING as error:
        raise StoreError(f"the manifest is damaged: {error}") from error
    if manifest.preprocess is not None and "resize_version" not in (stored or {}):
        older = msgspec.structs.replace(manifest.preprocess, resize_version=1)
        manifest = msgspec.structs.replace(manifest, preprocess=older)
    if "checks" not in probe:
        manifest = msgspec.structs.replace(manifest, checks=0)
    try:
        check(manifest)
    except (LookupError, StopIteration, ValueError, RecursionError) as error:
        raise StoreError(f"the manifest contradicts itself: {error!r}") from error
    return manifest


def encode(manifest: Manifest) -> bytes:
    """Canonical JSON: the same manifest is always the same bytes."""
    check(manifest)
    fields = {**msgspec.to_builtins(manifest), "preprocess": _stored(manifest.preprocess)}
    fields = {name: value for name, value in fields.items() if value or name not in _RARE}
    return msgspec.json.format(msgspec.json.encode(fields), indent=1)


def _stored(preprocess: Preprocess | None) -> dict[str, object] | None:
    """The preprocessing in its stored form, of which heads have a digest.

    Version 1 is not named, nor what is newer and has its default, so their digests stay valid.
    """
    if preprocess is None:
        return None
    fields: dict[str, object] = msgspec.to_builtins(preprocess)
    if preprocess.resize_version == 1:
        del fields["resize_version"]
    for name in ("datatype", "border", "align"):
        if fields[name] == msgspec.to_builtins(getattr(_PLAIN, name)):
            del fields[name]
    return fields


def check_name(name: str, what: str) -> str:
    """Returns `name`, or raises InvalidArgument if it cannot name a model or task."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{what} name {name!r} is not allowed: use 1 to 128 of A-Z a-z 0-9 . _ -, "
            "beginning with a letter or digit"
        )
    return name


def check_tensor_name(name: str, what: str) -> str:
    """Returns `name`, or raises InvalidArgument if it cannot name an input or output."""
    if not 1 <= len(name) <= MAX_TENSOR_NAME:
        raise InvalidArgument(
            f"{what} {name[:40]!r}.. has a name of {len(name)} characters, and requests have room "
            f"for {MAX_TENSOR_NAME}: rename it in the model"
        )
    return name


def check(manifest: Manifest) -> None:
    """Raise StoreError unless the steps form a path from the inputs to the outputs."""

    def refuse(what: str) -> StoreError:
        return StoreError(f"manifest of model {manifest.name!r}: {what}; export the model again")

    for name, what in ((manifest.name, "model"), (manifest.task, "task")):
        if not _NAME.fullmatch(name):
            raise refuse(f"{what} name {name!r} is not allowed")
    listed = {value.name for value in manifest.values}
    if len(listed) != len(manifest.values):
        raise refuse("two values have the same name")
    if any(extent < 0 for value in manifest.values for extent in value.shape):
        raise refuse("a value has a negative extent")
    if manifest.max_rows not in (None, 1):
        raise refuse(f"max_rows is {manifest.max_rows}, where it can be 1 or null")
    if manifest.checks < 0:
        raise refuse(f"checks is {manifest.checks}")
    if not manifest.inputs or not manifest.outputs or not manifest.steps:
        raise refuse("inputs, outputs and steps must not be empty")
    known = set(manifest.inputs)
    named = set(manifest.inputs)  # the known values, and those inside blocks
    for step in manifest.steps:
        if not _DIGEST.fullmatch(step.block):
            raise refuse(f"{step.block!r} is not a block id")
        if missing := set(step.reads) - known:
            raise refuse(f"block {step.block[:12]} reads {sorted(missing)} before it is written")
        written = _written(step, refuse) if step.layers else set(step.writes)
        if again := named & written:
            raise refuse(f"block {step.block[:12]} writes {sorted(again)} a second time")
        if missing := written - listed:
            raise refuse(f"values {sorted(missing)} have no type and shape")
        known |= set(step.writes)
        named |= written
    if missing := (known | set(manifest.outputs)) - listed:
        raise refuse(f"values {sorted(missing)} have no type and shape")
    if missing := set(manifest.outputs) - known:
        raise refuse(f"outputs {sorted(missing)} are never written")
    _check_lengths(manifest, refuse)
    check_head(manifest)


def _check_lengths(manifest: Manifest, refuse: Callable[[str], StoreError]) -> None:
    names = [name for length in manifest.lengths for name in (length.output, length.told_by)]
    if len(set(names)) < len(names):
        raise refuse("its lengths are told by no output that fits, each by one of its own")
    for length in manifest.lengths:
        named = {length.output, length.told_by} <= set(manifest.outputs)
        axes = range(len(manifest.value(length.output).shape))
        teller = manifest.value(length.told_by)
        told = (teller.datatype, teller.shape) == ("INT64", (len(length.axes),))
        in_order = length.axes == tuple(sorted(set(length.axes)))
        if not (named and told and in_order and length.axes and set(length.axes) <= set(axes)):
            raise refuse(f"the length of output {length.output!r} is told by no output that fits")
        if manifest.max_rows != 1:
            raise refuse(f"output {length.output!r} has a free length, which needs max_rows 1")


def _written(step: PathStep, refuse: Callable[[str], StoreError]) -> set[str]:
    """All values that the layers of a step write; raises `refuse` unless they make its `writes`."""
    known, written = set(step.reads), set[str]()
    for layer in step.layers:
        if missing := set(layer.reads) - known:
            raise refuse(f"a layer of block {step.block[:12]} cannot read {sorted(missing)}")
        if again := known & set(layer.writes):
            raise refuse(f"a layer of block {step.block[:12]} writes {sorted(again)} again")
        known |= set(layer.writes)
        written |= set(layer.writes)
    if missing := set(step.writes) - written:
        raise refuse(f"no layer of block {step.block[:12]} writes {sorted(missing)}")
    return written


describe(Manifest)

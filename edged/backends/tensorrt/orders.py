"""What is said to the process that builds engines, what it says, and what it leaves in an entry."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import msgspec

from edged.backends.signature import Arg
from edged.errors import Code
from edged.manifest import DataType
from edged.typeinfo import describe

Precision: TypeAlias = Literal["fp16", "fp32"]

ABOUT = "about.json"  # an About, in every entry
PLAN = "engine.plan"  # the engine, in its entry
WEIGHTS = "weights.bin"  # weights and then biases, in entries of linear heads

GRACE_S = 10.0  # time that a cancelled build has to end by itself

ROWS = "rows.npz"  # some rows and what they should become, until the device has tried them

CLASSES = (1_024, 32_768)  # most classes of the engines for linear heads; a larger one has its own


class EnginePort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of a block's file. `shape` has the row axis; None: any extent."""

    name: str
    datatype: DataType
    shape: tuple[int | None, ...]

    @property
    def arg(self) -> Arg:
        return Arg(self.name, self.datatype, self.shape)


class HeadShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The linear heads that share an engine: y0 (rows, classes) = x0 (rows, features) w.T + b."""

    features: int
    datatype: DataType  # that of x0; all else is FP32
    most_classes: int  # one of CLASSES

    @property
    def id(self) -> str:
        """The name of the engine's entry, beside those of blocks."""
        return f"head-{self.features}-{self.datatype}-{self.most_classes}".lower()


class Pools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a build may take, and how long it looks for kernels."""

    workspace_bytes: int
    tactic_bytes: int
    level: int  # builder_optimization_level, 0 to 5

    @property
    def halved(self) -> Pools:
        """For the second try."""
        return Pools(self.workspace_bytes // 2, self.tactic_bytes // 2, min(self.level, 1))


class BuildOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The one order that a process gets."""

    module: str  # TensorRT's Python module
    what: str | HeadShape  # a block's ONNX file, or the engine of linear heads
    target: str  # an empty directory, which it fills
    precision: Precision
    max_rows: int  # rows of one run, at most
    pools: Pools
    timing_cache: str  # a file, which need not be there
    fallback: str = ""  # why it is FP32 after all


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the typed graph's outputs are from those of the block itself, on rows of noise."""

    rows: int
    cosine: float  # the least of all outputs
    difference: float | None  # the largest, as a share of the output's range; None: not finite
    same_top1: float  # the share of rows without another best class that is clearly not the best
    seconds: float = 0.0  # that the comparison took


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry: what `load` needs to know of it, and what was found when it was made."""

    inputs: tuple[EnginePort, ...]
    outputs: tuple[EnginePort, ...]
    precision: Precision
    head: HeadShape | None = None  # a linear head, which runs in the engine of this shape
    fallback: str = ""  # why it is FP32 where FP16 was wanted, as "parity: .."
    parity: Parity | None = None
    seconds: float = 0.0  # that the build took
    peak_bytes: int = 0  # memory that the process took which built


class BuildProgress(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """How far a build is: `done` of 1.0, in a phase that is named for people."""

    phase: str
    done: float


class Built(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """The entry is complete."""

    about: About


class NotBuilt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Why there is none."""

    code: Code
    message: str
    may_shrink: bool = False  # whether less memory may mend it
    is_damaged: bool = False  # whether the block's file is no block


FromBuild: TypeAlias = BuildProgress | Built | NotBuilt


def weight_bytes(shape: HeadShape, classes: int) -> int:
    """Bytes of a head's weights, which begin at 0 in WEIGHTS; the biases follow."""
    return 4 * math.prod((shape.features, classes))


describe(BuildOrder, About, FromBuild)

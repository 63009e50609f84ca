"""Whether a block's file has the inputs and outputs that its models name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edged.backends.base import BlockUse
from edged.errors import StoreError, Unsupported
from edged.manifest import DataType
from edged.paths.layout import Tensor


@dataclass(frozen=True, slots=True)
class Arg:
    """An input or output of a file."""

    name: str
    datatype: DataType | None  # None for a type that blocks cannot have
    shape: tuple[int | None, ...]  # starts with the row axis; None for an extent that varies

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {['any' if n is None else n for n in self.shape]}"


def check(
    block: str, inputs: Sequence[Arg], outputs: Sequence[Arg], uses: Sequence[BlockUse]
) -> int | None:
    """The most rows of one run; None if there is no limit.

    Raises StoreError if the file does not fit a use, and Unsupported if its number of rows is fixed
    and not one.
    """
    for use in uses:
        for letter, found, wanted in (("x", inputs, use.reads), ("y", outputs, use.writes)):
            names = [f"{letter}{index}" for index in range(len(wanted))]
            if [arg.name for arg in found] != names or not all(map(_fits, found, wanted)):
                raise StoreError(
                    f"block {block[:12]} has {', '.join(map(str, found))}, its models expect "
                    f"{', '.join(names)} of {[(t.datatype, t.shape) for t in wanted]}: export them "
                    "again"
                )
    fixed = {arg.shape[0] for arg in inputs if arg.shape} - {None}
    if fixed - {1}:
        raise Unsupported(
            f"block {block[:12]} was exported for exactly {fixed} rows at a time: export its "
            "model with a dynamic batch, or with a batch of one"
        )
    return 1 if fixed else None


def _fits(found: Arg, wanted: Tensor) -> bool:
    return (
        found.datatype == wanted.datatype
        and len(found.shape) == 1 + len(wanted.shape)
        and all(
            have is None or have == want
            for have, want in zip(found.shape[1:], wanted.shape, strict=True)
        )
    )

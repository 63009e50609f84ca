"""The weights of an optimised model in files of their own, which other models may have as well."""

from __future__ import annotations

import itertools
import mmap
from pathlib import Path

from edged.onnx_file import Place, move


def part(model: Path, weights: Path) -> None:
    """Part the file `weights`, in which the weights of the ONNX file `model` lie, if there is one.

    The new files are beside it, and have its name with a number.
    """
    if not weights.exists() or not weights.stat().st_size:
        return
    with weights.open("rb") as file:  # mapped, so that the weights are never on the heap
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    numbers = itertools.count()

    def own(place: Place) -> Place:
        name = f"{weights.name}-{next(numbers)}"
        weights.with_name(name).write_bytes(content[place.offset :][: place.size])
        return Place(name)

    model.write_bytes(move(model.read_bytes(), own))
    weights.unlink()

"""The weights of an optimised model in files of their own, which other models may have as well.

The smallest of them stay together, up to a share of all bytes, because each file costs time.
"""

from __future__ import annotations

import itertools
import mmap
from pathlib import Path

import xxhash

from edged.backends.memory import ALIGNMENT
from edged.onnx_file import Place, move, places

_TOGETHER = 0.02  # share of a model's bytes that is not worth a file for each weight


def part(model: Path, weights: Path) -> None:
    """Part the file `weights`, in which the weights of the ONNX file `model` lie.

    The new files are beside it, and have its name with a number; it has the smallest weights then,
    if any stay together.
    """
    if not weights.exists() or not weights.stat().st_size:
        return
    graph = model.read_bytes()
    with weights.open("rb") as file:  # mapped, so that the weights are never on the heap
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    found = {place: content[place.offset :][: place.size] for place in places(graph)}
    small, moved = _together(found, weights.name, int(_TOGETHER * len(content)))
    numbers = itertools.count()
    for place in [place for place in found if place not in moved]:
        name = f"{weights.name}-{next(numbers)}"
        weights.with_name(name).write_bytes(found[place])
        moved[place] = Place(name)
    model.write_bytes(move(graph, moved.__getitem__))
    weights.unlink()
    if small:
        weights.write_bytes(small)


def _together(
    found: dict[Place, memoryview], name: str, room: int
) -> tuple[bytes, dict[Place, Place]]:
    """The smallest weights as the content of one file of that name, and their places in it."""
    small, moved = bytearray(), dict[Place, Place]()
    by_content = {p: (len(view), xxhash.xxh3_64_intdigest(view)) for p, view in found.items()}
    for place in sorted(found, key=by_content.__getitem__):  # so that equal ones make equal files
        small += bytes(-len(small) % ALIGNMENT)
        if len(small) + len(found[place]) > room:
            break
        moved[place] = Place(name, len(small), len(found[place]))
        small += found[place]
    return bytes(small) if moved else b"", moved

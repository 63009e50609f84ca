"""Samples: real input of a user, on which a model is checked beside random input.

Some behaviour shows on real input only, such as a threshold that noise never reaches.
"""

from __future__ import annotations

import zipfile
from pathlib import Path as File

import numpy as np
from numpy.lib.format import open_memmap
from numpy.lib.npyio import NpzFile

from edged.errors import InvalidArgument, NotFound
from edged.manifest import Preprocess
from edged.preprocess import DTYPES
from export.pictures import ENDINGS, prepared
from export.probe import Array, Arrays

SAMPLES_MAX = 8  # rows; each is run in four batches of three, and alone

_LISTED_MAX = 8  # arrays that a message lists


def read(path: File, inputs: Arrays, preprocess: Preprocess | None) -> Arrays:
    """At most SAMPLES_MAX rows, evenly spread, of a folder of images or an .npz or .npy file.

    `inputs` has an array like those that the model takes for each name. Raises NotFound or
    InvalidArgument, and the errors of `prepared` for an image.
    """
    try:
        if path.is_dir():
            return _pictures(path, inputs, preprocess)
        if not path.is_file():
            raise NotFound(
                f"there are no samples {path}: give a folder of images, or an .npz or .npy file"
            )
    except OSError as error:
        raise NotFound(f"the samples {path} cannot be read: {error.strerror}") from error
    return _arrays(path, inputs)


def _pictures(folder: File, inputs: Arrays, spec: Preprocess | None) -> Arrays:
    if spec is None:
        raise InvalidArgument(
            f"the samples {folder} are a folder of images, and nothing says how an image becomes "
            "the input: give --preprocess too, or an .npz file of the model's inputs"
        )
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in ENDINGS and file.is_file() and not _hidden(file, folder)
    )
    if not files:
        raise InvalidArgument(
            f"the samples {folder} have no JPEG, PNG, WebP or BMP files: give some"
        )
    dtype = DTYPES[spec.datatype]
    (name, like), *others = inputs.items()
    if others or like.dtype != dtype or like.shape[1:] != spec.shape:
        raise InvalidArgument(
            f"the preprocessing makes one {dtype} image of shape {list(spec.shape)} of the samples "
            f"{folder}, and the model takes {_told(inputs)}: mend the preprocessing, or say whose "
            "samples they are (--samples TASK=PATH)"
        )
    return {name: np.stack([prepared(files[i], spec) for i in _spread(len(files))])}


def _hidden(file: File, folder: File) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _arrays(file: File, inputs: Arrays) -> Arrays:
    """The arrays of a file, which are numbers: none of the readers here takes pickled objects."""
    try:
        found = _archived(file) if zipfile.is_zipfile(file) else _alone(file, inputs)
    except Exception as error:  # the errors of numpy's readers have no narrower common base
        reason = " ".join(str(error).split())[:200]
        raise InvalidArgument(
            f"the samples {file} cannot be read as .npz or .npy ({reason}): write them with "
            "numpy.savez(FILE, INPUT=array)"
        ) from error
    counts = {len(array) if np.ndim(array) else 0 for array in found.values()}
    if _forms(found) != _forms(inputs) or len(counts) != 1 or counts == {0}:
        raise InvalidArgument(
            f"the samples {file} have {_told(found, shown_rows=True)}, and the model takes "
            f"{_told(inputs)}: give arrays of these names, types and shapes, all with as many "
            "rows and at least one, or say whose samples they are (--samples TASK=PATH)"
        )
    chosen = _spread(*counts)
    return {name: np.ascontiguousarray(found[name][chosen]) for name in inputs}


def _archived(file: File) -> Arrays:
    with file.open("rb") as opened, NpzFile(opened, allow_pickle=False) as archive:
        return {name: np.asarray(archive[name]) for name in archive.files}


def _alone(file: File, inputs: Arrays) -> Arrays:
    """The one array of a file, mapped, so that only the rows that are used are read."""
    name = next(iter(inputs)) if len(inputs) == 1 else "(no name)"
    return {name: open_memmap(file, mode="r")}


def _spread(count: int) -> list[int]:
    """All indices below `count`, or SAMPLES_MAX of them from the first to the last."""
    spread = np.linspace(0, count - 1, min(count, SAMPLES_MAX))
    return [int(place) for place in spread.round()]


def _forms(arrays: Arrays) -> dict[str, object]:
    return {name: (np.dtype(a.dtype), a.shape[1:]) for name, a in arrays.items()}


def _told(arrays: Arrays, shown_rows: bool = False) -> str:
    def told(name: str, array: Array) -> str:
        rows = array.shape[:1] if shown_rows else ("rows",)
        extents = ", ".join(map(str, (*rows, *array.shape[1:])))
        return f"{name} {array.dtype} [{extents}]"

    shown = [told(name, array) for name, array in arrays.items()]
    more = [f"{len(shown) - _LISTED_MAX} more"] if len(shown) > _LISTED_MAX else []
    return ", ".join([*shown[:_LISTED_MAX], *more]) or "no arrays"

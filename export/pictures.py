"""Picture files as rows of a model's input, made by the preprocessing that serving uses."""

from __future__ import annotations

from pathlib import Path as File

import numpy as np
import numpy.typing as npt

from edged.errors import InvalidArgument, NotFound, ResourceExhausted, Unsupported
from edged.manifest import Preprocess
from edged.preprocess import prepare

ENDINGS = {".jpeg", ".jpg", ".png"}


def image_shape(spec: Preprocess) -> tuple[int, ...]:
    """The shape of one row that the preprocessing makes."""
    size = (spec.height, spec.width)
    return (3, *size) if spec.layout == "NCHW" else (*size, 3)


def prepared(file: File, spec: Preprocess) -> npt.NDArray[np.float32]:
    """The row of an image file. Raises the errors of `prepare`, or NotFound, naming the file."""
    row = np.empty(image_shape(spec), np.float32)
    try:
        prepare(file.read_bytes(), spec, row)
    except OSError as error:
        raise NotFound(f"{file} cannot be read: {error.strerror}") from error
    except (InvalidArgument, ResourceExhausted, Unsupported) as error:
        raise type(error)(f"{file}: {error}") from error
    return row

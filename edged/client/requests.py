"""The arguments of `infer` as a request header and payload frames. Reads the image files that the
caller names, and does no other I/O.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import numpy as np
import zmq
from numpy.typing import NDArray

from edged import wire
from edged.client.call import Call, positive_count, positive_s
from edged.client.session import Session
from edged.client.tensors import to_wire
from edged.errors import EdgedError, InvalidArgument, NotFound
from edged.uplink.sender import Upload

Image: TypeAlias = "bytes | os.PathLike[str] | NDArray[np.uint8]"
"""A JPEG, PNG, WebP or BMP file (bytes or path), or RGB pixels of shape (height, width, 3)."""

Inputs: TypeAlias = "Image | Sequence[Image] | Mapping[str, NDArray[Any]]"
"""One image; several, all files or all pixels of one size; or tensors by name, (rows, ...)."""

Tasks: TypeAlias = "str | Sequence[str | wire.RequestedOutput]"


class Options(TypedDict, total=False):
    """The options of an inference.

    top_k         the best k classes of each row, with labels; without it the raw output tensor
    softmax       scores as probabilities; without it as the model gives them
    timeout_s     seconds for everything: waiting, sending again, the daemon's work
    priority      1 is the highest; 0 is the daemon's default
    stream        newer requests of a stream replace older ones that still wait (latest frame)
    announce      ask the daemon before the upload, and send at the rate that it grants: for shared
                  or slow uplinks. The upload continues only while the client is used, which with
                  `Client` is in `result()`
    link_bytes_s  the rate of the link to the daemon when nobody else uses it; for `announce`
    ordered       the daemon answers the requests of a stream, or those without one, in the order in
                  which it received them; a request that is sent again goes to the end
    """

    top_k: int | None
    softmax: bool
    timeout_s: float | None
    priority: int
    stream: str | None
    ordered: bool
    announce: bool
    link_bytes_s: int | None


def submit_infer(
    session: Session,
    inputs: Inputs,
    tasks: Tasks,
    *,
    now: float,
    default_timeout_s: float,
    timeout_s: float | None = None,
    top_k: int | None = None,
    softmax: bool = False,
    priority: int = 0,
    stream: str | None = None,
    ordered: bool = False,
    announce: bool = False,
    link_bytes_s: int | None = None,
) -> Call:
    """Queue an inference. Raises InvalidArgument, ResourceExhausted, or NotFound for a file.

    `top_k` and `softmax` apply to tasks given by name; a `wire.RequestedOutput` has its own.
    """
    outputs = _outputs(tasks, wire.OutputParameters(classification=top_k, softmax=softmax))
    tensors, frames = _tensors(inputs)
    parameters = wire.InferParameters(priority=priority, stream=stream, ordered=ordered)
    header = wire.Infer(session.next_id(), tensors, outputs, parameters)
    timeout_s = default_timeout_s if timeout_s is None else positive_s(timeout_s, "timeout_s")
    if link_bytes_s is not None:
        positive_count(link_bytes_s, "link_bytes_s")
    piece = None if announce else session.place(frames, now)
    payload = piece.frames if piece is not None else tuple(map(_kept, frames))
    upload = Upload(payload, link_bytes_s) if announce else None
    try:
        return session.submit(
            header, payload, timeout_s=timeout_s, now=now, upload=upload, piece=piece
        )
    except EdgedError:
        if piece is not None:
            piece.release()
        raise


def _outputs(tasks: Tasks, how: wire.OutputParameters) -> tuple[wire.RequestedOutput, ...]:
    wanted = [tasks] if isinstance(tasks, str) else tasks
    outputs = tuple([wire.RequestedOutput(t, how) if isinstance(t, str) else t for t in wanted])
    if not outputs:
        raise InvalidArgument("no task is asked for: name at least one")
    return outputs


def _tensors(
    inputs: Inputs,
) -> tuple[tuple[wire.InputTensor, ...], tuple[bytes | memoryview, ...]]:
    """The inputs and their payload frames. The frame of an array is the array's own memory."""
    if isinstance(inputs, Mapping):
        if not inputs:
            raise InvalidArgument("no input is given: name at least one tensor")
        tensors, frames = zip(*starmap(to_wire, inputs.items()), strict=True)
        return tensors, frames
    images: Sequence[Any] = inputs if isinstance(inputs, list | tuple) else [inputs]
    if not images:
        raise InvalidArgument("no image is given: give at least one")
    if all(isinstance(image, np.ndarray) for image in images):
        tensor, frame = to_wire("image", _stack(images))
        return (tensor,), (frame,)
    return (wire.InputTensor("image", "BYTES", (len(images),)),), tuple(map(_file, images))


def _kept(frame: bytes | memoryview) -> Any:
    """A copy of an array's bytes, made once, from which ZeroMQ sends."""
    return frame if isinstance(frame, bytes) else zmq.Frame(frame, copy=True)


def _stack(images: Sequence[NDArray[Any]]) -> NDArray[Any]:
    first = images[0]
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InvalidArgument(
                f"an image of type {image.dtype} and shape {image.shape}: decoded images are uint8 "
                '(height, width, 3); give a model\'s own input as {"name": array}'
            )
        if image.shape != first.shape:
            raise InvalidArgument(
                f"images of shapes {first.shape} and {image.shape}: decoded images of one request "
                "have one size; send one request for each"
            )
    return first[np.newaxis] if len(images) == 1 else np.stack(images)


def _file(image: Any) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if not isinstance(image, os.PathLike):
        raise InvalidArgument(
            f"an image of type {type(image).__name__}: give the bytes of a file, a "
            "pathlib.Path, or all images as arrays"
        )
    try:
        return Path(image).read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{image}: no such file") from error
    except OSError as error:
        raise InvalidArgument(f"{image}: cannot be read: {error.strerror}") from error

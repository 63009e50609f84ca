"""From a request's payload to staging rows: decode, check, normalise, copy.

It goes by steps, a picture each, so that whoever prepares can do something else in between.

What a client sends is checked here against what its models take, and refused in words that say
what they take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edged import preprocess
from edged.backends.memory import NUMPY, Array
from edged.device.decoding import Decoding
from edged.device.staging import Feed, Staged
from edged.errors import Cancelled, InvalidArgument
from edged.link import messages as link
from edged.manifest import Manifest, Value
from edged.paths.layout import Tensor
from edged.pictures.decoding import Image, pixels_of
from edged.pictures.header import PictureHeader


def prepare(
    message: link.PayloadHeader,
    payload: Sequence[memoryview],
    staged: Staged,
    manifests: Mapping[str, Manifest],
    decoding: Decoding,
) -> None:
    """All steps at once."""
    for _ in steps(message, payload, staged, manifests, decoding):
        pass


def steps(
    message: link.PayloadHeader,
    payload: Sequence[memoryview],
    staged: Staged,
    manifests: Mapping[str, Manifest],
    decoding: Decoding,
) -> Iterator[None]:
    """Fill the rows that `staged` holds. Raises InvalidArgument or ResourceExhausted, and
    Cancelled as soon as the request is discarded."""
    _check_wanted(staged)
    if message.inputs[0].kind == "tensor":
        _prepare_tensors(message, payload, staged, manifests)
    else:
        yield from _prepare_images(message, payload, staged, decoding)


def in_place(
    message: link.PayloadHeader,
    staged: Staged,
    manifests: Mapping[str, Manifest],
    sizes: Sequence[int],
) -> list[memoryview] | None:
    """The staging memory of each payload frame, if tensors need only be received there.

    sizes  bytes of the payload frames
    None if they have to be copied: to several feeds, or to rows that do not lie side by side.
    Raises InvalidArgument for tensors that the models do not take.
    """
    (feed, *others), inputs = staged.feeds, message.inputs
    chosen = [_choose(inputs, feed, at, manifests) for at in range(len(feed.preparation.inputs))]
    if others or not feed.in_one_piece or sorted(chosen) != list(range(len(inputs))):
        return None
    for given, value in zip(chosen, feed.preparation.inputs, strict=True):
        _check(inputs[given], value, message.rows, manifests[feed.models[0]])
    arrays = dict(zip(chosen, feed.pool.arrays, strict=True))
    rows = slice(feed.rows[0], feed.rows[0] + len(feed.rows))
    memory = [arrays[at][rows].reshape(-1).view(np.uint8).data for at in range(len(inputs))]
    return memory if [frame.nbytes for frame in memory] == list(sizes) else None


def _prepare_images(
    message: link.PayloadHeader, payload: Sequence[memoryview], staged: Staged, decoding: Decoding
) -> Iterator[None]:
    for feed in staged.feeds:
        if feed.preparation.preprocess is None:
            raise InvalidArgument(f"model {feed.models[0]!r} takes no images, only tensors")
    if len(message.inputs) > 1:
        raise InvalidArgument("images must be the only input: stack them as rows of one input")
    given = message.inputs[0]
    if given.kind == "pixels":
        if len(given.shape) != 4 or given.shape[3] != 3 or 0 in given.shape:
            raise InvalidArgument(
                f"pixels have shape (rows, height, width, 3), these {given.shape}"
            )
        pixels = _array(given, payload[0])
    elif len(payload) != message.rows:
        raise InvalidArgument(f"{len(payload)} files were sent for {message.rows} rows: one a row")
    for row in range(message.rows):
        if given.kind == "pixels":
            _prepare_image(pixels[row], row, staged, decoding)
        else:
            header = decoding.look(payload[row], light=message.inline)
            _prepare_image(header, row, staged, decoding)
        yield


def _prepare_image(
    picture: Image | PictureHeader, row: int, staged: Staged, decoding: Decoding
) -> None:
    """One picture, of which nothing is left afterwards but its row of each feed."""
    if isinstance(picture, PictureHeader):
        header, (height, width) = picture, picture.upright
    else:
        header, (height, width) = None, picture.shape[:2]
    specs = [feed.preparation.preprocess for feed in staged.feeds]
    resized_bytes = max(preprocess.resize_bytes(height, width, spec) for spec in specs if spec)
    spare = all(preprocess.takes_spare(spec) for spec in specs if spec)
    with decoding.memory(header, resized_bytes):
        _check_wanted(staged)  # it may have waited for the memory
        image = pixels_of(picture, spare=spare) if isinstance(picture, PictureHeader) else picture
        for feed, spec in zip(staged.feeds, specs, strict=True):
            assert spec is not None
            preprocess.normalise(image, spec, feed.pool.arrays[0][feed.rows[row]])
        del image  # before its memory is given back


def _check_wanted(staged: Staged) -> None:
    if staged.discarded:
        raise Cancelled("nobody waits for the request any more")


def _prepare_tensors(
    message: link.PayloadHeader,
    payload: Sequence[memoryview],
    staged: Staged,
    manifests: Mapping[str, Manifest],
) -> None:
    arrays = [_array(given, part) for given, part in zip(message.inputs, payload, strict=True)]
    for feed in staged.feeds:
        for index, value in enumerate(feed.preparation.inputs):
            given = _choose(message.inputs, feed, index, manifests)
            _check(message.inputs[given], value, message.rows, manifests[feed.models[0]])
            _write(feed, index, arrays[given])


def _array(given: link.Input, part: memoryview) -> Array:
    """The payload frame as an array, not copied."""
    if part.nbytes != Tensor(given.datatype, given.shape).row_bytes:
        raise InvalidArgument(
            f"input {given.name!r} has {part.nbytes} bytes of payload, which is not "
            f"{given.datatype} {list(given.shape)}"
        )
    return np.frombuffer(part, NUMPY[given.datatype]).reshape(given.shape)


def _choose(
    inputs: Sequence[link.Input], feed: Feed, index: int, manifests: Mapping[str, Manifest]
) -> int:
    """Which input of the request is the input `index` of the models that `feed` is for."""
    if len(inputs) == 1 and len(feed.preparation.inputs) == 1:
        return 0
    chosen = {
        _named(inputs, manifests[model].inputs[index], manifests[model]): model
        for model in feed.models
    }
    if len(chosen) > 1:
        one, other, *_ = chosen.values()
        raise InvalidArgument(
            f"models {one!r} and {other!r} take different inputs of this request: send two requests"
        )
    return next(iter(chosen))


def _named(inputs: Sequence[link.Input], name: str, manifest: Manifest) -> int:
    for position, given in enumerate(inputs):
        if given.name == name:
            return position
    raise InvalidArgument(
        f"model {manifest.name!r} takes {_signature(manifest)}; the request has no {name!r}, "
        f"only {', '.join(repr(given.name) for given in inputs)}"
    )


def _check(given: link.Input, value: Value, rows: int, manifest: Manifest) -> None:
    if given.datatype != value.datatype or given.shape != (rows, *value.shape):
        raise InvalidArgument(
            f"model {manifest.name!r} takes {_signature(manifest)}; input {given.name!r} is "
            f"{given.datatype} {list(given.shape)}"
        )


def _signature(manifest: Manifest) -> str:
    return ", ".join(
        f"{value.name!r} {value.datatype} [rows, {', '.join(map(str, value.shape))}]"
        for value in map(manifest.value, manifest.inputs)
    )


def _write(feed: Feed, index: int, array: Array) -> None:
    target = feed.pool.arrays[index]
    if feed.in_one_piece:
        target[feed.rows[0] : feed.rows[0] + len(feed.rows)] = array
    else:
        target[feed.rows] = array

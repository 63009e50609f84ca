"""ONNX files without onnx: their fields, and weights that lie in the file or in files beside it.

A protocol buffer is a list of fields, each with a number, a form and a value. What is not asked for
is copied as it is, so a file whose weights are taken out and put in again is the same to the byte.
Only the graph's own initializers count as weights here, and only those with `raw_data`: not the
constants of operators, of functions or of graphs in attributes. Field numbers are those of
onnx.proto; https://onnx.ai/onnx/repo-docs/ExternalData.html describes data outside of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

MODEL_GRAPH = 7
GRAPH_INITIALIZER = 5
_TENSOR_RAW, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 9, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_IS_EXTERNAL = 1  # TensorProto.DataLocation
_MOST_PLACE_BYTES = 1 << 16  # a weight that takes more lies in the file itself
_HEAD_BYTES = 20  # two numbers, the most that a field begins with
_BEGINNING = b"\x08"  # of the first field, `ir_version`

Field: TypeAlias = "tuple[int, int | memoryview]"  # the field's number and value
_Change: TypeAlias = "Callable[[memoryview], bytes | None]"  # new content; None: as it was


class NoOnnxFile(ValueError):
    """The bytes are no ONNX file, or end within a field."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of a weight lie: in the file `location`, relative to the ONNX file's folder.

    `size` None: to the end of that file.
    """

    location: str
    offset: int = 0
    size: int | None = None


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message. Raises NoOnnxFile if it ends within a field."""
    return ((number, value) for number, value, _, _ in _fields(data))


def places(data: bytes | memoryview) -> tuple[Place, ...]:
    """Where the weights lie that are not in the file itself. Raises NoOnnxFile."""
    found = []
    for number, graph in fields(_checked(data)):
        if number == MODEL_GRAPH and isinstance(graph, memoryview):
            for part, tensor in fields(graph):
                if part == GRAPH_INITIALIZER and isinstance(tensor, memoryview):
                    place = _place(tensor)
                    if place is not None:
                        found.append(place)
    return tuple(found)


def places_in(descriptor: int) -> tuple[Place, ...]:
    """As `places`, of an open file, of which weights that lie in it are not read.

    It is not mapped: what a disk cannot read would end the process. Raises OSError, too.
    """
    _checked(os.pread(descriptor, 1, 0))
    found = []
    for number, begin, end in _spans(descriptor, 0, os.fstat(descriptor).st_size):
        for part, first, last in _spans(descriptor, begin, end) if number == MODEL_GRAPH else ():
            if part == GRAPH_INITIALIZER and last - first <= _MOST_PLACE_BYTES:
                place = _place(memoryview(os.pread(descriptor, last - first, first)))
                if place is not None:
                    found.append(place)
    return tuple(found)


def take_out(data: bytes, keep: Callable[[memoryview], str], least_bytes: int) -> bytes:
    """The file without the weights that have at least so many bytes.

    `keep` is given each of them, and returns the location under which it can be found.
    Raises NoOnnxFile.
    """

    def change(tensor: memoryview) -> bytes | None:
        raw = next((value for number, value in fields(tensor) if number == _TENSOR_RAW), None)
        if not isinstance(raw, memoryview) or len(raw) < least_bytes:
            return None
        return _moved(tensor, Place(keep(raw)))

    return _with_weights(data, change)


def put_in(data: bytes, content: Callable[[Place], bytes]) -> bytes:
    """The file with all its weights: the reverse of `take_out`. Raises NoOnnxFile."""

    def change(tensor: memoryview) -> bytes | None:
        place = _place(tensor)
        if place is None:
            return None
        return _without_data(tensor) + _field(_TENSOR_RAW, content(place))

    return _with_weights(data, change)


def move(data: bytes, to: Callable[[Place], Place]) -> bytes:
    """The file whose weights that lie outside of it lie somewhere else. Raises NoOnnxFile."""

    def change(tensor: memoryview) -> bytes | None:
        place = _place(tensor)
        return None if place is None else _moved(tensor, to(place))

    return _with_weights(data, change)


def _with_weights(data: bytes, change: _Change) -> bytes:
    """The file with some weights changed. Raises NoOnnxFile."""

    def graph(content: memoryview) -> bytes | None:
        return _with_fields(content, GRAPH_INITIALIZER, change)

    changed = _with_fields(_checked(data), MODEL_GRAPH, graph)
    return data if changed is None else changed


def _checked(data: bytes | memoryview) -> memoryview:
    if data[:1] != _BEGINNING:
        raise NoOnnxFile("it does not begin as an ONNX file")
    return memoryview(data)


def _with_fields(data: memoryview, wanted: int, change: _Change) -> bytes | None:
    """The message with the fields of one number changed; None if none has changed."""
    pieces: list[bytes | memoryview] = []
    copied = 0
    for number, value, start, end in _fields(data):
        if number == wanted and isinstance(value, memoryview):
            new = change(value)
            if new is not None:
                pieces += [data[copied:start], _field(number, new)]
                copied = end
    return b"".join([*pieces, data[copied:]]) if pieces else None


def _place(tensor: memoryview) -> Place | None:
    """Where the bytes of a weight lie outside of the file; None if they are in it."""
    is_external, entries = False, dict[str, str]()
    for number, value in fields(tensor):
        if number == _TENSOR_LOCATION:
            is_external = value == _IS_EXTERNAL
        elif number == _TENSOR_EXTERNAL and isinstance(value, memoryview):
            entry = {key: _text(text) for key, text in fields(value)}
            entries[entry.get(_ENTRY_KEY, "")] = entry.get(_ENTRY_VALUE, "")
    if not is_external:
        return None
    try:
        size = entries.get("length")
        return Place(
            entries["location"], int(entries.get("offset", 0)), None if size is None else int(size)
        )
    except (KeyError, ValueError) as error:
        raise NoOnnxFile("a weight does not say where it lies") from error


def _moved(tensor: memoryview, place: Place) -> bytes:
    """The weight with its bytes at `place`."""
    entries = {"location": place.location}
    if place.offset:
        entries["offset"] = str(place.offset)
    if place.size is not None:
        entries["length"] = str(place.size)
    pieces = [_without_data(tensor)]
    for key, text in entries.items():
        entry = _field(_ENTRY_KEY, key.encode()) + _field(_ENTRY_VALUE, text.encode())
        pieces.append(_field(_TENSOR_EXTERNAL, entry))
    pieces.append(_number(_TENSOR_LOCATION << 3) + _number(_IS_EXTERNAL))
    return b"".join(pieces)


def _without_data(tensor: memoryview) -> bytes:
    data = (_TENSOR_RAW, _TENSOR_EXTERNAL, _TENSOR_LOCATION)
    kept = [tensor[start:end] for number, _, start, end in _fields(tensor) if number not in data]
    return b"".join(kept)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview, int, int]]:
    """The fields of a message, with the positions at which each begins and ends."""
    at = 0
    try:
        while at < len(data):
            start = at
            key, at = _varint(data, at)
            number, form = key >> 3, key & 7
            if form == 0:
                value, at = _varint(data, at)
                yield number, value, start, at
                continue
            size = {1: 8, 5: 4}.get(form)
            if size is None:
                size, at = _varint(data, at)
            if form not in (1, 2, 5) or at + size > len(data):
                raise NoOnnxFile(f"field {number} of form {form} does not end")
            yield number, data[at : at + size], start, at + size
            at += size
    except IndexError as error:
        raise NoOnnxFile("it ends within a number") from error


def _spans(descriptor: int, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of bytes of a message in a file, each with where its content begins and ends."""
    while begin < end:
        head = memoryview(os.pread(descriptor, _HEAD_BYTES, begin))
        try:
            key, at = _varint(head, 0)
            number, form = key >> 3, key & 7
            if form == 0:
                _, at = _varint(head, at)
            size = {0: 0, 1: 8, 5: 4}.get(form)
            if size is None:
                size, at = _varint(head, at)
        except IndexError as error:
            raise NoOnnxFile("it ends within a number") from error
        if form not in (0, 1, 2, 5) or begin + at + size > end:
            raise NoOnnxFile(f"field {number} of form {form} does not end")
        if form == 2:
            yield number, begin + at, begin + at + size
        begin += at + size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number whose last byte is the first one below 128, and the position after it."""
    number = shift = 0
    while data[at] >= 128:
        number |= (data[at] & 127) << shift
        shift += 7
        at += 1
    return number | data[at] << shift, at + 1


def _number(value: int) -> bytes:
    """A number as a varint."""
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return _number(number << 3 | 2) + _number(len(content)) + content


def _text(value: int | memoryview) -> str:
    try:
        return "" if isinstance(value, int) else str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise NoOnnxFile("a text in it is not UTF-8") from error

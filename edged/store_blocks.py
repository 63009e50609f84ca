"""The block files of a store, and the tensors that lie beside them: read, checked, held, collected.

    <sha256>.onnx       a block: a graph that names its large weights by `tensors/<sha256>`
    tensors/<sha256>    the bytes of a weight, of any type and shape: raw_data of onnx.proto

Both are immutable and named by the SHA-256 of the file. A block's id covers the names of its
tensors, so it covers their content as well, and a block is an ordinary ONNX file with external
data, which any tool can read where it lies. A block of schema 1 has all its weights in itself; the
two forms are told apart by what is in the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edged import store_files as files
from edged.errors import StoreError
from edged.onnx_file import NoOnnxFile, Place, places, places_in, put_in, take_out

FOLDER = "blocks"
LEAST_BYTES = 4096  # a smaller tensor stays in its block: a file of its own takes a page anyway

_TENSORS = "tensors"
_CHUNK_BYTES = 1 << 20
_BLOCK = re.compile(r"([0-9a-f]{64})\.onnx")
_TENSOR = re.compile(r"([0-9a-f]{64})")
T = TypeVar("T")
_LOCATION = re.compile(_TENSORS + r"/([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Split:
    """A block as the store keeps it: its file, and its large tensors by their digests."""

    graph: bytes
    tensors: dict[str, memoryview]

    @property
    def block(self) -> str:
        """The block's id."""
        return hashlib.sha256(self.graph).hexdigest()

    @property
    def parts(self) -> dict[str, int]:
        """Ids and bytes of the block's own file and of its tensors."""
        sizes = {tensor: len(content) for tensor, content in self.tensors.items()}
        return {self.block: len(self.graph), **sizes}


@dataclass(frozen=True, slots=True)
class Collected:
    """What `gc` did. Ids of blocks; `held` ones are unused but still open in some process."""

    removed: tuple[str, ...]
    removed_tensors: int
    removed_bytes: int
    held: tuple[str, ...]


class Hold:
    """Shared locks on block files: `gc` keeps them and their tensors until `close`, or the end of
    the process."""

    def __init__(self, files: contextlib.ExitStack) -> None:
        self._files = files

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def split(whole: bytes, schema: int) -> Split:
    """The form in which a store of this schema keeps the block. What is no ONNX file, as a block
    of the fake backend, is kept as it is."""
    tensors: dict[str, memoryview] = {}

    def keep(content: memoryview) -> str:
        tensor = hashlib.sha256(content).hexdigest()
        tensors[tensor] = content
        return f"{_TENSORS}/{tensor}"

    if schema < 2:
        return Split(whole, {})
    try:
        return Split(take_out(whole, keep, LEAST_BYTES), tensors)
    except NoOnnxFile:
        return Split(whole, {})


class BlockFiles:
    """The folder with the blocks of one store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def create(self) -> None:
        folder = self._folder / _TENSORS
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"{folder} cannot be made: {error.strerror}; nothing has changed"
            raise StoreError(text) from error

    def path(self, block: str) -> Path:
        return self._folder / f"{block}.onnx"

    def sizes(self) -> dict[str, int]:
        """Id and bytes of every block file, without its tensors."""
        return _sizes(self._folder, _BLOCK)

    def tensor_sizes(self) -> dict[str, int]:
        """Digest and bytes of every tensor, used or not."""
        folder = self._folder / _TENSORS
        return _sizes(folder, _TENSOR) if folder.is_dir() else {}  # schema 1 has none

    def tensors(self, block: str) -> tuple[str, ...]:
        """The tensors that a block refers to, each once. Raises StoreError if it is missing."""
        with self._open(block) as descriptor:
            return _tensors_in(places_in, descriptor)

    def parts(self, block: str, *, has_tensors: bool) -> dict[str, int]:
        """Ids and bytes of the block's own file and of its tensors.

        Without tensors nothing of the file is read. Raises StoreError if a file is missing.
        """
        with self._open(block) as descriptor:
            found = {block: os.fstat(descriptor).st_size}
        for tensor in self.tensors(block) if has_tensors else ():
            try:
                found[tensor] = self._tensor_path(tensor).stat().st_size
            except OSError as error:
                raise self._tensor_missing(tensor) from error
        return found

    def graph(self, block: str) -> bytes:
        """The verified content of the block's own file. Raises StoreError."""
        with self._open(block) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read()
        self._compare(block, hashlib.sha256(data).hexdigest())
        return data

    def whole(self, block: str) -> bytes:
        """The verified content of a block with all its weights in it. Raises StoreError."""
        graph = self.graph(block)
        return put_in(graph, self._content) if _tensors_in(places, graph) else graph

    def verify(self, block: str) -> None:
        """Read the block and its tensors, and compare them with their names. Raises StoreError."""
        self.verify_graph(block)
        for tensor in self.tensors(block):
            self.verify_tensor(tensor)

    def verify_graph(self, block: str) -> None:
        """As `verify`, but only the block's own file."""
        with self._open(block) as descriptor:
            self._compare(block, _digest(descriptor))

    def verify_tensor(self, tensor: str) -> None:
        """Read a tensor and compare it with its name. Raises StoreError."""
        with self._open_tensor(tensor) as descriptor:
            self._compare_tensor(tensor, _digest(descriptor))

    def hold(self, blocks: Iterable[str]) -> Hold:
        """Keep these blocks, with their tensors, from `collect`. Raises StoreError if one is
        missing."""
        with contextlib.ExitStack() as held:
            for block in dict.fromkeys(blocks):
                descriptor = held.enter_context(self._open(block))
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if os.fstat(descriptor).st_nlink == 0:
                    raise self._missing(block)
            return Hold(held.pop_all())

    # --- writing, by whoever has the store's lock -----------------------------------------------

    def add(self, parts: Split) -> str:
        """Write what is not there undamaged, tensors first, and return the block's id."""
        if parts.tensors:
            self.create()  # copies of a store may lack empty folders
        for tensor, content in parts.tensors.items():
            _put(self._tensor_path(tensor), content)
        _put(self.path(parts.block), parts.graph)
        return parts.block

    def sync(self) -> None:
        """Make the names of the files durable."""
        for folder in (self._folder / _TENSORS, self._folder):
            if folder.is_dir():
                files.sync_folder(folder)

    def collect(self, used: Collection[str]) -> Collected:
        """Remove blocks that are not `used` and that nobody holds, the tensors that none of the
        others refers to, and litter.

        Raises StoreError, before anything is removed, if a block that stays is missing or damaged:
        nobody knows which tensors are its own.
        """
        needed = set[str]()
        for block in used if self.tensor_sizes() else ():
            needed |= set(_tensors_in(places, self.graph(block)))
        removed, held, removed_bytes = [], [], 0
        for block, size in self.sizes().items():
            if block in used:
                continue
            if files.remove_unheld(self.path(block)):
                removed.append(block)
                removed_bytes += size
            else:
                held.append(block)
                needed |= set(self.tensors(block))
        unused = {t: size for t, size in self.tensor_sizes().items() if t not in needed}
        for tensor in unused:
            self._tensor_path(tensor).unlink()
        for folder in (self._folder, self._folder / _TENSORS):
            for path in folder.glob(f"*{files.TEMPORARY}"):
                path.unlink()
        removed_bytes += sum(unused.values())
        return Collected(tuple(removed), len(unused), removed_bytes, tuple(held))

    # --- inside ---------------------------------------------------------------------------------

    def _tensor_path(self, tensor: str) -> Path:
        return self._folder / _TENSORS / tensor

    def _content(self, place: Place) -> bytes:
        """The verified bytes of a tensor."""
        tensor = _named(place)
        if tensor is None:
            raise StoreError(f"a block has weights in {place.location!r}, which no store has")
        with (
            self._open_tensor(tensor) as descriptor,
            os.fdopen(descriptor, "rb", closefd=False) as file,
        ):
            data = file.read()
        self._compare_tensor(tensor, hashlib.sha256(data).hexdigest())
        return data

    @contextlib.contextmanager
    def _open(self, block: str) -> Iterator[int]:
        try:
            with files.open_file(self.path(block)) as descriptor:
                yield descriptor
        except FileNotFoundError as error:
            raise self._missing(block) from error

    @contextlib.contextmanager
    def _open_tensor(self, tensor: str) -> Iterator[int]:
        try:
            with files.open_file(self._tensor_path(tensor)) as descriptor:
                yield descriptor
        except FileNotFoundError as error:
            raise self._tensor_missing(tensor) from error

    def _missing(self, block: str) -> StoreError:
        return StoreError(
            f"block {block[:12]} is missing ({self.path(block)}): read the store again if it "
            "has just changed; else restore the file from a copy or export its models again"
        )

    def _tensor_missing(self, tensor: str) -> StoreError:
        return StoreError(
            f"tensor {tensor[:12]} is missing ({self._tensor_path(tensor)}): read the store again "
            "if it has just changed; else restore the file from a copy or export its models again"
        )

    def _compare(self, block: str, digest: str) -> None:
        if digest != block:
            raise StoreError(
                f"block {block[:12]} is damaged ({self.path(block)} hashes to "
                f"{digest[:12]}): restore the file from a copy, or export its models again"
            )

    def _compare_tensor(self, tensor: str, digest: str) -> None:
        if digest != tensor:
            raise StoreError(
                f"tensor {tensor[:12]} is damaged ({self._tensor_path(tensor)} hashes to "
                f"{digest[:12]}): restore the file from a copy, or export its models again"
            )


def _tensors_in(find: Callable[[T], Iterable[Place]], file: T) -> tuple[str, ...]:
    """The tensors that a block's file names; none where it is no ONNX file."""
    try:
        found = dict.fromkeys(map(_named, find(file)))
    except NoOnnxFile:
        return ()
    return tuple(tensor for tensor in found if tensor is not None)


def _named(place: Place) -> str | None:
    match = _LOCATION.fullmatch(place.location)
    return None if match is None else match[1]


def _digest(descriptor: int) -> str:
    digest = hashlib.sha256()
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def _sizes(folder: Path, pattern: re.Pattern[str]) -> dict[str, int]:
    return {name: path.stat().st_size for name, path in files.named(folder, pattern)}


def _put(path: Path, content: bytes | memoryview) -> None:
    if not files.has_content(path, content):
        files.replace(path, content)

"""The store: a directory of blocks and manifests. The only reader and writer of its layout.

Knows nothing of what is inside a block; it never imports onnx.

    store.json                 {"schema": 1, "models": {name: SHA-256 of the manifest}}: the root
    manifests/<sha256>.json    immutable
    blocks/<sha256>.onnx       immutable; the id of a block is the SHA-256 of its file
    lock                       held by the one process that changes the store

Only the root ever changes, by one rename, so a change of several models is one change: readers
see the state before it or after it, and so does the disk after a crash. Whatever the root does
not lead to is litter; `gc` removes it, except blocks that a daemon holds (`hold`).

Locks are flock(2): they end with the process, however it ends. A shared lock needs no right to
write, so a daemon can hold blocks of a store that it may only read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edged import manifest as manifests
from edged import store_files as files
from edged.errors import NotFound, StoreAway, StoreError, Unavailable
from edged.manifest import Manifest
from edged.typeinfo import describe

SCHEMA = 1  # of store.json; raised when an older reader could misread a newer directory

_ROOT = "store.json"
_LOCK = "lock"
_MANIFESTS = "manifests"
_BLOCKS = "blocks"
_CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"([0-9a-f]{64})\.(onnx|json)")


class _Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    models: dict[str, str]


@dataclass(frozen=True, slots=True)
class Collected:
    """What `gc` did. Ids of blocks; `held` ones are unused but still open in some process."""

    removed: tuple[str, ...]
    removed_bytes: int
    held: tuple[str, ...]


class Hold:
    """Shared locks on block files: `gc` keeps them until `close`, or the end of the process."""

    def __init__(self, files: contextlib.ExitStack) -> None:
        self._files = files

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Store:
    """A store at `path`. Constructing one touches nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def create(self) -> Store:
        """Make an empty store where there is none yet; an existing one stays as it is.

        Raises StoreError if the directory holds something else.
        """
        if (self.path / _ROOT).exists():
            return self
        self.path.mkdir(parents=True, exist_ok=True)
        ours = {_ROOT + files.TEMPORARY, _LOCK, _MANIFESTS, _BLOCKS}
        if others := sorted({entry.name for entry in self.path.iterdir()} - ours - {_ROOT}):
            raise StoreError(
                f"{self.path} is not a store and not empty (it holds {others[0]!r}): "
                "name a new directory"
            )
        for folder in (_MANIFESTS, _BLOCKS):
            (self.path / folder).mkdir(exist_ok=True)
        with self._locked():
            if not (self.path / _ROOT).exists():
                files.replace(self.path / _ROOT, _encode_root({}))
                files.sync_folder(self.path)
                files.sync_folder(self.path.parent)
        return self

    # --- reading ----------------------------------------------------------------------------

    def names(self) -> tuple[str, ...]:
        """The models that the store has. Raises StoreError as `models` does."""
        return tuple(sorted(self._root()))

    def models(self, names: Iterable[str] | None = None) -> dict[str, Manifest]:
        """Models by name, by default all: one consistent state, each manifest checked against its
        digest.

        Raises NotFound, or StoreError if something is missing, damaged or of a newer version.
        """
        found, damaged = self.survey(names)
        for error in damaged.values():
            raise error
        return found

    def survey(
        self, names: Iterable[str] | None = None
    ) -> tuple[dict[str, Manifest], dict[str, StoreError]]:
        """As `models`, but a model whose manifest is missing, damaged or of a newer version takes
        no other one with it: those that are whole, and what is wrong with the others.

        Raises NotFound, or StoreError if the root cannot be read.
        """
        wanted = None if names is None else set(names)
        while True:
            root = self._root()
            if unknown := sorted((wanted or set()) - set(root)):
                raise _no_model(unknown[0], root, self.path)
            found: dict[str, Manifest] = {}
            damaged: dict[str, StoreError] = {}
            is_missing = False
            for name in sorted(root if wanted is None else wanted):
                try:
                    found[name] = self._manifest(name, root[name])
                except FileNotFoundError as error:
                    is_missing = True
                    damaged[name] = StoreError(
                        f"manifest {error.filename} is missing: restore the store from a copy, or "
                        "remove the model and export it again"
                    )
                except StoreError as error:
                    damaged[name] = error
            # A change and a gc may have passed since the root was read; else it is damage.
            if not is_missing or self._root() == root:
                return found, damaged

    def model(self, name: str) -> Manifest:
        """One model; errors as in `models`."""
        return self.models([name])[name]

    def block_path(self, block: str) -> Path:
        """Where the block's file is, or would be."""
        return self.path / _BLOCKS / f"{block}.onnx"

    def block_size(self, block: str) -> int:
        """Bytes of the block's file. Raises StoreError if it is missing."""
        with self._open_block(block) as file:
            return os.fstat(file).st_size

    def blocks(self) -> dict[str, int]:
        """Id and bytes of every block file, used or not."""
        return {id: path.stat().st_size for id, path in self._files(_BLOCKS)}

    def verify_block(self, block: str) -> None:
        """Read the whole file and compare its hash with the id. Raises StoreError."""
        digest = hashlib.sha256()
        with self._open_block(block) as file:
            while chunk := os.read(file, _CHUNK_BYTES):
                digest.update(chunk)
        self._compare(block, digest.hexdigest())

    def block_bytes(self, block: str) -> bytes:
        """The verified content of a block. Raises StoreError."""
        with self._open_block(block) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as f:
            data = f.read()
        self._compare(block, hashlib.sha256(data).hexdigest())
        return data

    def hold(self, blocks: Iterable[str]) -> Hold:
        """Keep these block files from `gc`. Raises StoreError if one is missing."""
        with contextlib.ExitStack() as held:
            for block in dict.fromkeys(blocks):
                descriptor = held.enter_context(self._open_block(block))
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if os.fstat(descriptor).st_nlink == 0:
                    raise self._missing(block)
            return Hold(held.pop_all())

    # --- writing ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def update(self, *, wait: bool = False) -> Iterator[StoreUpdate]:
        """A change that becomes visible as a whole when the `with` ends, or never on an exception.

        Raises Unavailable if another process is changing the store, unless `wait`.
        """
        self._root()
        with self._locked(wait=wait):
            change = StoreUpdate(self, self._root())
            yield change
            change.commit()

    def gc(self) -> Collected:
        """Remove what no model leads to: blocks that nobody holds, manifests, litter of a crash.

        Raises StoreError if a manifest cannot be read (its blocks would be lost), and
        Unavailable if another process is changing the store.
        """
        self._root()
        with self._locked():
            used_manifests = set(self._root().values())
            used = {step.block for model in self.models().values() for step in model.steps}
            removed, held, removed_bytes = [], [], 0
            for block, path in self._files(_BLOCKS):
                if block in used:
                    continue
                size = path.stat().st_size
                if files.remove_unheld(path):
                    removed.append(block)
                    removed_bytes += size
                else:
                    held.append(block)
            for digest, path in self._files(_MANIFESTS):
                if digest not in used_manifests:
                    path.unlink()
            for folder in (_MANIFESTS, _BLOCKS, "."):
                for path in (self.path / folder).glob(f"*{files.TEMPORARY}"):
                    path.unlink()
        return Collected(tuple(removed), removed_bytes, tuple(held))

    # --- inside -----------------------------------------------------------------------------

    def _root(self) -> dict[str, str]:
        path = self.path / _ROOT
        try:
            data = files.read(path)
        except FileNotFoundError as error:
            raise StoreAway(
                f"there is no store at {self.path}: name the directory that edged-export wrote"
            ) from error
        try:
            schema = msgspec.json.decode(data, type=_Schema).schema
            if schema > SCHEMA:
                raise StoreError(
                    f"the store at {self.path} has schema {schema}, this edged reads up to "
                    f"{SCHEMA}: upgrade edged"
                )
            return msgspec.json.decode(data, type=_Root).models
        except manifests.DECODING as error:
            raise StoreError(
                f"the store's root {path} is damaged ({error}): restore it from a copy, or export "
                "the models again into a new directory"
            ) from error

    def _manifest(self, name: str, digest: str) -> Manifest:
        if not _DIGEST.fullmatch(digest):
            raise StoreError(f"the store's root names {digest!r} as the manifest of {name!r}")
        path = self.path / _MANIFESTS / f"{digest}.json"
        try:
            data = files.read(path)
        except StoreError as error:
            raise StoreError(f"the manifest of model {name!r}: {error}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreError(
                f"manifest {path} of model {name!r} is damaged: restore it from a copy, or remove "
                "the model and export it again"
            )
        try:
            model = manifests.decode(data)
        except StoreError as error:
            raise StoreError(f"model {name!r} ({path}): {error}") from error
        if model.name != name:
            raise StoreError(f"manifest {path} is of model {model.name!r}, not of {name!r}")
        return model

    @contextlib.contextmanager
    def _open_block(self, block: str) -> Iterator[int]:
        try:
            with files.open_file(self.block_path(block)) as descriptor:
                yield descriptor
        except FileNotFoundError as error:
            raise self._missing(block) from error

    def _missing(self, block: str) -> StoreError:
        return StoreError(
            f"block {block[:12]} is missing ({self.block_path(block)}): read the store again if it "
            "has just changed; else restore the file from a copy or export its models again"
        )

    def _compare(self, block: str, digest: str) -> None:
        if digest != block:
            raise StoreError(
                f"block {block[:12]} is damaged ({self.block_path(block)} hashes to "
                f"{digest[:12]}): restore the file from a copy, or export its models again"
            )

    def _files(self, folder: str) -> list[tuple[str, Path]]:
        try:
            found = sorted((self.path / folder).iterdir())
        except OSError as error:
            raise StoreError(
                f"{self.path / folder} cannot be read: {error.strerror}; restore the store from a "
                "copy"
            ) from error
        return [(match[1], path) for path in found if (match := _FILE.fullmatch(path.name))]

    @contextlib.contextmanager
    def _locked(self, *, wait: bool = False) -> Iterator[None]:
        path = self.path / _LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StoreError(f"the store cannot be changed: {path}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise Unavailable(
                    f"another process is changing the store at {self.path}: try again when it is "
                    "done"
                ) from error
            yield
        finally:
            os.close(descriptor)


class StoreUpdate:
    """What an `update` will put in the store's place. Made by Store.update only."""

    def __init__(self, store: Store, root: dict[str, str]) -> None:
        self._store = store
        self._before = root
        self._root = dict(root)
        self._put: dict[str, Manifest] = {}

    def names(self) -> tuple[str, ...]:
        """The models that the store will have."""
        return tuple(sorted(self._root))

    def add_block(self, data: bytes) -> str:
        """Write a block unless it is there undamaged, and return its id."""
        block = hashlib.sha256(data).hexdigest()
        path = self._store.block_path(block)
        if not files.has_content(path, data):
            files.replace(path, data)
        return block

    def put_model(self, model: Manifest) -> None:
        """Add or replace the model of that name. Its blocks must be in the store."""
        self._put[model.name] = model
        self._root[model.name] = hashlib.sha256(manifests.encode(model)).hexdigest()

    def remove_model(self, name: str) -> None:
        """Forget a model, damaged or not. Its blocks stay until `gc`. Raises NotFound."""
        if name not in self._root:
            raise _no_model(name, self._root, self._store.path)
        del self._root[name]
        self._put.pop(name, None)

    def commit(self) -> None:
        """Make it durable: blocks and manifests first, then the root that leads to them."""
        if self._root == self._before:
            return
        for model in self._put.values():
            for step in model.steps:
                self._store.block_size(step.block)
            data = manifests.encode(model)
            path = self._store.path / _MANIFESTS / f"{self._root[model.name]}.json"
            if not files.has_content(path, data):
                files.replace(path, data)
        for folder in (_BLOCKS, _MANIFESTS):
            files.sync_folder(self._store.path / folder)
        files.replace(self._store.path / _ROOT, _encode_root(self._root))
        files.sync_folder(self._store.path)


class _Schema(msgspec.Struct, frozen=True):
    schema: int


def _no_model(name: str, root: Iterable[str], path: Path) -> NotFound:
    known = ", ".join(sorted(root)) or "none"
    return NotFound(f"there is no model {name!r} in the store at {path}; it has: {known}")


def _encode_root(models: dict[str, str]) -> bytes:
    root = _Root(SCHEMA, dict(sorted(models.items())))
    return msgspec.json.format(msgspec.json.encode(root), indent=1)


describe(_Root, _Schema)

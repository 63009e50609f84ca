"""The store: a directory of blocks and manifests. With `edged.store_blocks` the only reader and
writer of its layout.

    store.json                 {"schema": 2, "models": {name: SHA-256 of the manifest}}: the root
    manifests/<sha256>.json    immutable
    blocks/<sha256>.onnx       immutable; the id of a block is the SHA-256 of its file
    blocks/tensors/<sha256>    immutable; large weights, each once, however many blocks name it
    lock                       held by the one process that changes the store

A store of schema 1 has no tensors: each block has all its weights in its file. It is read and
changed as it is until somebody migrates it, so that daemons of older versions can go on with it.
Callers see whole blocks: they give and get the weights in the block, and ask for bytes with them.

Only the root ever changes, by one rename, so a change of several models is one change: readers
see the state before it or after it, and so does the disk after a crash. Whatever the root does
not lead to is litter; `gc` removes it, except blocks that a daemon holds (`hold`), which keep
their tensors as well.

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
from pathlib import Path

import msgspec

from edged import manifest as manifests
from edged import store_files as files
from edged.errors import NotFound, StoreAway, StoreError, Unavailable
from edged.manifest import Manifest
from edged.store_blocks import FOLDER, BlockFiles, Collected, Hold, Split, split
from edged.typeinfo import describe

SCHEMA = 2  # of store.json; raised when an older reader could misread a newer directory

_ROOT = "store.json"
_LOCK = "lock"
_MANIFESTS = "manifests"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MANIFEST = re.compile(r"([0-9a-f]{64})\.json")


class _Root(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    models: dict[str, str]


class Store:
    """A store at `path`. Constructing one touches nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._blocks = BlockFiles(self.path / FOLDER)
        self._schema: int | None = None  # of the root when it was last read

    def create(self) -> Store:
        """Make an empty store where there is none yet; an existing one stays as it is.

        Raises StoreError if the directory holds something else.
        """
        if (self.path / _ROOT).exists():
            return self
        self.path.mkdir(parents=True, exist_ok=True)
        ours = {_ROOT + files.TEMPORARY, _LOCK, _MANIFESTS, FOLDER}
        if others := sorted({entry.name for entry in self.path.iterdir()} - ours - {_ROOT}):
            raise StoreError(
                f"{self.path} is not a store and not empty (it holds {others[0]!r}): "
                "name a new directory"
            )
        (self.path / _MANIFESTS).mkdir(exist_ok=True)
        self._blocks.create()
        with self._locked():
            if not (self.path / _ROOT).exists():
                files.replace(self.path / _ROOT, _encode_root({}, SCHEMA))
                files.sync_folder(self.path)
                files.sync_folder(self.path.parent)
        return self

    # --- reading ----------------------------------------------------------------------------

    def schema(self) -> int:
        """The schema that the store has now. Raises StoreError as `models` does."""
        return self._root().schema

    def names(self) -> tuple[str, ...]:
        """The models that the store has. Raises StoreError as `models` does."""
        return tuple(sorted(self._root().models))

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
            root = self._root().models
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
            if not is_missing or self._root().models == root:
                return found, damaged

    def model(self, name: str) -> Manifest:
        """One model; errors as in `models`."""
        return self.models([name])[name]

    def block_path(self, block: str) -> Path:
        """Where the block's own file is, or would be."""
        return self._blocks.path(block)

    def block_size(self, block: str) -> int:
        """Bytes of the block with its tensors. Raises StoreError if a file is missing."""
        return sum(self.parts(block).values())

    def parts(self, block: str) -> dict[str, int]:
        """Ids and bytes of the block's own file and of its tensors, each once: what two blocks have
        in common are the parts that both have. Raises StoreError if a file is missing."""
        return self._blocks.parts(block, has_tensors=self._schema != 1)

    def tensors_of(self, block: str) -> tuple[str, ...]:
        """The tensors that a block needs, each once. Raises StoreError if the block is missing."""
        return () if self._schema == 1 else self._blocks.tensors(block)

    def blocks(self) -> dict[str, int]:
        """Id of every block, used or not, and the bytes of its own file."""
        return self._blocks.sizes()

    def tensors(self) -> dict[str, int]:
        """Digest and bytes of every tensor, used or not."""
        return self._blocks.tensor_sizes()

    def verify_block(self, block: str) -> None:
        """Read the block and its tensors, and compare their hashes with their names.

        Raises StoreError.
        """
        self._blocks.verify(block)

    def verify_graph(self, block: str) -> None:
        """As `verify_block`, but only the block's own file."""
        self._blocks.verify_graph(block)

    def verify_tensor(self, tensor: str) -> None:
        """Read a tensor and compare its hash with its name. Raises StoreError."""
        self._blocks.verify_tensor(tensor)

    def block_bytes(self, block: str) -> bytes:
        """The verified content of a block, with all its weights. Raises StoreError."""
        return self._blocks.whole(block)

    def graph_bytes(self, block: str) -> bytes:
        """The verified content of the block's own file. Raises StoreError."""
        return self._blocks.graph(block)

    def hold(self, blocks: Iterable[str]) -> Hold:
        """Keep these blocks, with their tensors, from `gc`. Raises StoreError if one is missing."""
        return self._blocks.hold(blocks)

    def split(self, whole: bytes) -> Split:
        """The form that the store gives a block, which decides on its id."""
        return split(whole, self.schema() if self._schema is None else self._schema)

    # --- writing ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def update(self, *, wait: bool = False) -> Iterator[StoreUpdate]:
        """A change that becomes visible as a whole when the `with` ends, or never on an exception.

        Raises Unavailable if another process is changing the store, unless `wait`.
        """
        self._root()
        with self._locked(wait=wait):
            change = StoreUpdate(self, self._blocks, self._root())
            yield change
            change.commit()
            self._schema = change.schema

    def gc(self) -> Collected:
        """Remove what no model leads to: blocks that nobody holds, manifests, litter of a crash.

        Raises StoreError if a manifest or a block that stays cannot be read (what it leads to
        would be lost), and Unavailable if another process is changing the store.
        """
        self._root()
        with self._locked():
            used_manifests = set(self._root().models.values())
            used = {step.block for model in self.models().values() for step in model.steps}
            collected = self._blocks.collect(used)
            for digest, path in files.named(self.path / _MANIFESTS, _MANIFEST):
                if digest not in used_manifests:
                    path.unlink()
            for folder in (self.path / _MANIFESTS, self.path):
                for path in folder.glob(f"*{files.TEMPORARY}"):
                    path.unlink()
        return collected

    # --- inside -----------------------------------------------------------------------------

    def _root(self) -> _Root:
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
            root = msgspec.json.decode(data, type=_Root)
        except manifests.DECODING as error:
            raise StoreError(
                f"the store's root {path} is damaged ({error}): restore it from a copy, or export "
                "the models again into a new directory"
            ) from error
        self._schema = root.schema
        return root

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

    def __init__(self, store: Store, block_files: BlockFiles, root: _Root) -> None:
        self._store = store
        self._blocks = block_files
        self._before = root
        self._models = dict(root.models)
        self.schema = root.schema
        self._put: dict[str, Manifest] = {}

    def names(self) -> tuple[str, ...]:
        """The models that the store will have."""
        return tuple(sorted(self._models))

    def raise_schema(self) -> None:
        """The store will have the newest schema, and so will the blocks that are added from here
        on. Whoever asks for it puts all models again, with such blocks."""
        self.schema = SCHEMA
        self._blocks.create()

    def add_block(self, whole: bytes) -> str:
        """Write a block, given with all its weights, unless it is there undamaged: its id."""
        return self._blocks.add(split(whole, self.schema))

    def put_model(self, model: Manifest) -> None:
        """Add or replace the model of that name. Its blocks must be in the store."""
        self._put[model.name] = model
        self._models[model.name] = hashlib.sha256(manifests.encode(model)).hexdigest()

    def remove_model(self, name: str) -> None:
        """Forget a model, damaged or not. Its blocks stay until `gc`. Raises NotFound."""
        if name not in self._models:
            raise _no_model(name, self._models, self._store.path)
        del self._models[name]
        self._put.pop(name, None)

    def commit(self) -> None:
        """Make it durable: blocks and manifests first, then the root that leads to them."""
        after = _Root(self.schema, self._models)
        if after == self._before:
            return
        for block in {step.block for model in self._put.values() for step in model.steps}:
            self._blocks.parts(block, has_tensors=self.schema != 1)
        folder = self._store.path / _MANIFESTS
        for model in self._put.values():
            data = manifests.encode(model)
            path = folder / f"{self._models[model.name]}.json"
            if not files.has_content(path, data):
                files.replace(path, data)
        self._blocks.sync()
        files.sync_folder(folder)
        files.replace(self._store.path / _ROOT, _encode_root(self._models, self.schema))
        files.sync_folder(self._store.path)


class _Schema(msgspec.Struct, frozen=True):
    schema: int


def _no_model(name: str, root: Iterable[str], path: Path) -> NotFound:
    known = ", ".join(sorted(root)) or "none"
    return NotFound(f"there is no model {name!r} in the store at {path}; it has: {known}")


def _encode_root(models: dict[str, str], schema: int) -> bytes:
    root = _Root(schema, dict(sorted(models.items())))
    return msgspec.json.format(msgspec.json.encode(root), indent=1)


describe(_Root, _Schema)

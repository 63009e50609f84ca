"""A change is killed, or the power fails, at each of its system calls: old state or new state.

The calls are counted by wrapping those of `os` that change a disk; the store does not know.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edged.manifest import Manifest
from edged.store import Store
from export.migrate import migrate
from tests.store.samples import as_of_schema_1, model, with_weight

CHECKOUT = Path(__file__).parents[2]
CALLS = ("open", "write", "fsync", "replace", "close")
OLD, KEPT, NEW = b"old" * 1000, b"kept" * 1000, with_weight(b"new" * 2000)

BEFORE = {"one": model("one", KEPT, OLD), "two": model("two", OLD)}
AFTER = {"one": model("one", KEPT, NEW), "three": model("three", KEPT)}


def make(path: Path) -> Store:
    store = Store(path).create()
    with store.update() as change:
        for data in (OLD, KEPT):
            change.add_block(data)
        for manifest in BEFORE.values():
            change.put_model(manifest)
    return store


def change_all(store: Store) -> None:
    with store.update() as change:
        change.add_block(NEW)
        change.remove_model("two")
        for manifest in AFTER.values():
            change.put_model(manifest)


def whole(store: Store) -> dict[str, Manifest]:
    """The models, after a check that every block that they need is intact."""
    models = store.models()
    for manifest in models.values():
        for step in manifest.steps:
            store.verify_block(step.block)
    return models


def die_at(call: int) -> None:
    """Let the `call`-th system call on a disk kill this process; a write writes half its data."""
    count = 0

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return counted

    for name in CALLS:
        setattr(os, name, wrap(name, getattr(os, name)))


def test_killed_at_each_system_call(tmp_path: Path) -> None:
    seen = []
    for call in range(1, 200):
        path = tmp_path / str(call)
        store = make(path)
        child = subprocess.run(
            [sys.executable, "-m", __name__, path, str(call)], cwd=CHECKOUT, check=False
        )
        models = whole(store)
        seen.append(models)
        assert models in (BEFORE, AFTER), f"killed at call {call}"
        if models == BEFORE:
            change_all(store)
        assert whole(store) == AFTER
        store.gc()
        assert whole(store) == AFTER
        assert not list(path.rglob("*.tmp"))
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
    assert len(seen) > 20
    assert seen[0] == BEFORE
    assert seen == sorted(seen, key=AFTER.__eq__), "once new, it stays new"
    assert seen[-2] == AFTER, "the call that shows the change is not the last"


class Disk:
    """The content of a disk after a power failure: only what was synced is sure to be there.

    Replays the calls of a change on a copy in memory. `kept` drops everything that is not synced;
    `torn` keeps each rename and no content: a file that was never synced is empty.
    """

    def __init__(self, folder: Path) -> None:
        self.files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.synced = dict(self.files)  # content by path at the last sync of file and folder
        self.content_synced: set[Path] = set(self.files)

    def fsync(self, path: Path) -> None:
        if path.is_dir():
            inside = {file for file in {*self.files, *self.synced} if file.parent == path}
            for file in inside:
                self.synced.pop(file, None)
                if file in self.files and file in self.content_synced:
                    self.synced[file] = self.files[file]
        else:
            self.files[path] = path.read_bytes()
            self.content_synced.add(path)

    def replace(self, source: Path, target: Path) -> None:
        self.files[target] = self.files.pop(source, b"")
        if source not in self.content_synced:
            self.content_synced.discard(target)
        else:
            self.content_synced.add(target)
        self.content_synced.discard(source)

    def states(self) -> list[dict[Path, bytes]]:
        torn = {p: d if p in self.content_synced else b"" for p, d in self.files.items()}
        return [dict(self.synced), torn]


def make_of_schema_1(path: Path) -> Store:
    """A store of before that has a block with a large weight."""
    store = as_of_schema_1(Store(path).create())
    with store.update() as change:
        for data in (KEPT, NEW):
            step = model("", data).steps[0]
            step = replace(step, block=change.add_block(data))
            change.put_model(replace(model(f"of{len(data)}", data), steps=(step,)))
    return store


@pytest.mark.parametrize(
    ("make", "change"), [(make, change_all), (make_of_schema_1, migrate)], ids=["change", "migrate"]
)
def test_power_fails_after_each_system_call(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Store],
    change: Callable[[Store], object],
) -> None:
    store, copy = make(tmp_path / "store"), make(tmp_path / "copy")
    before = whole(store)
    change(copy)
    after = whole(copy)
    assert before != after
    disk = Disk(store.path)
    states: list[dict[Path, bytes]] = []
    paths: dict[int, Path] = {}
    real_open, real_fsync, real_replace = os.open, os.fsync, os.replace

    def watched_open(path: Any, *args: Any, **kwargs: Any) -> int:
        descriptor = real_open(path, *args, **kwargs)
        paths[descriptor] = Path(path)
        return descriptor

    def watched_fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        disk.fsync(paths[descriptor])
        states.extend(disk.states())

    def watched_replace(source: Path, target: Path) -> None:
        real_replace(source, target)
        disk.replace(source, target)
        states.extend(disk.states())

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", watched_open)
        patch.setattr(os, "fsync", watched_fsync)
        patch.setattr(os, "replace", watched_replace)
        change(store)

    found = []
    for i, state in enumerate(states):
        left = tmp_path / f"left-{i}"
        for path, data in state.items():
            target = left / path.relative_to(store.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        found.append(whole(Store(left)))
        assert found[-1] in (before, after)
    assert len(found) > 20
    assert found[0] == before
    assert found[-2:] == [after, after], "when the change returns, it is durable"


if __name__ == "__main__":
    target, at = sys.argv[1:]
    die_at(int(at))
    change_all(Store(target))

"""A folder of prepared blocks that several processes share, and that may be full."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edged.backends.prepared import DamagedCopy, PreparedBlocks
from edged.errors import ConfigError, EdgedError, Unavailable

BLOCK = "ab" * 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def write(entry: Path) -> None:
    (entry / "model.onnx").write_bytes(b"weights")


def old(entry: Path) -> Path:
    os.utime(entry, (1e9, 1e9))
    return entry


def test_what_nobody_has_used_for_long_is_swept_and_what_a_process_holds_is_not(
    folder: Path,
) -> None:
    mine, other = PreparedBlocks(folder, {}), PreparedBlocks(folder, {})
    used, unused = old(mine.make(BLOCK, write)), old(mine.make("cd" * 32, write))
    mine.hold(BLOCK)
    old(used)
    other.sweep()
    assert (used.is_dir(), unused.is_dir()) == (True, False)
    mine.verify(BLOCK)
    mine.let_go(BLOCK)
    other.sweep()
    assert not used.is_dir()
    with pytest.raises(FileNotFoundError):
        mine.hold(BLOCK)


def test_who_holds_an_entry_says_that_it_is_used(folder: Path) -> None:
    blocks = PreparedBlocks(folder, {})
    entry = old(blocks.make(BLOCK, write))
    blocks.hold(BLOCK)
    blocks.let_go(BLOCK)
    PreparedBlocks(folder, {}).sweep()
    assert entry.is_dir()


def test_daemons_that_start_together_sweep_the_same_entries(folder: Path) -> None:
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def start() -> None:
        blocks = PreparedBlocks(folder, {})
        barrier.wait()
        try:
            blocks.sweep()
        except BaseException as error:
            errors.append(error)

    for turn in range(5):
        for number in range(50):
            entry = folder / f"{turn}-{number}"
            entry.mkdir(parents=True)
            write(entry)
            old(entry)
        (folder / "litter").write_bytes(b"")
        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {entry.name for entry in folder.iterdir()} == {"litter"}
    assert not errors


def test_an_entry_is_not_taken_for_whole_while_another_process_makes_it_anew(folder: Path) -> None:
    mine, other = PreparedBlocks(folder, {}), PreparedBlocks(folder, {})
    entry = mine.make(BLOCK, write)
    other.hold(BLOCK)
    shutil.rmtree(entry)
    with pytest.raises(DamagedCopy):
        other.verify(BLOCK)
    other.make(BLOCK, write)
    other.hold(BLOCK)
    other.verify(BLOCK)


def no_space(entry: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def library(entry: Path) -> None:
    raise RuntimeError("the library could not write the model")


def read_only(entry: Path) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize(
    ("fail", "free", "kind", "says"),
    [
        (no_space, 0, Unavailable, "no room .* make room there"),
        (library, 0, Unavailable, "no room .* make room there"),
        (library, 1 << 40, RuntimeError, "the library"),
        (read_only, 1 << 40, ConfigError, r"Read-only.*device\.cache_dir"),
    ],
)
def test_what_cannot_be_written_says_what_to_do_and_leaves_no_litter(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[Path], None],
    free: int,
    kind: type[EdgedError],
    says: str,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(kind, match=says):
        PreparedBlocks(folder, {}).make(BLOCK, fail)
    assert not list(folder.iterdir())


def large(entry: Path) -> None:
    write(entry)
    (entry / "weights").write_bytes(b"weights" * 1000)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


OTHER = "cd" * 32


def test_files_of_equal_content_are_one_until_the_last_entry_goes(folder: Path) -> None:
    blocks = PreparedBlocks(folder, {})
    first, second = (blocks.make(block, large) / "weights" for block in (BLOCK, OTHER))
    assert first.samefile(second)
    assert not first.with_name("model.onnx").samefile(second.with_name("model.onnx"))  # too small
    (known,) = (folder / "equals").iterdir()
    blocks.remove(BLOCK)
    blocks.sweep()
    blocks.verify(OTHER)
    assert known.exists()
    old(folder / "equals")  # it is no entry, however old it is
    old(second.parent)
    blocks.sweep()
    assert [*folder.iterdir()] == [known.parent]
    assert not known.exists()


def test_a_copy_that_is_removed_gives_its_place_on_the_disk_back(folder: Path) -> None:
    blocks = PreparedBlocks(folder, {})
    blocks.make(BLOCK, large)
    blocks.remove(BLOCK)
    assert [*(folder / "equals").iterdir()] == []


def test_a_damaged_file_is_not_shared_any_more(folder: Path) -> None:
    blocks = PreparedBlocks(folder, {})
    for block in (BLOCK, OTHER):
        blocks.make(block, large)
    (known,) = (folder / "equals").iterdir()
    flip(known)
    for block in (BLOCK, OTHER):
        with pytest.raises(DamagedCopy, match="weights is not what was written"):
            blocks.verify(block)
        blocks.make(block, large)
        blocks.verify(block)
    assert (blocks.files(BLOCK)[0].parent / "weights").samefile(known)


def test_a_file_system_without_links_keeps_a_copy_for_each_entry(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    blocks = PreparedBlocks(folder, {})
    first, second = (blocks.make(block, large) / "weights" for block in (BLOCK, OTHER))
    assert not first.samefile(second)
    for block in (BLOCK, OTHER):
        blocks.verify(block)

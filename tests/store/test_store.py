"""The store as its users see it: reading, changing, holding, collecting, and its errors."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edged import manifest as manifests
from edged.errors import NotFound, StoreError, Unavailable
from edged.store import Store
from tests.store.samples import block_id, model

A, B, C = b"a" * 5_000_000, b"b" * 100, b"c" * 100


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store").create()
    with store.update() as change:
        for data in (A, B, C):
            change.add_block(data)
        change.put_model(model("ab", A, B))
        change.put_model(model("ac", A, C))
    return store


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def test_what_was_written_is_read_again(store: Store) -> None:
    assert store.models() == {"ab": model("ab", A, B), "ac": model("ac", A, C)}
    assert store.model("ac") == model("ac", A, C)
    assert store.blocks() == {block_id(A): len(A), block_id(B): 100, block_id(C): 100}
    assert store.block_bytes(block_id(A)) == A
    store.verify_block(block_id(B))


def test_create_keeps_a_store_and_refuses_other_directories(store: Store, tmp_path: Path) -> None:
    assert len(store.create().models()) == 2
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear reader")
    with pytest.raises(StoreError, match=r"not a store and not empty \(it holds 'letter.txt'\)"):
        Store(tmp_path / "home").create()


def test_an_exception_leaves_the_old_state(store: Store) -> None:
    before = store.models()
    with pytest.raises(ZeroDivisionError), store.update() as change:  # noqa: PT012
        change.remove_model("ab")
        change.put_model(model("ca", C, A))
        _ = 1 // 0
    assert store.models() == before


def test_a_model_without_its_block_is_refused(store: Store) -> None:
    before = store.models()
    with (
        pytest.raises(StoreError, match=f"block {block_id(b'?')[:12]} is missing"),
        store.update() as change,
    ):
        change.put_model(model("lost", A, b"?"))
    assert store.models() == before


def test_a_change_while_models_are_held_in_memory_is_not_seen_in_them(store: Store) -> None:
    before = store.models()
    with store.update() as change:
        change.put_model(model("ab", A, B, labels=("one", "two")))
        change.remove_model("ac")
        assert change.names() == ("ab",)
        assert store.models() == before
    assert store.names() == ("ab",)
    assert store.model("ab").labels == ("one", "two")


def test_unknown_model(store: Store) -> None:
    with pytest.raises(NotFound, match=r"no model 'zz' in the store .* it has: ab, ac"):
        store.model("zz")
    with pytest.raises(NotFound, match="no model 'zz'"), store.update() as change:
        change.remove_model("zz")


def test_flipped_bit_in_a_block(store: Store) -> None:
    flip_bit(store.block_path(block_id(B)))
    for read in (store.verify_block, store.block_bytes):
        with pytest.raises(StoreError, match=f"block {block_id(B)[:12]} is damaged") as caught:
            read(block_id(B))
        assert str(store.block_path(block_id(B))) in str(caught.value)
        assert "restore the file from a copy, or export its models again" in str(caught.value)


def test_writing_a_damaged_block_again_mends_it(store: Store) -> None:
    flip_bit(store.block_path(block_id(B)))
    with store.update() as change:
        change.add_block(B)
    store.verify_block(block_id(B))


def test_damaged_manifest_can_be_removed(store: Store) -> None:
    for path in (store.path / "manifests").iterdir():
        if b'"ab"' in path.read_bytes():
            flip_bit(path)
    with pytest.raises(StoreError, match=r"manifest .* of model 'ab' is damaged"):
        store.models()
    assert store.model("ac") == model("ac", A, C)
    with store.update() as change:
        change.remove_model("ab")
    assert store.models() == {"ac": model("ac", A, C)}


def test_missing_manifest(store: Store) -> None:
    for path in (store.path / "manifests").iterdir():
        path.unlink()
    with pytest.raises(StoreError, match=r"manifest .*json is missing"):
        store.models()


def test_newer_manifest(store: Store) -> None:
    data = msgspec.json.encode({"schema": 2, "name": "ab", "poems": ["of the future"]})
    (store.path / "manifests" / f"{block_id(data)}.json").write_bytes(data)
    root = {"schema": 1, "models": {"ab": block_id(data)}}
    (store.path / "store.json").write_bytes(msgspec.json.encode(root))
    with pytest.raises(StoreError, match=r"'ab' .* has schema 2, .* reads up to 1: upgrade edged"):
        store.models()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "damaged"),
        (b'{"schema":1,"models":{"ab":', "damaged"),
        (b'{"schema":1,"models":[]}', "damaged"),
        (b'{"schema":1,"models":{},"more":1}', "damaged .*unknown field `more`"),
        (b'{"schema":3,"shelves":{}}', "has schema 3, this edged reads up to 2: upgrade edged"),
    ],
)
def test_bad_root(store: Store, content: bytes, says: str) -> None:
    (store.path / "store.json").write_bytes(content)
    for use in (store.models, store.gc, store.update().__enter__):
        with pytest.raises(StoreError, match=says):
            use()


def test_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(StoreError, match=f"there is no store at {path}"):
            Store(path).models()


def test_second_writer_is_told_and_readers_go_on(store: Store) -> None:
    with store.update():
        for use in (store.gc, store.update().__enter__):
            with pytest.raises(Unavailable, match="another process is changing the store"):
                use()
        assert len(store.models()) == 2
    with store.update():
        pass


def test_gc_removes_what_no_model_leads_to(store: Store) -> None:
    litter = store.path / "blocks" / "x.onnx.tmp"
    litter.write_bytes(b"half a block")
    with store.update() as change:
        change.remove_model("ab")
    assert store.gc().removed == (block_id(B),)
    assert set(store.blocks()) == {block_id(A), block_id(C)}
    assert len(list((store.path / "manifests").iterdir())) == 1
    assert not litter.exists()
    assert store.gc().removed == ()


def test_gc_keeps_what_another_process_holds(store: Store) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from edged.store import Store\n"
            "with Store(sys.argv[1]).hold(sys.argv[2:]): print('held', flush=True); input()",
            store.path,
            block_id(A),
            block_id(B),
        ],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with store.update() as change:
            change.remove_model("ab")
            change.remove_model("ac")
        collected = store.gc()
        assert collected.removed == (block_id(C),)
        assert collected.removed_bytes == len(C)
        assert set(collected.held) == {block_id(A), block_id(B)}
        assert store.block_bytes(block_id(A)) == A
        holder.kill()
    assert set(store.gc().removed) == {block_id(A), block_id(B)}


def test_hold_of_a_missing_block_holds_nothing(store: Store) -> None:
    with store.update() as change:
        change.remove_model("ab")
    with pytest.raises(StoreError, match="is missing"):
        store.hold([block_id(B), block_id(b"?")])
    assert store.gc().removed == (block_id(B),)


def test_hold_notices_that_gc_was_faster(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        store.block_path(block_id(B)).unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(StoreError, match="is missing"):
        store.hold([block_id(B)])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system read-only")
@pytest.mark.root
def test_read_only_store_is_read_and_held(store: Store) -> None:
    mount = f"mount --bind {store.path} {store.path} && mount -o remount,bind,ro {store.path}"
    program = (
        "import sys; from edged.store import Store; s = Store(sys.argv[1]); m = s.models()\n"
        "s.hold(step.block for one in m.values() for step in one.steps).close()\n"
        "try: s.gc()\n"
        "except Exception as error: print(len(m), error)"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", program,
         store.path],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("2 the store cannot be changed"), done
    assert "Read-only file system" in done.stdout


def test_a_full_disk_is_one_clear_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    before = store.models()
    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(StoreError, match="cannot be written: No space left on device"),
        store.update() as change,
    ):
        change.put_model(model("ba", B, A))
    assert store.models() == before
    assert not list(store.path.rglob("*.tmp"))


def other_kind(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")  # has no end


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_an_error_and_not_waited_for(store: Store, kind: str) -> None:
    block = block_id(B)
    other_kind(store.block_path(block), kind)
    reads = (store.block_bytes, store.verify_block, store.block_size, lambda b: store.hold([b]))
    for read in reads:
        with pytest.raises(StoreError, match="is not a file: restore the store"):
            read(block)
    with store.update() as change:
        change.remove_model("ab")  # removing needs none of its files
    digest = store._root().models["ac"]
    other_kind(store.path / "manifests" / f"{digest}.json", kind)
    with pytest.raises(StoreError, match=r"of model 'ac': .* is not a file"):
        store.models()
    other_kind(store.path / "store.json", kind)
    with pytest.raises(StoreError, match=r"store.json is not a file"):
        store.names()


def test_an_unused_pipe_is_collected(store: Store) -> None:
    os.mkfifo(store.block_path("0" * 64))
    assert store.gc().removed == ("0" * 64,)


@pytest.mark.parametrize(
    "change", [{"max_rows": 0}, {"max_rows": -1}, {"max_rows": 2**62}, {"checks": -1}]
)
def test_a_number_that_means_nothing_is_refused(store: Store, change: dict[str, int]) -> None:
    wrong = msgspec.structs.replace(model("ab", A, B), **change)
    (name,) = change
    with (
        pytest.raises(StoreError, match=f"model 'ab': {name} is {change[name]}"),
        store.update() as to,
    ):
        to.put_model(wrong)
    plain = msgspec.json.encode(wrong)
    with pytest.raises(StoreError, match=f"model 'ab': {name} is {change[name]}"):
        manifests.decode(plain)


def test_a_manifest_that_does_not_say_its_checks_is_of_before_them(store: Store) -> None:
    plain = msgspec.to_builtins(model("ab", A, B))
    del plain["checks"], plain["unfit"]
    old = manifests.decode(msgspec.json.encode(plain))
    assert (old.checks, old.max_rows, old.rows_at_once) == (0, None, 1)
    new = manifests.decode(msgspec.json.encode(model("ab", A, B)))
    assert (new.checks, new.rows_at_once) == (manifests.CHECKS, None)
    assert manifests.decode(manifests.encode(old)) == old

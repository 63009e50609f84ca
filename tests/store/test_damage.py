"""Any damage of a store's files is one kind of error, and affects no other model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edged import manifest as manifests
from edged.errors import StoreError
from edged.store import Store
from tests.colors import write_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(write_store(tmp_path / "store"))


def manifest_of(store: Store, name: str) -> Path:
    digest = store._root().models[name]
    return store.path / "manifests" / f"{digest}.json"


@pytest.mark.slow
def test_each_flipped_bit_of_the_root_is_found_out_or_does_no_harm(store: Store) -> None:
    path = store.path / "store.json"
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with contextlib.suppress(StoreError):
            store.survey()


def test_each_flipped_bit_of_a_manifest_is_read_or_refused(store: Store) -> None:
    """The digest is made to fit, as if `edged-export` itself had written the manifest."""
    whole = manifest_of(store, "color").read_bytes()
    for bit in range(0, 8 * len(whole), 3):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(StoreError):
            manifests.decode(bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"null", b'{"schema": 1e99}']
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(StoreError):
        manifests.decode(data)


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


DAMAGES = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "a directory": replaced_by(Path.mkdir),
    "a pipe": replaced_by(os.mkfifo),
    "a device": replaced_by(lambda path: path.symlink_to("/dev/zero")),
    "a loop": replaced_by(lambda path: path.symlink_to(path)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_manifest_that_cannot_be_read_takes_no_other_model_with_it(
    store: Store, damage: str
) -> None:
    DAMAGES[damage](manifest_of(store, "weakest"))
    found, damaged = store.survey()
    assert (list(found), list(damaged)) == (["color"], ["weakest"])
    assert "restore" in str(damaged["weakest"])
    with pytest.raises(StoreError):
        store.models()
    assert store.models(["color"]) == found


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_block_that_cannot_be_read_is_one_clear_error(store: Store, damage: str) -> None:
    block = store.model("weakest").steps[-1].block
    DAMAGES[damage](store.block_path(block))
    with pytest.raises(StoreError, match=r"restore"):
        store.verify_block(block)


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "cut"])
def test_a_root_that_cannot_be_read_is_one_clear_error(store: Store, damage: str) -> None:
    DAMAGES[damage](store.path / "store.json")
    with pytest.raises(StoreError):
        store.survey()


def test_what_may_not_be_read_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account of the tests may read everything, so the kernel's refusal is simulated."""
    mine, system = manifest_of(store, "weakest"), os.open

    def refuse(path: object, *args: int, **kwargs: object) -> int:
        if path == mine:
            raise PermissionError(13, "Permission denied", str(path))
        return system(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    found, damaged = store.survey()
    assert list(found) == ["color"]
    assert "Permission denied; let the account of the daemon read it" in str(damaged["weakest"])

"""The files of a store: read whole or refused, replaced whole or not at all.

A file that cannot be read or written raises StoreError with a message that names the file. Knows
nothing of what is in the files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from edged.errors import StoreError, Unavailable

TEMPORARY = ".tmp"  # ending of a file that is being written


def read(path: Path) -> bytes:
    """The content of a file. Raises FileNotFoundError, or StoreError if it cannot be read."""
    with open_file(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read()


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[int]:
    """A descriptor of the file for reading. Raises the errors of `read`, in the `with` as well."""
    try:
        # O_NONBLOCK, because opening a pipe of that name would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StoreError(f"{path} is not a file: restore the store from a copy")
            yield descriptor
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror}; let the account of the daemon read it, or "
            "restore it from a copy"
        ) from error
    except MemoryError as error:
        raise StoreError(f"{path} cannot be read: there is no memory for it") from error


def has_content(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and read(path) == data
    except (OSError, StoreError):
        return False


def replace(path: Path, data: bytes) -> None:
    """Write `path` so that it is complete or, after a failure or crash, as it was before.

    The caller holds the lock, so nobody else uses the temporary name. The rename is durable only
    after `sync_folder`.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(temporary, flags, 0o666)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written: {error.strerror}; nothing changed") from error


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of the one process that changes the store.

    Raises Unavailable if another process holds it, unless `wait`.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StoreError(f"the store cannot be changed: {path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise Unavailable(
                f"another process is changing the store at {path.parent}: try again when it is done"
            ) from error
        yield
    finally:
        os.close(descriptor)


def remove_unheld(path: Path) -> bool:
    """Remove a file unless a daemon holds it, and return whether it was removed.

    The file is removed under an exclusive lock, which nobody gets while a daemon has a shared one.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True

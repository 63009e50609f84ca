"""Files of a store: read, replaced as a whole, and removed, with the store's errors.

Knows nothing of the store's layout.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from edged.errors import StoreAway, StoreError

TEMPORARY = ".tmp"  # the end of the name of a file that is being written


def read(path: Path) -> bytes:
    """The content of a file. Raises FileNotFoundError where there is none, and StoreError where
    the file cannot be read.
    """
    with open_file(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read()


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[int]:
    """A descriptor to read the file. What fails within the `with` raises the errors of `read`."""
    try:
        # A pipe of that name would keep us waiting for ever.
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
        raise StoreAway(
            f"{path} cannot be read: {error.strerror}; let the account of the daemon read it, or "
            "restore it from a copy"
        ) from error
    except MemoryError as error:
        raise StoreAway(f"{path} cannot be read: there is no memory for it") from error


def named(folder: Path, pattern: re.Pattern[str]) -> list[tuple[str, Path]]:
    """The entries of a folder whose names match, sorted, with the pattern's first group."""
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be read: {error.strerror}; restore the store from a copy"
        ) from error
    return [(match[1], path) for path in found if (match := pattern.fullmatch(path.name))]


def has_content(path: Path, data: bytes | memoryview) -> bool:
    """Whether the file is there with this very content."""
    try:
        return path.stat().st_size == len(data) and read(path) == data
    except (OSError, StoreError):
        return False


def replace(path: Path, data: bytes | memoryview) -> None:
    """Write `path` so that even a power failure leaves it absent, as it was, or complete.

    The caller holds the lock, so the temporary name is its own. The rename is durable only
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
    """Make the names of a folder's files durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unheld(path: Path) -> bool:
    """Unlink under an exclusive lock, which nobody gets while a daemon holds a shared one."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True

"""Profiles as files: those that `edged profile` writes, and those that ship with edged."""

from __future__ import annotations

import errno
import os
from importlib import resources
from pathlib import Path

from edged.errors import ConfigError
from edged.profiles import boards
from edged.profiles.form import DeviceProfile, decode, encode

SMOOTH_TABLE_2 = "smooth-table2"


def read(name: str) -> DeviceProfile:
    """The profile in the file `name`, or, if `name` lacks `.json`, the one in the package.

    Raises ConfigError that names the file.
    """
    here = resources.files("edged.profiles") / f"{name}.json"
    source = Path(name) if name.endswith(".json") else here
    try:
        if not source.is_file():  # a device or a pipe may have no end
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        data = source.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"profile {name}: {error.strerror}; name a file.json that `edged profile` wrote, or "
            f"{', '.join(shipped())}"
        ) from error
    try:
        return decode(data)
    except ConfigError as error:
        raise ConfigError(f"profile {name}: {error}") from error


def write(path: Path, profile: DeviceProfile) -> None:
    """Raises ConfigError if the file cannot be written."""
    try:
        path.write_bytes(encode(profile))
    except OSError as error:
        raise ConfigError(f"profile {path} cannot be written: {error.strerror}") from error


def shipped() -> list[str]:
    """Names of the profiles in the package."""
    files = resources.files("edged.profiles").iterdir()
    return sorted(file.name[: -len(".json")] for file in files if file.name.endswith(".json"))


def machine() -> str:
    """The name of this machine: its processor (`AMD EPYC 9B14, x86_64`), or a board's model."""
    return boards.name()

"""What doctor asks of the machine besides its files: account, devices, Python, packages, driver.

Tests bring their own answers.
"""

from __future__ import annotations

import grp
import os
import platform
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import msgspec

from edged.children import command
from edged.daemon.places import check_directory
from edged.doctor.probe import Probe
from edged.errors import EdgedError
from edged.telemetry.files import FileTree

PROBE_S = 60.0  # TensorRT takes seconds to import on a board


class CallingAccount(msgspec.Struct, frozen=True):
    """The account that runs doctor."""

    name: str
    is_root: bool
    groups: tuple[str, ...]


class DeviceNode(msgspec.Struct, frozen=True):
    """A node below /dev."""

    owner: str
    group: str
    mode: str  # 0660
    usable: bool  # this account may read and write it


class Installed(msgspec.Struct, frozen=True):
    """A package of this environment."""

    name: str
    version: str
    place: str  # the folder that it lies in


class ThisPython(msgspec.Struct, frozen=True):
    """The interpreter that edged runs on."""

    version: str  # 3.10
    prefix: str  # of its virtual environment, or of the installation
    is_venv: bool
    sees_system: bool  # it sees the packages of the system
    architecture: str


class KeptFiles(msgspec.Struct, frozen=True):
    """A directory: what is in it, and why this account cannot write there, if it cannot."""

    exists: bool
    bytes: int = 0
    files: int = 0
    refusal: str = ""


class Surroundings:
    """Asks the real machine. `tree` has its files."""

    def __init__(self, tree: FileTree | None = None) -> None:
        self.tree = tree or FileTree()

    def account(self) -> CallingAccount:
        ids = {os.getegid(), *os.getgroups()}
        return CallingAccount(
            _account(os.geteuid()), os.geteuid() == 0, tuple(sorted(map(_group, ids)))
        )

    def nodes(self, patterns: Iterable[str]) -> dict[str, DeviceNode]:
        """The nodes that match, by path."""
        found = {}
        for pattern in patterns:
            for path in self.tree.find(pattern):
                place = self.tree.root / path
                try:
                    about = place.stat()
                except OSError:
                    continue  # it has gone, or is a link to nothing
                found[f"/{path}"] = DeviceNode(
                    _account(about.st_uid),
                    _group(about.st_gid),
                    f"{stat.S_IMODE(about.st_mode):04o}",
                    os.access(place, os.R_OK | os.W_OK),
                )
        return found

    def python(self) -> ThisPython:
        is_venv = sys.prefix != sys.base_prefix
        settings = _text(Path(sys.prefix) / "pyvenv.cfg")
        sees = re.search(r"^include-system-site-packages\s*=\s*true", settings, re.M | re.I)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        return ThisPython(
            version, sys.prefix, is_venv, not is_venv or sees is not None, platform.machine()
        )

    def packages(self, *names: str) -> tuple[Installed, ...]:
        """All installations of these packages; one may be there twice, below several folders."""
        found = []
        for each in metadata.distributions():
            name = str(each.metadata["Name"] or "").lower().replace("_", "-")
            if name in names:
                found.append(Installed(name, each.version, str(each.locate_file(""))))
        return tuple(dict.fromkeys(found))

    def probe(self) -> Probe | str:
        """What driver, CUDA runtime and TensorRT say; or how the process that tried them ended."""
        try:
            done = subprocess.run(
                command("edged.doctor.probe"), capture_output=True, timeout=PROBE_S, check=False
            )
            return msgspec.json.decode(done.stdout.rpartition(b"\n")[2], type=Probe)
        except subprocess.TimeoutExpired:
            return f"has not ended within {PROBE_S:.0f} s"
        except msgspec.DecodeError:
            how = f"signal {-done.returncode}" if done.returncode < 0 else done.returncode
            return f"has ended by {how}" if done.returncode < 0 else f"has ended with status {how}"

    def directory(self, path: str, purpose: str) -> KeptFiles:
        place = self.tree.root / path.lstrip("/")
        refusal = ""
        try:
            check_directory("device.cache_dir", str(place), purpose)
        except EdgedError as error:
            refusal = str(error)
        sizes = list(_sizes(place))
        return KeptFiles(place.is_dir(), sum(sizes), len(sizes), refusal)


def _sizes(folder: Path) -> Iterable[int]:
    """The sizes of all files below a folder, as far as this account may look."""
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                yield (Path(place) / name).lstat().st_size
            except OSError:
                continue


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

"""A throw-away machine: the real systemd as PID 1 in namespaces of its own, over this root.

Needs root. The box sees this machine's files through an overlay, so it can write anywhere and
changes nothing; it has no network but its own loopback, and its processes end with it. Knows
nothing of edged.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TypeVar

import psutil

_BOOT = Path(__file__).with_name("boot.sh")
_SYSTEMD = Path("/lib/systemd/systemd")
_TOOLS = ("bash", "nsenter", "setpriv", "unshare")
_CGROUPS = Path("/sys/fs/cgroup")
_NOT_CONTROLLERS = {"rw", "ro", "xattr", "clone_children", "noprefix", "nsdelegate"}
_LOOK_S = 0.02

T = TypeVar("T")


def wait_for(what: str, look: Callable[[], T | None], timeout_s: float) -> T:
    """The first true value of `look`. Fails with `what` if there is none in time."""
    deadline = monotonic() + timeout_s
    pause = threading.Event()
    while not (value := look()):
        if monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        pause.wait(_LOOK_S)
    return value


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One of the host's cgroup hierarchies: what to mount it with, and where it is."""

    options: str
    path: Path


def hierarchies() -> tuple[Hierarchy, ...]:
    """Those that systemd needs or can use, of version 1 and 2."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        path, (kind, _, options) = Path(before.split()[4]), after.split()
        if kind == "cgroup2":
            found.append(Hierarchy("cgroup2", path))
        elif kind == "cgroup":
            controllers = [o for o in options.split(",") if o not in _NOT_CONTROLLERS]
            # A group of version 1's cpuset takes no process before it is given processors.
            if "cpuset" not in controllers:
                named = controllers[0].startswith("name=")
                found.append(Hierarchy(",".join(["none"] * named + controllers), path))
    return tuple(h for h in found if h.path.is_relative_to(_CGROUPS))


def obstacle() -> str | None:
    """Why there can be no box here; None when there can."""
    if os.geteuid() != 0:
        return "a box with its own systemd needs root"
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"a box with its own systemd needs {', '.join(missing)}"
    if not _SYSTEMD.exists():
        return f"a box with its own systemd needs {_SYSTEMD} (Debian package systemd)"
    own = [h.path for h in hierarchies() if h.options == "none,name=systemd" or h.path == _CGROUPS]
    if not own or not os.access(own[0], os.W_OK):
        return "a box with its own systemd needs a writable cgroup hierarchy for it"
    allowed = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True)
    if allowed.returncode:
        return f"a box with its own systemd needs namespaces: {allowed.stderr.decode().strip()}"
    return None


class Box:
    """One boot, from `start` to `close`. `binds`: host directories by where the box sees them."""

    def __init__(self, directory: Path, binds: Mapping[str, Path]) -> None:
        self._directory = directory
        self._binds = dict(binds)
        self._groups = [h.path / f"edged-box-{os.getpid()}" for h in hierarchies()]
        self._unshare: subprocess.Popen[bytes] | None = None
        self._init: psutil.Process | None = None

    def start(self, timeout_s: float = 30.0) -> Box:
        """Boot, and wait for the end of it."""
        for group in self._groups:
            group.mkdir()
        join = 'for group in $1; do echo 0 >"$group/cgroup.procs"; done; shift; exec "$@"'
        binds = [str(item) for where, source in self._binds.items() for item in (source, where)]
        log = self._directory / "boot.log"
        with log.open("wb") as output:
            self._unshare = subprocess.Popen(
                ["bash", "-c", join, "join", " ".join(map(str, self._groups)),
                 # Whatever happens to the tests, the box does not outlive them.
                 "setpriv", "--pdeathsig=KILL", "unshare", "--kill-child=KILL",
                 "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup",
                 "bash", str(_BOOT), str(self._directory), self._mounts(), *binds],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            wait_for("systemd is up in its box", self._is_up, timeout_s)
        except AssertionError as error:
            self.close()
            raise AssertionError(f"{error}; {log.read_text()}") from None
        return self

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the box, as its root."""
        done = subprocess.run(
            ["nsenter", "--all", "--target", str(self._pid), "--wd=/", *command],
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}: {done.stderr}")
        return done

    def path(self, inside: str) -> Path:
        """A path of the box as the tests see it; sockets can be connected to."""
        return Path(f"/proc/{self._pid}/root{inside}")

    def write(self, inside: str, text: str) -> None:
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def processes(self, *words: str) -> list[psutil.Process]:
        """Those in the box whose command line has all of `words`, with the host's ids."""
        assert self._init is not None
        found = []
        for process in self._init.children(recursive=True):
            try:
                if set(words) <= set(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                pass
        return found

    def close(self) -> None:
        """Pull the plug, and leave nothing behind."""
        if self._unshare is not None:
            if self._init is not None:
                self._init.send_signal(signal.SIGKILL)  # the kernel ends the rest of the box
            else:
                self._unshare.kill()
            self._unshare.wait()
        for group in self._groups:
            below = [Path(folder) for folder, _, _ in os.walk(group, topdown=False)]
            for folder in below:
                wait_for(f"{folder} is empty", lambda folder=folder: _removed(folder), 5.0)

    @property
    def _pid(self) -> int:
        assert self._init is not None, "the box is not started"
        return self._init.pid

    def _mounts(self) -> str:
        return "\n".join(f"{h.options} {h.path}" for h in hierarchies())

    def _is_up(self) -> bool:
        assert self._unshare is not None
        if self._unshare.poll() is not None:
            raise AssertionError("the box did not boot")
        if self._init is None:
            children = psutil.Process(self._unshare.pid).children()
            self._init = children[0] if children else None
            return False
        if self._init.name() != "systemd":
            return False
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in ("running", "degraded")


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False  # the kernel is still at the end of its processes
    return True

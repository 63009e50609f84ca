"""The daemon installed in a box as docs/operations.md says, with the unit and config of this tree.

The one thing that differs is where the packages come from: the environment that runs the tests is
shown to the box, so nothing is downloaded and every Python that the tests run on is tried.
"""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import psutil

from edged.client import Client
from tests.systemd.box import Box, wait_for

TREE = Path(__file__).parents[2]
PREFIX = "/opt/edged"
SOURCE = "/usr/src/edged"
SOCKET = "/run/edged/edged.sock"
ADMIN_SOCKET = "/run/edged/edged.admin"
CONFIG = "/etc/edged/edged.toml"
UNIT = "/etc/systemd/system/edged.service"
STORE = "/var/lib/edged/store"
STATE = "/var/lib/edged/administration.json"

START_LIMIT = 3

# Waiting is short here; everything else is as shipped.
_DROP_IN = """\
[Unit]
StartLimitBurst={start_limit}

[Service]
WatchdogSec=2
RestartSec=100ms
Environment={environment}
"""


def lay_out(directory: Path) -> Mapping[str, Path]:
    """Make a virtual environment for PREFIX in `directory`; what to bind into the box, and where.

    The unit hides the home directories, where a Python of one's own often lies, so the interpreter
    is shown elsewhere.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = directory / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    directory.chmod(0o755)  # pytest makes it private, and the daemon is not root
    (directory / "bin").mkdir()
    (directory / "packages").mkdir()
    home = _interpreter()
    (directory / "bin" / "python").symlink_to(f"{home}/bin/{version}")
    (directory / "pyvenv.cfg").write_text(f"home = {home}/bin\n")
    (packages / "environment.pth").write_text(f"{PREFIX}/packages\n")
    shutil.copytree(TREE / "edged", packages / "edged")
    script = directory / "bin" / "edged"
    script.write_text(
        f"#!{PREFIX}/bin/python\nfrom edged.cli import main\nraise SystemExit(main())\n"
    )
    script.chmod(0o755)
    binds = {
        SOURCE: TREE,
        PREFIX: directory,
        f"{PREFIX}/packages": Path(sysconfig.get_paths()["purelib"]),
    }
    if home != sys.base_prefix:
        binds[home] = Path(sys.base_prefix)
    return binds


def _interpreter() -> str:
    return "/usr" if sys.base_prefix == "/usr" else "/opt/python"


class Installation:
    """The daemon in its box: the unit, its processes, its journal and its socket."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.environment = {"LD_LIBRARY_PATH": f"{_interpreter()}/lib"}

    def install(self, store: Path) -> None:
        """Run the commands of docs/operations.md, but those that need a network."""
        manual = (TREE / "docs" / "operations.md").read_text()
        commands = re.search(r"^```sh install$(.*?)^```$", manual, re.DOTALL | re.MULTILINE)
        assert commands is not None
        self.box.run("bash", "-euc", f"cd {SOURCE}\n{commands[1]}")
        environment = " ".join(f"{name}={value}" for name, value in self.environment.items())
        drop_in = _DROP_IN.format(start_limit=START_LIMIT, environment=environment)
        self.box.write(f"{UNIT}.d/test.conf", drop_in)
        self.box.run("systemctl", "daemon-reload")
        shutil.copytree(store, self.box.path(STORE))

    def configure(self, text: str) -> None:
        self.box.write(CONFIG, text)

    # --- the unit -----------------------------------------------------------------------------

    def stop(self) -> None:
        """Back to the beginning, whatever a test has done."""
        self.systemctl("kill", "--signal=KILL", "edged", check=False)
        self.systemctl("stop", "edged")
        self.systemctl("reset-failed", "edged", check=False)  # the count of starts, too
        self.configure((TREE / "configs/edged.toml").read_text())

    def systemctl(self, *command: str, check: bool = True) -> str:
        return self.box.run("systemctl", *command, check=check).stdout

    def show(self, *names: str) -> dict[str, str]:
        """Properties of the unit by name."""
        lines = self.systemctl("show", "edged", f"--property={','.join(names)}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def invocation(self) -> str:
        """The id of this run of the unit; a restart is another."""
        return self.show("InvocationID")["InvocationID"]

    def journal(self, *options: str, invocation: str | None = None) -> list[str]:
        """What the daemon itself has written in its present run, or in another: by the journal's
        own protocol, or on standard error.
        """
        run = f"_SYSTEMD_INVOCATION_ID={invocation or self.invocation()}"
        return self._journal(*options, run)

    def verdicts(self) -> list[str]:
        """What systemd has said of the unit."""
        return self._journal("UNIT=edged.service")

    def worker_pid(self) -> int:
        """As the box numbers it."""
        pid = self.box.run("systemctl", "show", "edged", "--property=MainPID", "--value").stdout
        return int(self.box.run("pgrep", "--parent", pid.strip()).stdout)

    def wait_for_state(self, state: str, timeout_s: float = 30.0) -> None:
        """Until the unit is `active`, `inactive` or `failed`."""
        wait_for(
            f"edged is {state}",
            lambda: self.show("ActiveState")["ActiveState"] == state,
            timeout_s,
        )

    def _journal(self, *matches: str) -> list[str]:
        self.box.run("journalctl", "--sync")
        return self.box.run("journalctl", "--output=cat", *matches).stdout.splitlines()

    # --- its processes --------------------------------------------------------------------------

    def fronts(self) -> list[psutil.Process]:
        return self.box.processes(f"{PREFIX}/bin/edged", "serve")

    def workers(self) -> list[psutil.Process]:
        return self.box.processes("-m", "edged.device")

    def front(self) -> psutil.Process:
        (front,) = self.fronts()
        return front

    def worker(self) -> psutil.Process:
        (worker,) = self.workers()
        return worker

    # --- its clients --------------------------------------------------------------------------

    def endpoint(self) -> str:
        """Of the daemon's socket, from outside the box."""
        return f"ipc://{self.box.path(SOCKET)}"

    def client(self, **options: object) -> Client:
        return Client(self.endpoint(), **options)  # type: ignore[arg-type]

    def edged(self, *arguments: str, group: str | None = None) -> str:
        """Run the `edged` command in the box: as root, or as a nobody in `group`."""
        return self._run(f"{PREFIX}/bin/edged", *arguments, group=group)

    def python(self, script: str, *, group: str | None = None) -> str:
        """Run a script of a client there, likewise.

        Isolated (-I): Python 3.13.0 fails to import numpy where it cannot read the working
        directory's name, as in the box, and would otherwise look there for modules.
        """
        return self._run(f"{PREFIX}/bin/python", "-I", "-c", script, group=group)

    def _run(self, *command: str, group: str | None) -> str:
        who = ["setpriv", "--reuid=65534", "--clear-groups", f"--regid={group}"] if group else []
        environment = [f"{name}={value}" for name, value in self.environment.items()]
        return self.box.run(*who, "env", *environment, *command).stdout

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.fake_daemon import FakeDaemon
from tests.colors import write_store
from tests.daemon.live import Daemon

NODE = Path(__file__).parent / "node"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    """A daemon that runs; stopped at the end."""
    daemon = FakeDaemon(f"ipc://{tmp_path}/edged.sock")
    daemon.start()
    yield daemon
    daemon.stop()


@pytest.fixture(scope="session")
def real_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """`edged serve` with the tasks of tests.colors."""
    folder = tmp_path_factory.mktemp("real")
    daemon = Daemon(folder, write_store(folder / "store"))
    daemon.wait_for("ready: ")
    yield daemon
    assert daemon.stop() == 0
    daemon.close()


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the client, its packages installed as the lock file says."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("needs Node.js: node and npm are not both on the PATH")
    home = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "edged.mjs", "infer.mjs", "many.mjs"):
        shutil.copy(NODE / name, home)
    # The packages bring their binaries along: none of their scripts has to run.
    install = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=100,
    )
    if install.returncode:
        pytest.skip(f"npm ci did not work here: {install.stderr.strip()[-300:]}")
    return [node, str(home / "infer.mjs")]

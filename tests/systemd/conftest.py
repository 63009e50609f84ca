from __future__ import annotations

import pytest

from tests.colors import write_store
from tests.systemd.box import Box, obstacle
from tests.systemd.installation import Installation, lay_out


@pytest.fixture(scope="session")
def installation(tmp_path_factory):
    """One boot with the daemon installed and not running."""
    if (reason := obstacle()) is not None:
        pytest.skip(reason)
    binds = lay_out(tmp_path_factory.mktemp("opt"))
    box = Box(tmp_path_factory.mktemp("box"), binds)
    box.start()
    try:
        installed = Installation(box)
        installed.install(write_store(tmp_path_factory.mktemp("store")))
        yield installed
    finally:
        box.close()


@pytest.fixture
def stopped(installation):
    """The daemon as after a boot at which it was not started."""
    yield installation
    installation.stop()


@pytest.fixture
def serving(stopped):
    """The daemon, serving."""
    stopped.systemctl("start", "edged")
    return stopped

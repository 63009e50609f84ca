from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.fake_daemon import FakeDaemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    """A daemon that runs; stopped at the end."""
    daemon = FakeDaemon(f"ipc://{tmp_path}/edged.sock")
    daemon.start()
    yield daemon
    daemon.stop()

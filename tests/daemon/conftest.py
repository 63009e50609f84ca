from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.colors import write_store
from tests.daemon.live import Daemon


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture
def start(tmp_path: Path, store: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons; they end with the test."""
    started: list[Daemon] = []

    def one(*, store: Path = store, **options: Any) -> Daemon:
        started.append(Daemon(tmp_path, store, **options))
        return started[-1]

    yield one
    for daemon in started:
        daemon.close()

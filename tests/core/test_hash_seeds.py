"""Decisions do not depend on how Python orders sets, which differs from process to process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.core.test_recordings import RECORDINGS

REPLAY = """
import sys
from pathlib import Path
from edged.observe.recording import replay
print(sum(replay(Path(path)) for path in sys.argv[1:]))
"""


@pytest.mark.parametrize("seed", ["0", "1"])
def test_recorded_runs_are_decided_again_with_any_hash_seed(seed):
    done = subprocess.run(
        [sys.executable, "-c", REPLAY, *map(str, RECORDINGS)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1000

"""The daemon that the demo starts ends with the demo, however the demo ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edged.client import Client
from tests.colors import picture, write_store

ROOT = Path(__file__).resolve().parents[2]

# A demo without its models: it starts the daemon, and is in the middle of its requests.
DEMO = """
import itertools
import signal
import sys
from pathlib import Path
import numpy as np
from edged.client import Client
from tools.demo.daemon import Daemon

# Whoever started the tests may have had these ignored, as nohup does, and that is inherited.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
with Daemon(Path(sys.argv[1])) as daemon, Client(daemon.endpoint) as client:
    print(daemon.pid, flush=True)
    image = np.zeros((300, 300, 3), np.uint8)
    for _ in client.infer_many(itertools.repeat(image), "color"):
        pass
"""


def gone(pidfd: int) -> bool:
    readable, _, _ = select.select([pidfd], [], [], 20)
    os.close(pidfd)
    return bool(readable)


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda s: s.name
)
def test_the_daemon_and_its_worker_end_with_the_demo_and_the_next_one_starts(
    how: signal.Signals, tmp_path: Path
) -> None:
    write_store(tmp_path / "store")
    with subprocess.Popen(
        [sys.executable, "-c", DEMO, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        front = psutil.Process(int(demo.stdout.readline()))
        (worker,) = front.children()
        deaths = [os.pidfd_open(process.pid) for process in (front, worker)]
        try:
            demo.send_signal(how)
            assert demo.wait(30) != 0
            assert all([gone(death) for death in deaths])
        finally:
            for process in (demo, front, worker):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
    with subprocess.Popen(
        [sys.executable, "-c", DEMO, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as demo:
        try:
            assert demo.stdout is not None
            assert demo.stdout.readline()
            with Client(f"ipc://{tmp_path}/edged.sock") as client:
                best = client.infer(picture(250, 20, 10), "color", top_k=1)["color"].classes[0][0]
            assert best.label == "red"
        finally:
            demo.kill()
